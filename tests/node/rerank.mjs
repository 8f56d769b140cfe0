// Logits of an artifact folder by transformers.js: node rerank.mjs FOLDER < {"query", "passages"} > [logit, ...]
import { readFileSync } from "node:fs";
import { basename, dirname, resolve } from "node:path";
import { AutoModelForSequenceClassification, AutoTokenizer, env } from "@huggingface/transformers";

const folder = resolve(process.argv[2]);
env.allowRemoteModels = false;
env.localModelPath = dirname(folder) + "/";
const { query, passages } = JSON.parse(readFileSync(0, "utf8"));
const tokenizer = await AutoTokenizer.from_pretrained(basename(folder));
// "fp32" is its name for onnx/model.onnx, whatever is in it.
const model = await AutoModelForSequenceClassification.from_pretrained(basename(folder), { dtype: "fp32", device: "cpu" });
const inputs = tokenizer(passages.map(() => query), { text_pair: passages, padding: true, truncation: true });
const { logits } = await model(inputs);
console.log(JSON.stringify(Array.from(logits.data)));

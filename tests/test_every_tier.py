"""A miniature of every tier's kind of student: its folder goes unchanged through every tool that people have."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import WORDS
from flashranker import Reranker
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from export.artifact import stage_artifact
from export.cls_graph import export_first_token
from recipes.rivals import SYSTEMS, Model
from training.student import build_student
from training.t5_student import train_tokenizer

QUERY = "python sort list"
PASSAGES = [" ".join((WORDS * 3)[start : start + 3 + start * 2]) for start in range(12)]
TEXTS = [f"Query: Document: {' '.join(WORDS[start : start + 9])}" for start in range(len(WORDS))]
MAX_LENGTH = 48
NODE = Path(__file__).parent / "node"
STUDENTS = ("classifier", "similarity", "T5", "T5 from scratch")


def t5_checkpoint(folder: Path) -> Path:
    tokenizer = train_tokenizer(TEXTS, size=300)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0,
        feed_forward_proj="gated-gelu", initializer_factor=2.0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tiny_checkpoint: Path, bi_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """A student's checkpoint and the folder that is made of it, once each."""
    root = tmp_path_factory.mktemp("tiers")
    made: dict[str, Model] = {}

    def make(kind: str) -> Model:
        if kind in made:
            return made[kind]
        name = kind.replace(" ", "-")
        checkpoint = tiny_checkpoint
        if kind != "classifier":
            base = {
                "similarity": lambda: bi_encoder, "T5": lambda: t5_checkpoint(root / "t5"),
                "T5 from scratch": lambda: "scratch",
            }[kind]()  # fmt: skip
            checkpoint = root / f"{name}-checkpoint"
            build_student(str(base), checkpoint, texts=TEXTS)
        graph = export_first_token(checkpoint, root / f"{name}.onnx").path
        folder = stage_artifact(checkpoint, graph, root / name, name=name, tier="small", max_length=MAX_LENGTH)
        made[kind] = Model(name, folder, checkpoint, MAX_LENGTH)
        return made[kind]

    return make


@pytest.mark.parametrize("kind", STUDENTS)
@pytest.mark.parametrize("system", [*SYSTEMS, "optimum"])
def test_the_folder_loads_everywhere_with_our_scores(system: str, kind: str, models: Callable[[str], Model]) -> None:
    model = models(kind)
    before = {path: path.stat().st_mtime_ns for path in model.folder.rglob("*")}
    expected = Reranker(model.folder, threads=1).score(QUERY, PASSAGES)
    assert np.ptp(expected) > 0.1
    found = by_optimum(model) if system == "optimum" else SYSTEMS[system](model, 1)(QUERY, PASSAGES)
    if system == "flashrank":  # it knows no raw logits
        expected = 1 / (1 + np.exp(-expected))
    np.testing.assert_allclose(found, expected, atol=1e-3, rtol=0)
    assert {path: path.stat().st_mtime_ns for path in model.folder.rglob("*")} == before


def by_optimum(model: Model) -> np.ndarray:
    """Logits by optimum's own class, tokenized by transformers' own tokenizer."""
    network = ORTModelForSequenceClassification.from_pretrained(model.folder, subfolder="onnx", file_name="model.onnx")
    tokens = AutoTokenizer.from_pretrained(model.folder)(
        [QUERY] * len(PASSAGES), PASSAGES, padding=True, truncation="only_second", return_tensors="pt"
    )
    return network(**tokens).logits[:, 0].numpy()


@pytest.mark.skipif(not (NODE / "node_modules").is_dir(), reason="`make tests/node/.installed` installs it, with npm")
@pytest.mark.parametrize("kind", ["classifier", "similarity"])
def test_the_folder_ranks_in_transformers_js(kind: str, models: Callable[[str], Model]) -> None:
    """Not the T5s: it knows no classifier of that architecture."""
    model = models(kind)
    expected = Reranker(model.folder, threads=1).score(QUERY, PASSAGES)
    asked = json.dumps({"query": QUERY, "passages": PASSAGES})
    command = ["node", str(NODE / "rerank.mjs"), str(model.folder)]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", STUDENTS)
def test_the_folder_keeps_the_rules_of_text_embeddings_inference(kind: str, models: Callable[[str], Model]) -> None:
    """What its router checks before it serves a reranker: router/src/lib.rs and backends/ort/src/lib.rs."""
    folder = models(kind).folder
    config = json.loads((folder / "config.json").read_text())
    (architecture,) = config["architectures"]
    assert architecture.endswith("Classification")
    assert config["id2label"] == {"0": "LABEL_0"}
    assert config["label2id"] == {"LABEL_0": 0}
    assert all(type(config[name]) is int for name in ("hidden_size", "num_hidden_layers", "max_position_embeddings"))
    assert config["max_position_embeddings"] >= MAX_LENGTH
    limits = json.loads((folder / "sentence_bert_config.json").read_text())
    assert limits["max_seq_length"] == MAX_LENGTH
    assert type(limits["do_lower_case"]) is bool
    session = onnxruntime.InferenceSession(str(folder / "onnx/model.onnx"))
    (output,) = session.get_outputs()
    assert (output.name, output.type) == ("logits", "tensor(float)")
    assert {"input_ids", "attention_mask"} <= {one.name for one in session.get_inputs()}
    tokens = json.loads((folder / "tokenizer.json").read_text())
    assert (tokens["padding"], tokens["truncation"]) == (None, None)

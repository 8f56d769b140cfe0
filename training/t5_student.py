"""T5 students: any T5, FLAN-T5 or mT5 checkpoint as RankT5's encoder, or a small one that starts from nothing."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PretrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast, T5TokenizerFast

from training.data import InputError
from training.t5_ranker import T5Ranker, T5RankerConfig

CHECKPOINTS = ("t5", "mt5")
PROMPTS = ("Query:", "Document:")  # as RankT5 was trained to read them
VOCABULARY = 8192
SCRATCH_MAX_LENGTH = 512
# What a CPU trains in minutes; T5 v1.1's proportions.
SCRATCH = {"d_model": 256, "d_kv": 64, "num_heads": 4, "d_ff": 512, "num_layers": 2, "feed_forward_proj": "gated-gelu"}


def t5_student(folder: Path, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> T5Ranker:
    """The encoder of a T5 checkpoint with a fresh head; `tokenizer` gets RankT5's prompt, in place.

    Raises InputError when the tokenizer has no fast form, or the checkpoint lacks the encoder's weights.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InputError(f"{folder} has no fast tokenizer: expected tokenizer.json, convert it first")
    set_prompt(tokenizer)
    settings = {**config.to_dict(), "dropout_rate": 0.0, "classifier_dropout": 0.0, "model_type": "t5_ranker"}
    model, report = T5Ranker.from_pretrained(
        folder, config=T5RankerConfig(**settings), output_loading_info=True, torch_dtype=torch.float32
    )
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("classifier."))
    if missing:
        raise InputError(f"{folder} lacks {missing[0]} (of {len(missing)} weights): expected a T5 checkpoint")
    return model


def set_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    """Write "Query: ... Document: ..." into a tokenizer's template of pairs, and "Query: ..." into that of one text.

    The prompt's tokens stand there one by one by their own names, because some runtimes look each up in the vocabulary.
    """
    backend = tokenizer.backend_tokenizer
    query, document = (
        [backend.id_to_token(token) for token in backend.encode(prompt, add_special_tokens=False).ids]
        for prompt in PROMPTS
    )
    end = str(tokenizer.eos_token)
    names = dict.fromkeys([*query, *document, end])
    content = json.loads(backend.to_str())

    def special(tokens: Sequence[str]) -> list[dict]:
        return [{"SpecialToken": {"id": token, "type_id": 0}} for token in tokens]

    def text(name: str) -> list[dict]:
        return [{"Sequence": {"id": name, "type_id": 0}}]

    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [*special(query), *text("A"), *special([end])],
        "pair": [*special(query), *text("A"), *special(document), *text("B"), *special([end])],
        "special_tokens": {name: {"id": name, "ids": [backend.token_to_id(name)], "tokens": [name]} for name in names},
    }
    backend.post_processor = Tokenizer.from_str(json.dumps(content)).post_processor


def scratch_student(texts: Sequence[str]) -> tuple[T5Ranker, PreTrainedTokenizerFast]:
    """A small T5 of random weights, `similar`, and a Unigram tokenizer of the texts' own pieces.

    Raises InputError where the texts have too few words for any vocabulary.
    """
    tokenizer = train_tokenizer(texts)
    config = T5RankerConfig(
        similar=True, vocab_size=len(tokenizer), dropout_rate=0.0, classifier_dropout=0.0, num_labels=1,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, **SCRATCH,
    )  # fmt: skip
    return T5Ranker(config), tokenizer


def train_tokenizer(texts: Sequence[str], size: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """T5's kind of tokenizer (Unigram over words that begin with a mark), lower-casing, trained on the texts."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits()]
    )
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=special, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", backend.token_to_id("</s>"))]
    )
    return T5TokenizerFast(
        tokenizer_object=backend, extra_ids=0, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        model_max_length=SCRATCH_MAX_LENGTH,
    )  # fmt: skip

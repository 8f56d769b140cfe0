"""Every architecture that recipes.export takes: the runtime gives PyTorch's logits, int8 ranks alike; no others."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import WORDS, make_tokenizer
from flashranker import Reranker
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedModel,
)

from export.artifact import positions_of, stage_artifact
from export.cls_graph import export_first_token, random_inputs
from export.one_logit import ARCHITECTURES, check_architecture, least_bytes, load_one_logit
from export.parity import encode_requests, torch_logits
from export.quantize import quantize_int8
from export.to_onnx import ExportError, load_checkpoint
from recipes.export import check_size
from training.data import InputError
from training.student import build_student, save_checkpoint

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
         "max_position_embeddings": 80, "initializer_range": 0.2}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "electra": {"embedding_size": 32},
    # As all published ones have.
    **{kind: {"type_vocab_size": 1} for kind in ("camembert", "roberta", "xlm-roberta")},
    "deberta-v2": {
        "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 16,
        "norm_rel_ebd": "layer_norm", "share_att_key": True, "max_relative_positions": -1, "type_vocab_size": 0,
    },
    "modernbert": {
        "global_attn_every_n_layers": 2, "local_attention": 16, "initializer_cutoff_factor": 3.0,
        "reference_compile": False,
    },
}  # fmt: skip
REQUESTS = [
    (
        f"{WORDS[i]} {WORDS[i + 7]}",
        [" ".join(WORDS[(i + j * step) % len(WORDS)] for step in range(1, 3 + 2 * j)) for j in range(1, 9)],
    )
    for i in range(24)
]
OWN_RANKERS = ("similarity_ranker", "t5_ranker")  # they have tests of their own
STOCK = [kind for kind in ARCHITECTURES if kind not in OWN_RANKERS]


def make_classifier(kind: str, folder: Path, labels: int = 1) -> Path:
    """A random classifier of this architecture, wide enough that logits differ by whole units, and its tokenizer."""
    folder.mkdir(parents=True)
    tokenizer = make_tokenizer(folder)
    torch.manual_seed(3)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep")}
    config = AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), num_labels=labels, **ids, **(SMALL | OWN.get(kind, {}))
    )
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name.lower():
                parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def exported(model: PreTrainedModel, source: Path, folder: Path) -> tuple[Path, Path]:
    """The checkpoint of one logit, and the fp32 folder that the runtime opens."""
    checkpoint = folder / "checkpoint"
    save_checkpoint(model, AutoTokenizer.from_pretrained(source), checkpoint)
    graph = export_first_token(checkpoint, folder / "fp32.onnx").path
    return checkpoint, stage_artifact(checkpoint, graph, folder / "staged", name="x", tier="small", max_length=64)


@pytest.mark.parametrize("kind", STOCK)
def test_the_runtime_gives_pytorchs_logits_and_int8_ranks_alike(kind: str, tmp_path: Path) -> None:
    source = make_classifier(kind, tmp_path / "source")
    checkpoint, staged = exported(load_one_logit(source), source, tmp_path)
    encoded = encode_requests(staged, REQUESTS, 64)
    expected = torch_logits(load_checkpoint(checkpoint), encoded, progress=False)
    ranker = Reranker(staged, threads=1)
    found = [ranker.score(query, passages) for query, passages in REQUESTS]
    assert np.abs(np.concatenate(found) - np.concatenate(expected)).max() < 1e-4
    assert np.concatenate(expected).std() > 0.05  # what is nearly constant would agree by itself
    ids = [query for query, passages in REQUESTS for _ in passages]
    pairs = [pair for request in encoded for pair in request]
    result = quantize_int8(
        tmp_path / "fp32.onnx", tmp_path / "int8.onnx", pairs, ids, limit_bytes=10**7, target_tau=0.9
    )
    assert result["reached"], result["rungs"]
    stage_artifact(checkpoint, tmp_path / "int8.onnx", tmp_path / "int8", name="x", tier="small", max_length=64)
    int8 = Reranker(tmp_path / "int8", threads=1)
    error = np.concatenate([int8.score(query, passages) for query, passages in REQUESTS]) - np.concatenate(expected)
    assert 0 < error.std() < 0.3 * np.concatenate(expected).std()


@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta-v2", "modernbert"])
def test_two_labels_become_one_logit_of_the_same_probability(kind: str, tmp_path: Path) -> None:
    source = make_classifier(kind, tmp_path / "source", labels=2)
    before = AutoModelForSequenceClassification.from_pretrained(source, attn_implementation="eager").eval()
    checkpoint, staged = exported(load_one_logit(source), source, tmp_path)
    ranker = Reranker(staged, threads=1)
    for query, passages in REQUESTS[:4]:
        (encoded,) = encode_requests(staged, [(query, passages)], 64)
        for logit, pair in zip(ranker.score(query, passages), encoded, strict=True):
            inputs = {name: torch.from_numpy(value) for name, value in pair.items()}
            if getattr(before.config, "type_vocab_size", 0) < 2:
                del inputs["token_type_ids"]
            with torch.no_grad():
                probability = before(**inputs).logits.softmax(1)[0, 1]
            assert 1 / (1 + np.exp(-float(logit))) == pytest.approx(float(probability), abs=2e-6)
    assert load_checkpoint(checkpoint).config.num_labels == 1


def test_what_cannot_be_exported_is_refused_before_any_work(tmp_path: Path) -> None:
    three = make_classifier("bert", tmp_path / "three", labels=3)
    with pytest.raises(ExportError, match="has 3 labels, expected 1, or 2"):
        check_architecture(three)
    headless = tmp_path / "headless"
    headless.mkdir()
    tokenizer = make_tokenizer(headless)
    BertModel(BertConfig(vocab_size=len(tokenizer), **SMALL)).save_pretrained(headless)
    tokenizer.save_pretrained(headless)
    with pytest.raises(ExportError, match="has BertModel, expected a sequence classifier"):
        check_architecture(headless)
    gpt = tmp_path / "gpt"
    gpt.mkdir()
    make_tokenizer(gpt).save_pretrained(gpt)
    AutoConfig.for_model("gpt2", architectures=["GPT2ForSequenceClassification"]).save_pretrained(gpt)
    with pytest.raises(ExportError, match="is a gpt2, expected one of bert, camembert"):
        check_architecture(gpt)
    with pytest.raises(ExportError, match="can't be read as a model"):
        check_architecture(tmp_path)


@pytest.mark.parametrize("kind", STOCK)
def test_no_tokenizer_and_no_model_at_all_are_refused_too(kind: str, tmp_path: Path) -> None:
    source = make_classifier(kind, tmp_path / "source")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        (source / name).unlink(missing_ok=True)
    with pytest.raises(ExportError, match=r"has no tokenizer that can be read .*: save a fast tokenizer there"):
        check_architecture(source)
    with pytest.raises(InputError, match="can't be loaded as a one-logit encoder with a fast tokenizer"):
        build_student(str(source), tmp_path / "student")
    (source / "config.json").write_text("[]")
    with pytest.raises(ExportError, match="can't be read as a model"):
        check_architecture(source)


def test_the_least_size_of_published_models_by_hand() -> None:
    # Words, positions and types by halves; 12 layers; LayerNorm; the head. BAAI/bge-reranker-base, which fits no tier.
    wide = AutoConfig.for_model(
        "xlm-roberta", vocab_size=250002, max_position_embeddings=514, type_vocab_size=1, num_labels=1
    )
    layer = 4 * (768**2 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    assert least_bytes(wide) == (250002 + 514 + 1) * 384 + 12 * layer + 2 * 768 + 768**2 + 768 + 769
    # cross-encoder/ms-marco-MiniLM-L12-v2, which is of the tier small.
    narrow = AutoConfig.for_model(
        "bert", vocab_size=30522, hidden_size=384, intermediate_size=1536, num_hidden_layers=12, num_labels=1
    )
    layer = 4 * (384**2 + 384) + 2 * 384 * 1536 + 1536 + 384 + 4 * 384
    assert least_bytes(narrow) == (30522 + 512 + 2) * 192 + 12 * layer + 2 * 384 + 384**2 + 384 + 385
    check_size(narrow, "narrow", "small")
    with pytest.raises(
        ExportError, match=r"narrow takes 27 MB or more in int8, and --tier nano has 5: choose --tier s"
    ):
        check_size(narrow, "narrow", "nano")
    with pytest.raises(ExportError, match=r"wide takes 182 MB or more .* --tier large has 150: distil a smaller one"):
        check_size(wide, "wide", "large")


def test_types_that_the_tokenizer_does_not_hand_out_are_not_given_by_the_artifact(tmp_path: Path) -> None:
    source = make_classifier("bert", tmp_path / "source")
    settings = json.loads((source / "tokenizer_config.json").read_text()) | {
        "model_input_names": ["input_ids", "attention_mask"]
    }
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    _, staged = exported(load_one_logit(source), source, tmp_path)
    query, passages = REQUESTS[3]
    tokenizer = AutoTokenizer.from_pretrained(source)
    inputs = tokenizer([query] * len(passages), passages, padding=True, return_tensors="pt")
    assert "token_type_ids" not in inputs
    with torch.no_grad():
        expected = load_one_logit(source)(**inputs).logits[:, 0].numpy()
    assert np.abs(Reranker(staged, threads=1).score(query, passages) - expected).max() < 1e-4


def test_padding_may_be_the_last_of_the_ids(tmp_path: Path) -> None:
    source = make_classifier("bert", tmp_path / "source")
    model = load_one_logit(source)
    model.config.pad_token_id = model.config.vocab_size - 1
    inputs = random_inputs(model)
    padded = inputs["attention_mask"] == 0
    assert (inputs["input_ids"][padded] == model.config.pad_token_id).all()
    assert (inputs["input_ids"][~padded] != model.config.pad_token_id).all()


@pytest.mark.parametrize(("kind", "positions"), [("bert", 64), ("roberta", 62), ("mpnet", 62), ("distilbert", 64)])
def test_positions_begin_behind_padding_in_some_families(kind: str, positions: int) -> None:
    config = AutoConfig.for_model(kind, max_position_embeddings=64, pad_token_id=1)
    assert positions_of(config) == positions


def test_a_head_that_is_not_in_the_weights_is_no_reranker(tmp_path: Path) -> None:
    source = make_classifier("bert", tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(ExportError, match=r"lacks the weights classifier\.weight \(of 1\)"):
        load_one_logit(source)
    (source / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ExportError, match="has no weights that can be read"):
        load_one_logit(source)

"""Every architecture that recipes.export takes: the runtime gives PyTorch's logits, int8 ranks alike; no others."""

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

from export.artifact import stage_artifact
from export.cls_graph import export_first_token
from export.one_logit import ARCHITECTURES, check_architecture, load_one_logit
from export.parity import encode_requests, torch_logits
from export.quantize import quantize_int8
from export.to_onnx import ExportError, load_checkpoint
from training.student import save_checkpoint

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

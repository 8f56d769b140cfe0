"""What a server says of its models, and what it counts of their work."""

from collections.abc import Mapping, Sequence
from threading import Event
from typing import Any

import numpy as np

from flashranker import __version__
from flashranker.artifact import MODEL_NAME
from flashranker.cascade import Cascade
from flashranker.reranker import Reranker
from flashranker.server.models import Ranker


def first_ranker(ranker: Ranker) -> Reranker:
    """The ranker itself, or the first of a cascade, which reads every passage."""
    return ranker.rankers[0] if isinstance(ranker, Cascade) else ranker


def too_long(ranker: Ranker, query: str, texts: Sequence[str], stop: Event) -> str:
    """What no model may cut, and one of them would: the longest pair and its limit, in a sentence; "" for none.

    Raises pool.Stopped soon after `stop` is set, as `read_tokens` does.
    """
    for one in ranker.rankers if isinstance(ranker, Cascade) else [ranker]:
        longest = max(one.count_tokens(query, texts, stop), default=0)
        if one.long == "cut" and longest > one.max_length:
            return f"a pair has {longest} tokens, expected at most {one.max_length}: let it be cut"
    return ""


def read_tokens(ranker: Ranker, query: str, texts: Sequence[str], stop: Event) -> int:
    """Tokens of all pairs that the first model read, special tokens included."""
    first = first_ranker(ranker)
    lengths = first.count_tokens(query, texts, stop)
    return int((np.minimum(lengths, first.max_length) if first.long == "cut" else lengths).sum())


def describe(models: Mapping[str, Ranker], running: int, passages: int) -> dict[str, Any]:
    """The answer of /info: text-embeddings-inference's fields for the first model, and each model under "models"."""
    name = next(iter(models))
    first = first_ranker(models[name])
    return {
        "model_id": name,
        "model_sha": _sha256(first),
        "model_dtype": "int8" if first.manifest.quantization else "unknown",
        "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        "max_concurrent_requests": running,
        "max_input_length": first.max_length,
        "max_client_batch_size": passages,
        "version": __version__,
        "models": [_describe(name, ranker) for name, ranker in models.items()],
    }


def _describe(name: str, ranker: Ranker) -> dict[str, Any]:
    if isinstance(ranker, Cascade):
        return {
            "name": name,
            "cascade": [_describe(one.manifest.name, one) for one in ranker.rankers],
            "keep": ranker.keep,
        }
    manifest = ranker.manifest
    size = manifest.files[MODEL_NAME].bytes if MODEL_NAME in manifest.files else None
    return {
        "name": name, "tier": manifest.tier, "max_length": ranker.max_length, "threads": ranker.threads,
        "bytes": size, "sha256": _sha256(ranker), "notices": manifest.notices,
    }  # fmt: skip


def _sha256(ranker: Reranker) -> str | None:
    entry = ranker.manifest.files.get(MODEL_NAME)
    return entry.sha256 if entry else None

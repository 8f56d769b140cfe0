"""Requests and answers as Cohere, Jina and text-embeddings-inference (TEI) write them."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flashranker.errors import InputError
from flashranker.inputs import check_count, encodable
from flashranker.reranker import Hit

Shape = Literal["rerank", "tei"]


@dataclass(frozen=True)
class Wanted:
    """One request of whatever shape: what to rank, and how its answer is written."""

    shape: Shape
    model: str | None  # None: the first one that is served
    query: str
    passages: list[Any]
    top_n: int | None
    with_text: bool
    raw: bool  # logits for scores
    may_cut: bool


def read_wanted(body: Any, path: str) -> Wanted:
    """Understand a decoded JSON body: with `texts` it is TEI's, with `documents` Cohere's or Jina's.

    /v1/rerank is Jina's path, whose answers repeat the documents unless told not to; Cohere's never do. What a
    client sends beside these fields is ignored, as those services do, but for a TEI truncation from the left.
    Query and passages themselves are checked where they are ranked. Raises InputError.
    """
    if not isinstance(body, Mapping):
        raise InputError(f"the body is {_kind(body)}, expected an object with query and documents, or query and texts")
    names = [name for name in ("documents", "texts") if name in body]
    if "query" not in body or len(names) != 1:
        raise InputError(
            f"the body has {', '.join(map(repr, body))[:100] or 'no fields'}, expected 'query' with 'documents' "
            "(Cohere, Jina) or with 'texts' (text-embeddings-inference)"
        )
    passages = body[names[0]]
    if not isinstance(passages, list):
        raise InputError(f"{names[0]} is {_kind(passages)}, expected a list of texts")
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise InputError(f"model is {_kind(model)}, expected a name: leave it out for the first one")
    if names == ["documents"]:
        top_n = body.get("top_n")
        return Wanted(
            "rerank", model, body["query"], passages, None if top_n is None else check_count(top_n, "top_n", 1),
            _flag(body, "return_documents", path == "/v1/rerank"), raw=False, may_cut=True,
        )  # fmt: skip
    direction = body.get("truncation_direction", "right")
    if str(direction).lower() != "right":
        raise InputError(f"truncation_direction is {direction!r:.40}, expected 'right': passages are cut at their end")
    return Wanted(
        "tei", model, body["query"], passages, None, _flag(body, "return_text", False),
        _flag(body, "raw_scores", False), _flag(body, "truncate", True),
    )  # fmt: skip


def write_answer(wanted: Wanted, model: str, hits: Sequence[Hit], tokens: int) -> Any:
    """The answer, ready for JSON, best passage first; `tokens` is how many the model read."""
    if wanted.shape == "tei":
        return [
            {"index": hit.index, "score": hit.logit if wanted.raw else hit.score}
            | ({"text": text_of(hit.passage)} if wanted.with_text else {})
            for hit in hits
        ]
    return {
        "id": str(uuid.uuid4()),
        "model": model,
        "object": "list",
        "results": [
            {"index": hit.index, "relevance_score": hit.score}
            | ({"document": {"text": text_of(hit.passage)}} if wanted.with_text else {})
            for hit in hits
        ],
        "usage": {"total_tokens": tokens, "prompt_tokens": tokens},
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
    }


def write_error(message: str, kind: str) -> dict[str, str]:
    """An error under every name that the three services' clients look for: message, detail, error."""
    return {"message": message, "detail": message, "error": message, "error_type": kind}


def text_of(passage: Any) -> str:
    """The text of a passage as it was ranked, of a string or a mapping with "text"; UTF-8 has no lone surrogates."""
    return encodable(passage if isinstance(passage, str) else passage["text"])


def _flag(body: Mapping[str, Any], name: str, default: bool) -> bool:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InputError(f"{name} is {value!r:.40}, expected true or false")
    return value


def _kind(value: Any) -> str:
    return "null" if value is None else f"of type {type(value).__name__}"

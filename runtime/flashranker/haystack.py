"""Rerank inside Haystack: `pipeline.add_component("reranker", FlashRankerComponent("artifacts/nano", top_k=5))`."""

import os
from dataclasses import replace
from typing import Any

from flashranker.cascade import Cascade
from flashranker.errors import InputError
from flashranker.framework import as_ranker, check_top, not_installed
from flashranker.inputs import check_items
from flashranker.reranker import Hit, Reranker

try:
    from haystack import Document, component, default_from_dict, default_to_dict
except ImportError as error:
    raise not_installed("haystack", error) from error


@component
class FlashRankerComponent:
    """The `top_k` (None: all) documents most relevant to a query, best first, read by their content.

    What comes back are copies whose score is the calibrated probability, with "logit" in their meta; the documents
    given are not changed. `model` is the path of an artifact folder, which is loaded by `warm_up` or the first `run`
    with these settings of `Reranker`; or a Reranker or Cascade, which has its own and can't be saved with a pipeline.

    Raises the errors of `Reranker`, as its methods do.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Reranker | Cascade,
        top_k: int | None = None,
        *,
        threads: int | None = None,
        max_length: int | None = None,
        long: str = "cut",
        foreign: bool = False,
    ) -> None:
        self.top_k = check_top(top_k, "top_k")
        self._settings = {"threads": threads, "max_length": max_length, "long": long, "foreign": foreign}
        self._path = os.fspath(model) if isinstance(model, (str, os.PathLike)) else None
        self._ranker = None if self._path is not None else as_ranker(model)
        if self._ranker and self._settings != {"threads": None, "max_length": None, "long": "cut", "foreign": False}:
            raise InputError(f"settings came with {model!r:.40}, expected them with a path only: give them to Reranker")

    def warm_up(self) -> None:
        """Load the model, if that was not done before."""
        self._loaded()

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` needs; raises InputError if the component was made of a Reranker or Cascade."""
        if self._path is None:
            raise InputError("the model was given as an object, expected a path to save: pass the folder and settings")
        return default_to_dict(self, model=self._path, top_k=self.top_k, **self._settings)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "FlashRankerComponent":
        """The component that `to_dict` described."""
        return default_from_dict(cls, data)

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, list[Document]]:
        """As `Reranker.rerank`; `top_k` here goes before the component's own."""
        given, count = self._checked(documents, top_k)
        return {"documents": _ranked(given, self._loaded().rerank(query, _texts(given), count))}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """As `Reranker.arerank`: the event loop goes on meanwhile."""
        given, count = self._checked(documents, top_k)
        return {"documents": _ranked(given, await self._loaded().arerank(query, _texts(given), count))}

    def _checked(self, documents: list[Document], top_k: int | None) -> tuple[list[Document], int | None]:
        return check_items(documents, Document, "documents"), check_top(top_k, "top_k") or self.top_k

    def _loaded(self) -> Reranker | Cascade:
        if self._ranker is None:
            self._ranker = as_ranker(self._path, **self._settings)
        return self._ranker


def _texts(documents: list[Document]) -> list[str | None]:
    return [document.content for document in documents]  # a document without text is refused as such a passage


def _ranked(documents: list[Document], hits: list[Hit]) -> list[Document]:
    return [_scored(documents[hit.index], hit) for hit in hits]


def _scored(document: Document, hit: Hit) -> Document:
    return replace(document, score=hit.score, meta={**document.meta, "logit": hit.logit})

"""Rerank inside LangChain: `FlashRankerCompressor("artifacts/nano", top_n=5)` goes wherever a compressor does."""

import os
from collections.abc import Sequence
from typing import Any

from flashranker.cascade import Cascade
from flashranker.framework import as_ranker, check_top, not_installed
from flashranker.inputs import check_items
from flashranker.reranker import Hit, Reranker

try:
    from langchain_core.callbacks import Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
except ImportError as error:
    raise not_installed("langchain", error) from error


class FlashRankerCompressor(BaseDocumentCompressor, arbitrary_types_allowed=True):
    """The `top_n` (None: all) documents most relevant to a query, best first, read by their page_content.

    What comes back are copies whose metadata also has "relevance_score", the calibrated probability, and "logit"; the
    documents given are not changed. `model` is the path of an artifact folder, or a Reranker or Cascade.

    Raises the errors of `Reranker`, as its methods do.
    """

    ranker: Reranker | Cascade
    top_n: int | None = None

    # Checked here and not by pydantic, whose ValidationError would hide the named errors.
    def __init__(self, model: str | os.PathLike[str] | Reranker | Cascade, top_n: int | None = None) -> None:
        fields: dict[str, Any] = {"top_n": check_top(top_n, "top_n"), "ranker": as_ranker(model)}
        super().__init__(**fields)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """As `Reranker.rerank`."""
        given = check_items(documents, Document, "documents")
        return _ranked(given, self.ranker.rerank(query, _texts(given), self.top_n))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """As `Reranker.arerank`: the event loop goes on meanwhile."""
        given = check_items(documents, Document, "documents")
        return _ranked(given, await self.ranker.arerank(query, _texts(given), self.top_n))


def _texts(documents: list[Document]) -> list[str]:
    return [document.page_content for document in documents]


def _ranked(documents: list[Document], hits: list[Hit]) -> list[Document]:
    return [_scored(documents[hit.index], hit) for hit in hits]


def _scored(document: Document, hit: Hit) -> Document:
    metadata = {**document.metadata, "relevance_score": hit.score, "logit": hit.logit}
    return document.model_copy(update={"metadata": metadata})

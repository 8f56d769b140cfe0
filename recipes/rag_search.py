"""The search of `recipes.rag`: BM25 and vectors, their ranks fused, the best candidates put in order by a reranker."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import bm25s
import numpy as np
from flashranker import Reranker

from recipes.rag_documents import Chunk, searched_text
from recipes.rag_index import Index
from training.first_stage import bm25_search, fuse


@dataclass(frozen=True)
class Found:
    """A candidate of the first stage; ranks count from 1, and are None in a list that does not have it."""

    chunk: Chunk
    bm25_rank: int | None
    vector_rank: int | None


@dataclass(frozen=True)
class Candidate:
    """A candidate with its rank before and after reranking, both from 1, and what the reranker says of it."""

    found: Found
    before: int
    after: int
    probability: float
    logit: float
    truncated: bool

    @property
    def moved(self) -> int:
        """Places that reranking moved it up; below 0 for down."""
        return self.before - self.after


def search(
    index: Index, bm25: bm25s.BM25, encode: Callable[[str], np.ndarray], question: str, depth: int
) -> list[Found]:
    """At most `depth` candidates, best first: the first `depth` of BM25 and of the embeddings' cosine, fused.

    `bm25` holds the searched texts of the index, in its order; `encode` gives a question's embedding (1, dimension).
    Of chunks with the same text the first one stays.
    """
    words = list(bm25_search(bm25, question, depth))
    _, nearest = index.vectors.search(encode(question), min(depth, len(index.chunks)))
    meanings = nearest[0].tolist()
    bm25_ranks, vector_ranks = ({row: rank for rank, row in enumerate(rows, start=1)} for rows in (words, meanings))
    found: dict[str, Found] = {}
    for row in fuse([words, meanings]):
        text = searched_text(index.chunks[row]).casefold()
        found.setdefault(text, Found(index.chunks[row], bm25_ranks.get(row), vector_ranks.get(row)))
    return list(found.values())[:depth]


def rerank(ranker: Reranker, question: str, found: Sequence[Found]) -> list[Candidate]:
    """The candidates in the reranker's order. Raises flashranker.InputError for a question that it can't take."""
    hits = ranker.rerank(question, [searched_text(one.chunk) for one in found])
    return [
        Candidate(found[hit.index], hit.index + 1, after, hit.score, hit.logit, hit.truncated)
        for after, hit in enumerate(hits, start=1)
    ]

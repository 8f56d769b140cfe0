"""Several rankers in a row: a fast one orders all passages, a better one only the best of them."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from flashranker.errors import InputError
from flashranker.inputs import check_count
from flashranker.reranker import Hit, Reranker


class Cascade:
    """`rankers[0]` orders all passages; each further one orders anew the best `keep` that the one before it left.

    `Cascade([nano, small], keep=25)` reads 25 passages with `small`, however many there are. `keep` is one number
    for all, or one for each ranker after the first, none larger than the one before. A hit has the logit and the
    probability of the last ranker that read it, so scores fall where one ranker's passages end and may rise behind.

    Raises InputError for fewer than two rankers or such a `keep`.
    """

    def __init__(self, rankers: Sequence[Reranker], *, keep: int | Sequence[int] = 25) -> None:
        if isinstance(rankers, Reranker) or len(rankers) < 2 or not all(isinstance(one, Reranker) for one in rankers):
            raise InputError(f"rankers is {rankers!r}, expected two or more Reranker, the fastest first: pass a list")
        counts = [keep] * (len(rankers) - 1) if isinstance(keep, int) else list(keep)
        if len(counts) != len(rankers) - 1 or counts != sorted(counts, reverse=True):
            raise InputError(f"keep is {keep!r}, expected a number, or {len(rankers) - 1} numbers that do not grow")
        self.rankers = list(rankers)
        self.keep = [check_count(count, "keep", 1) for count in counts]

    def rerank(self, query: str, passages: Iterable[Any], top_n: int | None = None) -> list[Hit]:
        """As `Reranker.rerank`; passages that no later ranker read come behind those it read."""
        count = None if top_n is None else check_count(top_n, "top_n", 1)
        hits = self.rankers[0].rerank(query, passages)
        for ranker, keep in zip(self.rankers[1:], self.keep, strict=True):
            hits = _reordered(hits, keep, ranker.rerank(query, [hit.passage for hit in hits[:keep]]))
        return hits[:count]

    async def arerank(self, query: str, passages: Iterable[Any], top_n: int | None = None) -> list[Hit]:
        """As `Reranker.arerank`."""
        count = None if top_n is None else check_count(top_n, "top_n", 1)
        hits = await self.rankers[0].arerank(query, passages)
        for ranker, keep in zip(self.rankers[1:], self.keep, strict=True):
            hits = _reordered(hits, keep, await ranker.arerank(query, [hit.passage for hit in hits[:keep]]))
        return hits[:count]


def _reordered(hits: list[Hit], keep: int, best: list[Hit]) -> list[Hit]:
    """The first `keep` hits in the order of `best`, which counts among them; the others as they were."""
    return [replace(hit, index=hits[hit.index].index) for hit in best] + hits[keep:]

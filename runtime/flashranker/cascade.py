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
        given = list(rankers) if isinstance(rankers, Iterable) else [rankers]
        if len(given) < 2 or not all(isinstance(one, Reranker) for one in given):
            raise InputError(f"rankers is {rankers!r}, expected two or more Reranker, the fastest first: pass a list")
        wanted = keep if isinstance(keep, Sequence) else [keep] * (len(given) - 1)
        counts = [check_count(count, "keep", 1) for count in wanted]
        if len(counts) != len(given) - 1 or counts != sorted(counts, reverse=True):
            raise InputError(f"keep is {keep!r}, expected a number, or {len(given) - 1} numbers that do not grow")
        self.rankers, self.keep = given, counts

    def rerank(self, query: str, passages: Iterable[Any], top_n: int | None = None) -> list[Hit]:
        """As `Reranker.rerank`; passages that no later ranker read come behind those it read."""
        count = self._checked(query, top_n)
        hits = self.rankers[0].rerank(query, passages)
        for ranker, keep in zip(self.rankers[1:], self.keep, strict=True):
            hits = _reordered(hits, keep, ranker.rerank(query, [hit.passage for hit in hits[:keep]]))
        return hits[:count]

    async def arerank(self, query: str, passages: Iterable[Any], top_n: int | None = None) -> list[Hit]:
        """As `Reranker.arerank`."""
        import asyncio  # here, and not above: see reranker.py

        count = await asyncio.to_thread(self._checked, query, top_n)  # a long query takes a while to tokenize
        hits = await self.rankers[0].arerank(query, passages)
        for ranker, keep in zip(self.rankers[1:], self.keep, strict=True):
            hits = _reordered(hits, keep, await ranker.arerank(query, [hit.passage for hit in hits[:keep]]))
        return hits[:count]

    def _checked(self, query: str, top_n: int | None) -> int | None:
        """`top_n`; raises InputError, before anything runs, for one or a query that some ranker refuses."""
        for ranker in self.rankers:
            ranker.check_query(query)
        return None if top_n is None else check_count(top_n, "top_n", 1)


def _reordered(hits: list[Hit], keep: int, best: list[Hit]) -> list[Hit]:
    """The first `keep` hits in the order of `best`, which counts among them; the others as they were."""
    return [replace(hit, index=hits[hit.index].index) for hit in best] + hits[keep:]

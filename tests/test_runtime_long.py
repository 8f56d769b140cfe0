"""Long passages: cut, or read in windows of which the best one counts."""

import asyncio
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import WORDS
from flashranker import InputError, Reranker
from flashranker.pairs import windows
from hypothesis import given
from hypothesis import strategies as st


@given(length=st.integers(0, 700), room=st.integers(4, 120))
def test_windows_cover_all_tokens_and_overlap_by_a_quarter(length: int, room: int) -> None:
    ids = list(range(length))
    parts = [part.tolist() for part in windows(np.arange(length), room)]
    assert sorted({token for part in parts for token in part}) == ids
    if length <= room:
        assert parts == [ids]
    assert all(len(part) == min(room, length) for part in parts)
    assert all(before[-1] - after[0] + 1 >= room // 4 for before, after in pairwise(parts))
    # One window fewer could not cover them with that overlap.
    step = room - room // 4
    assert len(parts) == 1 or (len(parts) - 2) * step + room < length


def test_a_cancelled_call_stops_between_the_windows_of_a_passage(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranker = Reranker(tiny_artifact, threads=1, max_length=32, long="maxp")
    ran, begun, run = [], threading.Event(), ranker._logit

    def slow(inputs: dict[str, np.ndarray]) -> float:
        ran.append(None)
        begun.set()
        time.sleep(0.02)
        return run(inputs)

    async def cancel() -> None:
        task = asyncio.create_task(ranker.arerank("lock", ["river " * 5000]))  # 238 windows
        while not begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    monkeypatch.setattr(ranker, "_logit", slow)
    asyncio.run(cancel())
    assert len(ran) < 20


def test_maxp_is_the_best_window_and_cut_is_the_first(tiny_artifact: Path) -> None:
    cut, best = (Reranker(tiny_artifact, threads=2, max_length=32, long=long) for long in ("cut", "maxp"))
    # [CLS] lock [SEP] passage [SEP]: 4 tokens around, so 28 fit; every word of WORDS is one token.
    words = (WORDS * 3)[:80]
    parts = [" ".join(part) for part in windows(np.array(words), 28)]
    alone = cut.score("lock", parts)
    assert len(parts) == 4
    assert best.score("lock", [" ".join(words)])[0] == alone.max() != alone[0]
    assert cut.score("lock", [" ".join(words)])[0] == alone[0]
    (hit,) = best.rerank("lock", [" ".join(words)])
    assert (hit.truncated, best.truncated_passages) == (False, 0)
    short = [" ".join(words[:28]), ""]
    assert best.score("lock", short).tolist() == cut.score("lock", short).tolist()


def test_an_unknown_way_is_named(tiny_artifact: Path) -> None:
    with pytest.raises(AttributeError):  # what the keys of cached scores hold can't change
        Reranker(tiny_artifact).long = "maxp"  # type: ignore[misc]
    with pytest.raises(InputError, match="long is 'split', expected one of cut, maxp"):
        Reranker(tiny_artifact, long="split")

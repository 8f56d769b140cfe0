"""`arerank`: the same hits, an event loop that goes on, and cancellation that ends the work."""

import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import WORDS
from flashranker import InputError, Reranker

PASSAGES = [f"{word} {other}" for word in WORDS[:6] for other in WORDS[6:12]]


def test_hits_are_those_of_rerank_for_many_at_once(tiny_artifact: Path) -> None:
    ranker = Reranker(tiny_artifact, threads=2)

    async def all_of_them() -> list:
        return await asyncio.gather(*(ranker.arerank(word, PASSAGES, top_n=3) for word in WORDS[:10]))

    assert asyncio.run(all_of_them()) == [ranker.rerank(word, PASSAGES, top_n=3) for word in WORDS[:10]]
    with pytest.raises(InputError, match="query is None"):
        asyncio.run(ranker.arerank(None, []))  # type: ignore[arg-type]


def test_a_cancelled_call_stops_and_the_next_one_works(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranker = Reranker(tiny_artifact, threads=2)
    expected = ranker.rerank("time", PASSAGES)
    ran, begun, go, run = [], threading.Event(), threading.Event(), ranker._logit

    def slow(inputs: dict[str, np.ndarray]) -> float:
        ran.append(None)
        begun.set()
        go.wait(20)
        return run(inputs)

    async def cancel() -> None:
        task = asyncio.create_task(ranker.arerank("time", PASSAGES * 10))
        while not begun.is_set():
            await asyncio.sleep(0.01)  # the loop is free meanwhile, or this would not be reached
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()

    with monkeypatch.context() as patch:
        patch.setattr(ranker, "_logit", slow)
        asyncio.run(cancel())  # waits for the call's own thread
    assert len(ran) <= ranker.threads  # of 360 pairs
    assert ranker.rerank("time", PASSAGES) == expected

"""The pool: jobs in order, calls in turns, an error or a stop ends a call and leaves the pool as it was."""

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flashranker import Reranker
from flashranker.pool import TURN, Pool, Stopped


def test_a_pool_that_is_told_to_stop_drops_what_has_not_begun() -> None:
    stop, done = threading.Event(), []

    def job(number: int) -> None:
        done.append(number)
        if number == 5:
            stop.set()

    with pytest.raises(Stopped):
        Pool(1).run_all(job, range(1000), stop)
    assert done == [0, 1, 2, 3, 4, 5]


def test_a_short_call_does_not_wait_for_a_long_one() -> None:
    pool, begun, queued, done = Pool(1), threading.Event(), threading.Event(), list[int]()

    def long(number: int) -> None:
        begun.set()
        assert queued.wait(30)
        done.append(number)

    with ThreadPoolExecutor(2) as callers:
        first = callers.submit(pool.run_all, long, range(50 * TURN))
        assert begun.wait(30)
        second = callers.submit(pool.run_all, done.append, [-1])
        while pool._get()._work_queue.empty():  # until it stands in the line
            pass
        queued.set()
        first.result(), second.result()
    assert done == [*range(TURN), -1, *range(TURN, 50 * TURN)]


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_error_ends_a_call_once_what_runs_has_ended(threads: int) -> None:
    pool, lock, ran = Pool(threads), threading.Lock(), list[int]()

    def job(number: int) -> None:
        with lock:
            ran.append(number)
        if number == 40:
            raise ValueError("the fortieth")
        if number > 40:
            time.sleep(0.001)  # or two threads could be through with all before the third says that it failed

    with pytest.raises(ValueError, match="the fortieth"):
        pool.run_all(job, range(10_000))
    seen = len(ran)
    assert 41 <= seen < 10_000
    pool.run_all(ran.append, [-1])
    assert len(ran) == seen + 1  # nothing of the first call ran on


def test_every_job_runs_once_on_all_threads() -> None:
    pool, together, names, done = Pool(3), threading.Barrier(3), set[str](), list[int]()

    def job(number: int) -> None:
        if number < 3:
            together.wait(30)  # or all three would not be there at once
        names.add(threading.current_thread().name)
        done.append(number)

    pool.run_all(job, range(10 * TURN))
    assert sorted(done) == list(range(10 * TURN))
    assert len(names) == 3


def test_nothing_of_a_call_stays_in_memory_once_it_has_ended() -> None:
    class Text(str):
        __slots__ = ("__weakref__",)

    pool, alive = Pool(2), list[weakref.ref[Text]]()
    gc.collect()
    gc.disable()  # what a cycle holds would stay until the collector runs
    try:
        for _ in range(3):
            texts = [Text(f"passage {number}") for number in range(3 * TURN)]
            alive += [weakref.ref(text) for text in texts]
            pool.run_all(lambda number, texts=texts: texts[number].upper(), range(len(texts)))  # type: ignore[misc]
            del texts
        pool.run_all(lambda number: None, range(4))  # a waiting thread holds its last job until the next
        assert sum(one() is not None for one in alive) == 0
    finally:
        gc.enable()


def test_the_memory_of_tokens_keeps_words_and_not_what_is_derived_from_them(tiny_artifact: Path) -> None:
    class Node(str):  # as the strings of parsed HTML, each of which holds its whole document
        __slots__ = ("__weakref__", "document")

    ranker, node, query = Reranker(tiny_artifact, threads=1), Node("bread and water"), Node("time")
    gone = weakref.ref(node), weakref.ref(query)
    assert ranker.rerank(query, [node])[0].passage is node
    assert ranker._tokens.get("bread and water") is not None
    del node, query
    gc.collect()
    assert [one() for one in gone] == [None, None]

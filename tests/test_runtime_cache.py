"""Scores kept: never another model's, setting's or pair's; bounded in memory, shared and crash-safe on disk."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import WORDS
from flashranker import CacheError, InputError, Reranker, ScoreCache, guard
from flashranker.cache import Recent, _prepare, score_key
from hypothesis import given
from hypothesis import strategies as st

PASSAGES = [f"{word} {other} bread" for word in WORDS[:5] for other in WORDS[5:9]]


@pytest.fixture(params=["memory", "disk"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> ScoreCache:
    return ScoreCache(tmp_path / "scores.sqlite" if request.param == "disk" else None)


def counting(ranker: Reranker, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the ranker runs from now on, one entry a pair."""
    ran, run = [], ranker._logit
    monkeypatch.setattr(ranker, "_logit", lambda inputs: (ran.append(inputs), run(inputs))[1])
    return ran


def test_known_pairs_are_not_run_and_have_the_same_bits(
    tiny_artifact: Path, cache: ScoreCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, ranker = Reranker(tiny_artifact, threads=2), Reranker(tiny_artifact, threads=2, cache=cache)
    ran = counting(ranker, monkeypatch)
    assert ranker.score("time", PASSAGES).tobytes() == plain.score("time", PASSAGES).tobytes()
    assert len(ran) == len(PASSAGES)
    more = [*PASSAGES, "coffee", *PASSAGES, "coffee"]
    requests = [("time", more), ("water", PASSAGES[:2]), ("time", []), ("time", ["coffee"])]
    assert ranker.rerank_many(requests) == plain.rerank_many(requests)
    assert len(ran) <= len(PASSAGES) + 4  # coffee, perhaps for both requests, and two for water
    again = Reranker(tiny_artifact, threads=1, cache=cache)
    assert again.rerank("time", more) == plain.rerank("time", more)


def test_cut_passages_stay_marked(tiny_artifact: Path, cache: ScoreCache) -> None:
    ranker = Reranker(tiny_artifact, threads=2, cache=cache)
    given = ["bread " * 90, "bread"]
    for times in (1, 2):
        assert [hit.index for hit in ranker.rerank("time", given) if hit.truncated] == [0]
        assert ranker.truncated_passages == times


def test_another_setting_is_another_key(
    tiny_artifact: Path, cache: ScoreCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = ["bread time " * 40]
    Reranker(tiny_artifact, cache=cache).score("water", long)
    for settings in ({"max_length": 32}, {"long": "maxp"}):
        ranker = Reranker(tiny_artifact, cache=cache, **settings)  # type: ignore[arg-type]
        ran = counting(ranker, monkeypatch)
        found = ranker.score("water", long)
        assert ran
        assert found == Reranker(tiny_artifact, **settings).score("water", long)  # type: ignore[arg-type]


@given(texts=st.lists(st.text(max_size=3), min_size=4, max_size=4), models=st.lists(st.binary(max_size=2), min_size=2))
def test_keys_tell_pairs_and_models_apart(texts: list[str], models: list[bytes]) -> None:
    first, second = (models[0], texts[0], texts[1]), (models[1], texts[2], texts[3])
    assert (score_key(*first) == score_key(*second)) == (first == second)
    assert score_key(b"m", "ab", "c") != score_key(b"m", "a", "bc")


def test_memory_keeps_what_was_used_last() -> None:
    recent: Recent[str, int] = Recent(10)
    for name, weight in (("a", 4), ("b", 4)):
        recent.put(name, weight, weight)
    assert recent.get("a") == 4  # now b is the oldest
    recent.put("c", 3, 3)
    assert [recent.get(name) for name in "abc"] == [4, None, 3]
    recent.put("d", 11, 11)
    assert [recent.get(name) for name in "acd"] == [4, 3, None]
    recent.put("a", 7, 7)  # replaced: its old weight no longer counts
    assert [recent.get(name) for name in "ac"] == [7, 3]
    small = ScoreCache(entries=2)
    small.put({b"1": (1.0, False), b"2": (2.0, True), b"3": (3.0, False)})
    assert small.get([b"1", b"2", b"3"]) == {b"2": (2.0, True), b"3": (3.0, False)}


def test_floats_come_back_bit_for_bit(cache: ScoreCache) -> None:
    values = np.random.default_rng(0).normal(size=1200).astype(np.float32)
    keys = [b"%d" % number for number in range(1200)]
    cache.put({key: (float(value), False) for key, value in zip(keys, values, strict=True)})
    found = cache.get(keys)
    assert np.array([found[key][0] for key in keys], np.float32).tobytes() == values.tobytes()


def write_many(path: str, worker: int) -> None:
    """Fill a cache from another process."""
    cache = ScoreCache(path)
    for number in range(50):
        cache.put({b"%d-%d" % (worker, number): (float(number), False)})


def test_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "scores.sqlite"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write_many, args=(str(path), worker)) for worker in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    found = ScoreCache(path).get([b"%d-%d" % (worker, number) for worker in range(3) for number in range(50)])
    assert len(found) == 150


def test_a_killed_writer_leaves_a_file_that_works(tmp_path: Path) -> None:
    path = tmp_path / "scores.sqlite"
    code = f"""
        from flashranker import ScoreCache
        cache = ScoreCache({str(path)!r})
        number = 0
        while True:
            cache.put({{b"%d" % number: (number / 2, False)}})
            number += 1
            print(number, flush=True)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        while int(process.stdout.readline()) < 200:
            pass
        os.kill(process.pid, signal.SIGKILL)
    cache = ScoreCache(path)
    assert cache.get([b"150"]) == {b"150": (75.0, False)}
    cache.put({b"new": (1.0, True)})
    assert cache.get([b"new"]) == {b"new": (1.0, True)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_scores_of_a_forked_child_outlive_its_parents_connection(tmp_path: Path) -> None:
    path = tmp_path / "scores.sqlite"
    code = f"""
        import os
        from flashranker import ScoreCache
        cache = ScoreCache({str(path)!r})
        cache.put({{b"before": (1.0, False)}})
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            assert cache._file is None  # SQLite: no connection may be carried across a fork
            assert cache.get([b"before"]) == {{b"before": (1.0, False)}}
            os.read(reading, 1)  # until the parent has let its own connection go
            for number in range(50):
                cache.put({{b"%d" % number: (2.0, False)}})
            os._exit(0)
        cache.put({{b"parent": (3.0, False)}})
        del cache
        os.write(writing, b"x")
        assert os.waitpid(child, 0)[1] == 0
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)
    found = ScoreCache(path).get([b"before", b"parent", *(b"%d" % number for number in range(50))])
    assert len(found) == 52


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_forked_while_other_threads_work_does_not_hang(tiny_artifact: Path) -> None:
    code = f"""
        import os, threading
        from flashranker import Reranker, ScoreCache
        ranker = Reranker({str(tiny_artifact)!r}, threads=2, cache=ScoreCache())
        busy = True
        def work():
            while busy:
                ranker._tokens.get("time")
                ranker._report(0, 0)
        threads = [threading.Thread(target=work) for _ in range(2)]
        [thread.start() for thread in threads]
        children = []
        for number in range(8):
            child = os.fork()
            if child == 0:
                ranker.score("time", ["bread", str(number)])
                os._exit(0)
            children.append(child)
        statuses = [os.waitpid(child, 0)[1] for child in children]
        busy = False
        assert statuses == [0] * 8, statuses
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)


def test_no_lock_is_made_while_a_fork_holds_them_all() -> None:
    """It would change what is gone through, and the exceptions of such hooks are printed and forgotten."""
    guard._hold()
    thread = threading.Thread(target=guard.Guard)
    try:
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
    finally:
        guard._release()
    thread.join(5)
    assert not thread.is_alive()


def test_a_cache_that_another_process_makes_meanwhile_is_no_other_applications(tmp_path: Path) -> None:
    """All orders of two processes' reads and writes, by threads that wait for each other between statements."""
    path = tmp_path / "scores.sqlite"
    file = sqlite3.connect(path)

    class Slow:
        """A connection that another one overtakes behind its first read."""

        def __init__(self) -> None:
            self.reads = 0

        def execute(self, statement: str) -> sqlite3.Cursor:
            found = file.execute(statement)
            self.reads += 1
            if self.reads == 1:
                row = found.fetchone()
                ScoreCache(path).put({b"key": (0.5, False)})
                return SimpleNamespace(fetchone=lambda: row)  # type: ignore[return-value]
            return found

        def __enter__(self) -> sqlite3.Connection:
            return file.__enter__()

        def __exit__(self, *error: object) -> None:
            file.__exit__(*error)  # type: ignore[arg-type]

    _prepare(Slow())  # type: ignore[arg-type]
    assert ScoreCache(path).get([b"key"]) == {b"key": (0.5, False)}


def test_threads_share_a_cache(cache: ScoreCache) -> None:
    def work(worker: int) -> int:
        for number in range(40):
            cache.put({b"%d-%d" % (worker, number): (1.0, False)})
        return len(cache.get([b"%d-%d" % (worker, number) for number in range(40)]))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [40] * 4


def test_what_is_no_cache_is_named(tiny_artifact: Path, tmp_path: Path) -> None:
    broken = tmp_path / "scores.sqlite"
    broken.write_bytes(b"not a database, but long enough to be read as one" * 40)
    for path in (broken, tmp_path / "no/such/folder/scores.sqlite"):
        with pytest.raises(CacheError, match=path.name):
            ScoreCache(path)
    assert broken.read_bytes().startswith(b"not a database")
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as file:
        file.execute("CREATE TABLE scores (user TEXT)")
    before = other.read_bytes()
    with pytest.raises(CacheError, match="another application"):
        ScoreCache(other)
    assert other.read_bytes() == before
    with pytest.raises(InputError, match=r"cache is 'scores\.db', expected a ScoreCache"):
        Reranker(tiny_artifact, cache="scores.db")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="entries is 0"):
        ScoreCache(entries=0)
    for path in (3, b"scores"):
        with pytest.raises(InputError, match=r"path is (3|b'scores'), expected that of a file"):
            ScoreCache(path)  # type: ignore[arg-type]
    with pytest.raises(CacheError, match="null"):
        ScoreCache("a\0b")

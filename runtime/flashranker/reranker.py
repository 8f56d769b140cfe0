"""Rerank passages for a query with an artifact folder, on a CPU."""

import logging
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flashranker.artifact import MANIFEST_NAME, SHORTEST_LENGTH, read_manifest, verify_files
from flashranker.errors import ArtifactError, InputError
from flashranker.inputs import Request, check_count, check_request, check_requests
from flashranker.pairs import frame_query, join, load_tokenizer
from flashranker.session import load_model
from flashranker.threads import available_threads

_MODEL, _TOKENIZER = "onnx/model.onnx", "tokenizer.json"

_logger = logging.getLogger("flashranker")


@dataclass(frozen=True)
class Hit:
    """One ranked passage."""

    index: int  # its position in the passages given
    score: float  # calibrated probability of relevance, 0 to 1
    logit: float  # the model's raw output
    passage: Any  # the very object given
    truncated: bool  # True if the passage was longer than the model reads, and its end was not seen


class Reranker:
    """A reranker, loaded from an artifact folder after checking its hashes. Safe to use from many threads.

    `threads` is how many pairs run side by side, in all calls together; by default the cores that this
    process may use (CPU affinity and cgroup quota). `max_length` (tokens of query and passage together) may
    be set below the artifact's own to save time.

    Each pair runs alone and unpadded, so its logit is the same, bit for bit, whatever else is ranked with
    it, in which order and on how many threads. Memory follows the tokens in flight (`threads` pairs), not
    the passages.

    Raises ModelNotFoundError, ArtifactError (FormatError for another format version) or InputError.
    """

    def __init__(
        self, model: str | os.PathLike[str], *, threads: int | None = None, max_length: int | None = None
    ) -> None:
        if not isinstance(model, (str, os.PathLike)):
            raise InputError(f"model is {model!r}, expected the path of an artifact folder: pass a string or Path")
        self.threads = available_threads() if threads is None else check_count(threads, "threads", 1)
        folder = Path(model)
        self.manifest = manifest = read_manifest(folder)
        longest = manifest.max_length
        self.max_length = (
            longest if max_length is None else check_count(max_length, "max_length", SHORTEST_LENGTH, longest)
        )
        for name in (_MODEL, _TOKENIZER):
            if name not in manifest.files:
                raise ArtifactError(f"{folder / MANIFEST_NAME} lists no {name}, expected it: export the artifact again")
        verify_files(folder, manifest)
        self._tokenizer = load_tokenizer(folder / _TOKENIZER)
        self._logit = load_model(folder / _MODEL)
        if read_manifest(folder) != manifest:
            raise ArtifactError(f"{folder} was replaced while it was read, expected it to stay: load it again")

        self.truncated_passages = 0  # passages cut so far, in all calls together
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._pool_process = 0
        self._score([check_request("a", ["a"])])  # a model of another output shape fails here, not in a search

    def rerank(self, query: str, passages: Iterable[Any], top_n: int | None = None) -> list[Hit]:
        """Return the `top_n` (default: all) best passages, best first; equal logits keep the order given.

        `passages` are strings or mappings with a "text"; an empty text is scored like any other. Lone
        surrogates are read as U+FFFD. Raises InputError, before anything runs, for anything else, an empty
        query, or a query that leaves less than a quarter of `max_length` to the passage.
        """
        return self._rerank([check_request(query, passages)], top_n)[0]

    def rerank_many(self, requests: Iterable[tuple[str, Iterable[Any]]], top_n: int | None = None) -> list[list[Hit]]:
        """Rerank several (query, passages), as `rerank` does each, with all threads busy across them."""
        return self._rerank(check_requests(requests), top_n)

    def score(self, query: str, passages: Iterable[Any]) -> np.ndarray:
        """Return the raw logits, float32 (n,), in the order given. Inputs and errors: see `rerank`."""
        (scored,) = self._score([check_request(query, passages)])
        return scored[0]

    def _rerank(self, requests: list[Request], top_n: int | None) -> list[list[Hit]]:
        count = None if top_n is None else check_count(top_n, "top_n", 1)
        scored = self._score(requests)
        results = []
        for request, (logits, cut) in zip(requests, scored, strict=True):
            best = np.argsort(-logits, kind="stable")[:count]
            results.append([self._hit(int(i), float(logits[i]), request.passages[i], bool(cut[i])) for i in best])
        return results

    def _hit(self, index: int, logit: float, passage: Any, truncated: bool) -> Hit:
        calibration = self.manifest.calibration
        return Hit(index, _sigmoid(calibration.a * logit + calibration.b), logit, passage, truncated)

    def _score(self, requests: list[Request]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return for each request its logits, float32 (n,), and which passages were cut, bool (n,)."""
        frames = [frame_query(self._tokenizer, request.query, self.max_length) for request in requests]
        logits = [np.empty(len(request.texts), dtype=np.float32) for request in requests]
        cut = [np.zeros(len(request.texts), dtype=bool) for request in requests]

        def run(job: tuple[int, int]) -> None:
            i, j = job
            inputs, cut[i][j] = join(self._tokenizer, frames[i], requests[i].texts[j])
            logits[i][j] = self._logit(inputs)

        jobs = [(i, j) for i, request in enumerate(requests) for j in range(len(request.texts))]
        # The longest first, so that no thread is left with a long one at the end while the others wait.
        jobs.sort(key=lambda job: len(requests[job[0]].texts[job[1]]), reverse=True)
        _run_all(self._executor(), run, jobs, 16 * self.threads)
        self._report(sum(int(flags.sum()) for flags in cut), len(jobs))
        return list(zip(logits, cut, strict=True))

    def _executor(self) -> ThreadPoolExecutor:
        with self._lock:
            # Threads do not survive a fork: a forked server would wait for ever on those of its parent.
            if self._pool is None or self._pool_process != os.getpid():
                self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="flashranker")
                self._pool_process = os.getpid()
            return self._pool

    def _report(self, truncated: int, passages: int) -> None:
        with self._lock:
            first = truncated > 0 and self.truncated_passages == 0
            self.truncated_passages += truncated
        if first:
            _logger.warning(
                "%d of %d passages were cut to fit max_length %d: see Hit.truncated (not logged again)",
                truncated, passages, self.max_length,
            )  # fmt: skip


def _run_all(
    pool: ThreadPoolExecutor,
    run: Callable[[tuple[int, int]], None],
    jobs: Sequence[tuple[int, int]],
    window: int,
) -> None:
    """Run all jobs, at most `window` of them queued, so that calls from several threads take turns."""
    pending: deque[Future[None]] = deque()
    try:
        for job in jobs:
            if len(pending) == window:
                pending.popleft().result()
            pending.append(pool.submit(run, job))
        while pending:
            pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _sigmoid(x: float) -> float:
    # exp of a large positive number would overflow: each branch takes the small one.
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))

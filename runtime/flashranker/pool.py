"""The threads that pairs run on: shared by all calls of a ranker, in turns, and made anew after a fork."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from flashranker.guard import Guard

Job = TypeVar("Job")
QUEUED = 16  # jobs a thread that one call may queue, so that calls from several threads take turns


class Stopped(Exception):
    """A call was told to stop before all of its jobs had run."""


class Pool:
    """`threads` threads; safe to use from many others. They start with the first job."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._lock = Guard()
        self._executor: ThreadPoolExecutor | None = None
        self._process = 0

    def run_all(self, run: Callable[[Job], None], jobs: Iterable[Job], stop: threading.Event | None = None) -> None:
        """Run all jobs, begun in their order, and wait for them; the first exception of one ends the call.

        Raises Stopped soon after `stop` is set: jobs that run are waited for, those that do not are dropped.
        """
        executor = self._get()
        pending: deque[Future[None]] = deque()

        def begin(job: Job) -> None:
            if stop is not None and stop.is_set():
                raise Stopped
            run(job)

        try:
            for job in jobs:
                if len(pending) == QUEUED * self.threads:
                    pending.popleft().result()
                pending.append(executor.submit(begin, job))
            while pending:
                pending.popleft().result()
        finally:
            running = [future for future in pending if not future.cancel()]
            for future in running:
                future.exception()

    def _get(self) -> ThreadPoolExecutor:
        with self._lock:
            # Threads do not survive a fork: a forked server would wait for ever on those of its parent.
            if self._executor is None or self._process != os.getpid():
                self._executor = ThreadPoolExecutor(self.threads, thread_name_prefix="flashranker")
                self._process = os.getpid()
            return self._executor

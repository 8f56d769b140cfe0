"""The threads that pairs run on: shared by all calls of a ranker, in turns, and made anew after a fork."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from flashranker.guard import Guard

Job = TypeVar("Job")
Turn = Callable[[Any], None]  # takes itself
TURN = 16  # jobs that a thread does for one call before it looks for another call's


class Stopped(Exception):
    """A call was told to stop before all of its jobs had run."""


def until(stop: threading.Event | None, parts: Iterable[Job]) -> Iterator[Job]:
    """The parts one by one; raises Stopped in place of the next one once `stop` is set."""
    for part in parts:
        if stop is not None and stop.is_set():
            raise Stopped
        yield part


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
        executor, waiting = self._get(), deque(jobs)
        turns: deque[Future[None]] = deque()

        # A thread takes jobs by itself: to be handed each one would cost as much as a tenth of a small model's run.
        # A turn is passed to itself, because a function that held itself would keep the call's texts in memory.
        def take_turn(turn: Turn) -> None:
            while True:
                for _ in until(stop, range(TURN)):
                    try:
                        job = waiting.popleft()
                    except IndexError:
                        return
                    run(job)
                if hand_out(turn):
                    return

        def hand_out(turn: Turn) -> bool:
            try:
                turns.append(executor.submit(turn, turn))
            except RuntimeError as error:
                # Once the main thread has ended no thread takes new work; the others go on with theirs all the same.
                if "cannot schedule" not in str(error):
                    raise
                return False
            return True

        try:
            if not all([hand_out(take_turn) for _ in range(min(self.threads, len(waiting)))]):
                take_turn(take_turn)
            while turns:
                turns.popleft().result()
        finally:
            waiting.clear()
            while turns:
                turn = turns.popleft()
                if not turn.cancel():
                    turn.exception()

    def _get(self) -> ThreadPoolExecutor:
        with self._lock:
            # Threads do not survive a fork: a forked server would wait for ever on those of its parent.
            if self._executor is None or self._process != os.getpid():
                self._executor = ThreadPoolExecutor(self.threads, thread_name_prefix="flashranker")
                self._process = os.getpid()
            return self._executor

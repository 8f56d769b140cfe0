"""Locks that survive a fork: a child copies locks as they are, and one that another thread held would never open."""

import os
import threading
from collections.abc import Callable
from weakref import WeakSet


class Guard:
    """A lock for `with`. It is held while the process forks, so that a child finds whole what it protects, and open.

    `before_fork` is called under it at each fork, to let go of what must not be carried across.
    """

    def __init__(self, before_fork: Callable[[], None] | None = None) -> None:
        self._before_fork = before_fork
        self._lock = threading.Lock()
        with _all:
            _guards.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


_all = threading.Lock()  # held through a fork too: no guard is made meanwhile, and no other thread forks
_guards: WeakSet[Guard] = WeakSet()
_held: list[Guard] = []


def _hold() -> None:
    _all.acquire()
    for guard in list(_guards):
        guard._lock.acquire()
        _held.append(guard)
        if guard._before_fork is not None:
            guard._before_fork()


def _release() -> None:
    while _held:
        _held.pop()._lock.release()
    _all.release()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_release)

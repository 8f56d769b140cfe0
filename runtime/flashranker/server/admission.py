"""How many requests are let in: some run, some wait, and the rest are told at once to come again."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager


class Full(Exception):
    """As many requests run and wait as may."""


class Admission:
    """Counts the requests of one event loop: at most `running` are ranked at once, and `waiting` more may be there.

    A request counts from before its body is read, so the memory of all bodies together is bounded too.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self.most, self.inside, self.running = running + waiting, 0, 0
        self._slots = asyncio.Semaphore(running)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be let in, or raise Full."""
        if self.inside >= self.most:
            raise Full
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait, first come first served, for one of the places to run."""
        async with self._slots:
            self.running += 1
            try:
                yield
            finally:
                self.running -= 1

"""What was computed before: bounded memory for any values, and scores in memory or in a file that processes share."""

import hashlib
import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from flashranker.errors import CacheError
from flashranker.inputs import check_count

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
Scored = tuple[float, bool]  # logit, and whether the passage was cut

BUSY_SECONDS = 10.0
KEYS_AT_ONCE = 500  # below the number of parameters that every SQLite takes


class Recent(Generic[Key, Value]):
    """The values used last, up to a total weight; safe from many threads."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._values: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._weight = 0
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        """The value, which then counts as used last, or None."""
        with self._lock:
            found = self._values.get(key)
            if found is None:
                return None
            self._values.move_to_end(key)
            return found[0]

    def put(self, key: Key, value: Value, weight: int = 1) -> None:
        """Keep a value; the least recently used go until the rest fits. One heavier than all is not kept."""
        with self._lock:
            old = self._values.pop(key, None)
            self._weight -= old[1] if old else 0
            if weight > self.capacity:
                return
            self._values[key] = (value, weight)
            self._weight += weight
            while self._weight > self.capacity:
                self._weight -= self._values.popitem(last=False)[1][1]


class ScoreCache:
    """Logits by the hash of model, query and passage; pass one to `Reranker(cache=...)`, or to several.

    Without a `path` the `entries` used last are kept in memory, about 250 bytes each. With one they are kept in that
    SQLite file, without a limit; any number of processes may share it, and a crash loses the last scores at most.

    Raises CacheError when the file can't be opened or is no such cache; later errors of the disk too.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, entries: int = 100_000) -> None:
        self.path = None if path is None else Path(path)
        self._recent: Recent[bytes, Scored] = Recent(check_count(entries, "entries", 1))
        self._lock = threading.Lock()
        self._file: sqlite3.Connection | None = None
        self._process = 0
        if self.path is not None:
            self.get([])

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Scored]:
        """What is known of these keys."""
        if self.path is None:
            return {key: found for key in keys if (found := self._recent.get(key)) is not None}
        known: dict[bytes, Scored] = {}
        with self._lock, _named(self.path):
            file = self._open()
            for start in range(0, len(keys), KEYS_AT_ONCE):
                part = keys[start : start + KEYS_AT_ONCE]
                marks = ",".join("?" * len(part))
                rows = file.execute(f"SELECT key, logit, cut FROM scores WHERE key IN ({marks})", part)
                known.update((bytes(key), (float(logit), bool(cut))) for key, logit, cut in rows)
        return known

    def put(self, scores: Mapping[bytes, Scored]) -> None:
        """Keep these."""
        if self.path is None:
            for key, scored in scores.items():
                self._recent.put(key, scored)
            return
        rows = [(key, logit, int(cut)) for key, (logit, cut) in scores.items()]
        with self._lock, _named(self.path), self._open() as transaction:
            transaction.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", rows)

    def _open(self) -> sqlite3.Connection:
        # A connection must not be carried across a fork.
        if self._file is None or self._process != os.getpid():
            file = sqlite3.connect(str(self.path), timeout=BUSY_SECONDS, check_same_thread=False)
            file.execute("PRAGMA journal_mode=WAL")  # readers and one writer at a time do not wait for each other
            file.execute("PRAGMA synchronous=NORMAL")
            file.execute(
                "CREATE TABLE IF NOT EXISTS scores (key BLOB PRIMARY KEY, logit REAL NOT NULL, cut INTEGER NOT NULL) "
                "WITHOUT ROWID"
            )
            self._file, self._process = file, os.getpid()
        return self._file


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into one that names the file."""
    try:
        yield
    except sqlite3.Error as error:
        raise CacheError(
            f"the score cache {path} failed ({error}): expected a file that a ScoreCache wrote, or none yet, where "
            "this process may write; remove it or name another"
        ) from error


def score_key(model: bytes, query: str, passage: str) -> bytes:
    """Hash of a model and two texts, each text preceded by its length: ("ab", "c") differs from ("a", "bc")."""
    digest = hashlib.blake2b(model, digest_size=16)
    for text in (query, passage):
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(encoded) + encoded)
    return digest.digest()

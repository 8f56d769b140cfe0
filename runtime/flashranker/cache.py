"""What was computed before: bounded memory for any values, and scores in memory or in a file that processes share."""

import hashlib
import os
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from flashranker.errors import CacheError, InputError
from flashranker.guard import Guard
from flashranker.inputs import check_count

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
Scored = tuple[float, bool]  # logit, and whether the passage was cut

APPLICATION_ID = 0x466C5231  # "FlR1", in the header of the file
BUSY_SECONDS = 10.0
KEYS_AT_ONCE = 500  # below the number of parameters that every SQLite takes


class Recent(Generic[Key, Value]):
    """The values used last, up to a total weight; safe from many threads."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._values: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._weight = 0
        self._lock = Guard()

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
        if path is not None and (not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str)):
            raise InputError(f"path is {path!r}, expected that of a file: pass None to keep scores in memory")
        self.path = None if path is None else Path(path)
        self._recent: Recent[bytes, Scored] = Recent(check_count(entries, "entries", 1))
        # SQLite forbids to carry a connection across a fork, even to close it there.
        self._lock = Guard(before_fork=self._close)
        self._file: sqlite3.Connection | None = None
        if self.path is not None:
            with self._lock, _named(self.path):
                self._open()

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
        if self._file is None:
            file = sqlite3.connect(str(self.path), timeout=BUSY_SECONDS, check_same_thread=False)
            try:
                _prepare(file)
            except BaseException:
                file.close()
                raise
            self._file = file
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _prepare(file: sqlite3.Connection) -> None:
    """Make an empty file a cache, or check that it is one; sqlite3.Error if it is something else."""
    # The tables first: another process that makes the cache between the two reads adds both at once.
    (tables,) = file.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (found,) = file.execute("PRAGMA application_id").fetchone()
    if found != APPLICATION_ID and tables:
        raise sqlite3.DatabaseError("it is the database of another application")
    if found != APPLICATION_ID or not tables:
        # Readers and one writer then do not wait for each other. Unlike other statements this one does not wait itself.
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                file.execute("PRAGMA journal_mode=WAL")
                break
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        with file:
            file.execute("BEGIN IMMEDIATE")
            file.execute(
                "CREATE TABLE IF NOT EXISTS scores (key BLOB PRIMARY KEY, logit REAL NOT NULL, cut INTEGER NOT NULL) "
                "WITHOUT ROWID"
            )
            file.execute(f"PRAGMA application_id={APPLICATION_ID}")
    file.execute("PRAGMA synchronous=NORMAL")
    file.execute("SELECT key, logit, cut FROM scores LIMIT 1").fetchone()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into one that names the file."""
    try:
        yield
    except (sqlite3.Error, ValueError) as error:  # ValueError: a name that no file can have
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

"""Rows of floats kept on disk under a hash of the text they were computed from, in Parquet shards.

A shard is written under a temporary name and renamed, so a killed run loses at most one shard; the next
run computes only what is missing.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from training.data import first_line

KEY_BYTES = 16
TEMPORARY_SUFFIX = ".tmp"
LOCK = ".lock"

# Given positions whose rows are missing: yields (positions, rows of shape (len(positions), width)).
Compute = Callable[[list[int]], Iterable[tuple[list[int], np.ndarray]]]


class RowError(ValueError):
    """A computed row that is not finite."""


def text_key(*texts: str) -> bytes:
    """Hash of a sequence of texts, each preceded by its length: ("ab", "c") differs from ("a", "bc")."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(encoded) + encoded)
    return digest.digest()


def cached_rows(folder: Path, keys: Sequence[bytes], compute: Compute) -> np.ndarray:
    """Rows (len(keys), width) float32 in the order of `keys`, read from `folder` or computed and kept there.

    `compute` gets the position of the first of every distinct key that is missing, and is not called when
    none is; each group of rows it yields becomes one shard at once. One process at a time works on a folder,
    others wait. A damaged shard is reported, removed and computed again.
    Raises RowError for a computed row that is not finite, OSError when the disk is full; neither leaves
    anything half-written.
    """
    if not keys:
        return np.zeros((0, 0), dtype=np.float32)
    with alone_in(folder):
        return _fill(folder, keys, compute)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make the folder and be the one process that works on it; others wait, and say so on standard error."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process that fills {folder}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fill(folder: Path, keys: Sequence[bytes], compute: Compute) -> np.ndarray:
    for stale in folder.glob(f"*{TEMPORARY_SUFFIX}"):  # left by a killed process: the lock is ours
        stale.unlink()
    first: dict[bytes, int] = {}
    for position, key in enumerate(keys):
        first.setdefault(key, position)
    found: dict[bytes, np.ndarray] = {}
    for shard_keys, rows in _read_shards(folder):
        found.update((key, row) for key, row in zip(shard_keys, rows, strict=True) if key in first)
    missing = [position for key, position in first.items() if key not in found]
    if missing:
        for positions, rows in compute(missing):
            if not np.isfinite(rows).all():
                bad = positions[int(np.argmin(np.isfinite(rows).all(axis=1)))]
                raise RowError(f"the row computed for input {bad} is not finite")
            shard_keys = [keys[position] for position in positions]
            _write_shard(folder, shard_keys, rows)
            found.update(zip(shard_keys, rows, strict=True))
    return np.stack([found[key] for key in keys]).astype(np.float32, copy=False)


def _write_shard(folder: Path, keys: list[bytes], rows: np.ndarray) -> None:
    values = pa.array(np.ascontiguousarray(rows, dtype=np.float32).reshape(-1))
    table = pa.table(
        {
            "key": pa.array(keys, pa.binary(KEY_BYTES)),
            "row": pa.FixedSizeListArray.from_arrays(values, rows.shape[1]),
        }
    )
    name = hashlib.sha256(b"".join(keys)).hexdigest()[:24] + ".parquet"
    temporary = folder / (name + TEMPORARY_SUFFIX)
    try:
        with temporary.open("wb") as file:
            # Floats do not compress; checksums find a shard that was damaged after it was written.
            pq.write_table(table, file, compression="NONE", write_page_checksum=True)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / name)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _read_shards(folder: Path) -> Iterator[tuple[list[bytes], np.ndarray]]:
    for path in sorted(folder.glob("*.parquet")):
        try:
            table = pq.read_table(path, page_checksum_verification=True)
            rows = table["row"].combine_chunks()
            keys = table["key"].to_pylist()
            values = rows.flatten().to_numpy().reshape(len(keys), rows.type.list_size)
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            if isinstance(error, PermissionError):
                raise
            print(f"removing damaged cache shard {path}, it is computed again: {first_line(error)}", file=sys.stderr)
            path.unlink()
            continue
        yield keys, values

"""A bulk run's files: the input cut into pieces, their rows dealt out to shards by key, and shards with scores.

A task writes one file under a temporary name and renames it. Done twice, or by two workers at once, it writes the same
bytes; what is there needs no doing. A row's shard follows from the first digits of its key, so that duplicates of a
pair meet in one shard, where it runs once.
"""

import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from flashranker import FlashRankerError, InputError, Reranker
from flashranker.errors import first_line

from recipes.bulk_rank import ADDED, check_free, manifest_hash, open_ranker, pair_keys, rank_pairs, texts_of

PIECES = "_pieces"  # readers of Parquet folders pass over names with an underscore
ROW, SHARD = "input_row", "_shard"
PIECE_ROWS = 1_000_000  # row groups are put together up to that
BLOCK_ROWS = 65_536  # held in memory at a time while rows are dealt out, or 32 a shard where that is more
RESULT = pa.schema([
    ("number", pa.int64()), ("rows", pa.int64()), ("pairs", pa.int64()), ("truncated", pa.int64()),
    ("begun", pa.float64()), ("ended", pa.float64()), ("error", pa.string()),
])  # fmt: skip


@dataclass(frozen=True)
class Piece:
    """Row groups of an input file, `start` up to `stop`, with the rows before them in the file and in all files."""

    file: str
    start: int
    stop: int
    first: int
    before: int
    rows: int


@dataclass(frozen=True)
class Job:
    """All that a worker on any node must know; paths are absolute, and the same on every node."""

    output: str
    model: str
    model_sha256: str  # of the manifest
    threads: int
    max_length: int
    long: str
    shards: int
    pieces: tuple[Piece, ...]

    def path(self, stage: str, number: int) -> Path:
        """Where the file of a task lies."""
        if stage == "piece":
            return Path(self.output, PIECES, f"piece-{number:05}.arrow")
        return Path(self.output, f"shard-{number:05}.parquet")

    def missing(self, stage: str) -> list[int]:
        """The tasks whose file is not there."""
        count = len(self.pieces) if stage == "piece" else self.shards
        return [number for number in range(count) if not self.path(stage, number).exists()]


def find_files(given: Path) -> list[Path]:
    """The Parquet files of a path, in the order of their names. Raises InputError where there is none."""
    if given.is_file():
        return [given]
    names = sorted(path.relative_to(given) for path in given.rglob("*.parquet") if path.is_file())
    names = [name for name in names if not any(part[0] in "._" for part in name.parts)]
    if partitioned := [name for name in names if "=" in str(name.parent)]:
        raise InputError(f"{given / partitioned[0]}: columns in folder names are not read: write them into the files")
    if not names:
        raise InputError(f"no Parquet file at {str(given)!r}, expected one, or a folder of them: check the path")
    return [given / name for name in names]


def cut(files: Sequence[Path]) -> tuple[tuple[Piece, ...], pa.Schema]:
    """The pieces of all files, and their schema. Raises InputError for a file that can't be read or that differs."""
    pieces: list[Piece] = []
    before, schema = 0, None
    for path in files:
        try:
            with pq.ParquetFile(path) as file:
                own, groups = plain(file.schema_arrow), file.metadata
                counts = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
        except pa.ArrowInvalid as error:
            reason = str(error).rstrip(".")
            raise InputError(
                f"{path}: {reason}: expected a Parquet file; write it as one (of a table in CSV, "
                "pandas.read_csv(FILE).to_parquet(NEW)), or take it away"
            ) from None
        schema = schema or own
        if not own.equals(schema):
            raise InputError(f"{path} has other columns or types than {files[0]}: expected the same in all files")
        start = first = 0
        while start < len(counts):
            stop, rows = start + 1, counts[start]
            while stop < len(counts) and rows + counts[stop] <= PIECE_ROWS:
                rows, stop = rows + counts[stop], stop + 1
            pieces.append(Piece(str(path.absolute()), start, stop, first, before, rows))
            start, first, before = stop, first + rows, before + rows
    assert schema is not None
    for name in ("query", "passage"):
        texts_of(schema.empty_table(), name, f"{files[0]}: ")
    check_free(schema.names, (ROW, SHARD, *ADDED))
    return tuple(pieces), schema


def plain(schema: pa.Schema) -> pa.Schema:
    """The schema without dictionaries, which differ from file to file, and without metadata."""
    types = [one.type.value_type if pa.types.is_dictionary(one.type) else one.type for one in schema]
    return pa.schema([pa.field(one.name, kind) for one, kind in zip(schema, types, strict=True)])


def perform(job: Job, stage: str, number: int) -> dict[str, Any]:
    """Make the file of one task, in whatever process; return a row of RESULT.

    What is wrong with the input comes back as its `error`: to raise it would have engines try again. Raises OSError.
    """
    begun = time.time()
    try:
        if not Path(job.model).is_dir() or manifest_hash(job.model) != job.model_sha256:
            raise InputError(f"{job.model} is not the model of this run, expected the same on every node: copy it")
        ranker = open_ranker(job.model, job.threads, max_length=job.max_length, long=job.long)
        counts, error = (write_piece if stage == "piece" else write_shard)(job, number, ranker), None
    except FlashRankerError as found:
        counts, error = {}, str(found)
    except pa.ArrowInvalid as found:
        source = job.pieces[number].file if stage == "piece" else f"shard {number} of {job.output}"
        counts, error = {}, f"{source}: {found}: expected rows that can be read; write the input again"
    zero = {"rows": 0, "pairs": 0, "truncated": 0}
    return {"number": number, **zero, **counts, "begun": begun, "ended": time.time(), "error": error}


def write_piece(job: Job, number: int, ranker: Reranker) -> dict[str, int]:
    """Deal the rows of a piece out, block by block, each in the order of its shards. Raises InputError.

    Every query is checked here, so that none stops a run whose first shards are scored.
    """
    piece, size = job.pieces[number], max(BLOCK_ROWS, 32 * job.shards)
    where, done, known = f"{piece.file}: ", 0, set[str]()
    with pq.ParquetFile(piece.file) as file, renamed(job.path("piece", number)) as temporary:
        schema = plain(file.schema_arrow)
        for name, kind in ((ROW, pa.int64()), ("key", pa.string()), (SHARD, pa.int32())):
            schema = schema.append(pa.field(name, kind))
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for block in file.iter_batches(size, row_groups=range(piece.start, piece.stop), use_threads=False):
                first = piece.first + done
                queries, passages = (texts_of(block, name, where, first) for name in ("query", "passage"))
                check_queries(ranker, queries, known, where, first)
                keys = pair_keys(queries, passages)
                shards = np.array([shard_of(key, job.shards) for key in keys], np.int32)
                rows = np.arange(len(keys)) + piece.before + done
                columns = [decoded(block.column(name)) for name in block.schema.names]
                columns += [pa.array(rows), pa.array(keys), pa.array(shards)]
                order = pa.array(np.argsort(shards, kind="stable"))
                writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema).take(order))
                done += len(keys)
    return {"rows": done}


def decoded(column: pa.Array) -> pa.Array:
    """A column of a block with the type that `plain` gives it."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def check_queries(ranker: Reranker, queries: Sequence[str], known: set[str], where: str, first: int) -> None:
    """Raises InputError naming the row of a query that the runtime would refuse; `known` ones it would not."""
    for row, query in enumerate(queries, first):
        if query not in known:
            try:
                ranker.check_query(query)
            except InputError as error:
                raise InputError(f"{where}row {row}: {error}") from None
            known.add(query)


def shard_of(key: str, shards: int) -> int:
    """Which of the `shards` a key belongs to: they divide the range of its first eight hex digits evenly."""
    return int(key[:8], 16) * shards >> 32


def write_shard(job: Job, number: int, ranker: Reranker) -> dict[str, int]:
    """Score the rows of a shard, each distinct pair once."""
    table = shard_rows(job, number)
    ranked = rank_pairs(ranker, texts_of(table, "query"), texts_of(table, "passage"))
    for name, values in zip(ADDED[1:], (ranked.logits, ranked.scores, ranked.truncated), strict=True):
        table = table.append_column(name, pa.array(values))
    with renamed(job.path("shard", number)) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
    return {"rows": len(table), "pairs": ranked.pairs, "truncated": int(ranked.truncated.sum())}


def shard_rows(job: Job, number: int) -> pa.Table:
    """All rows of a shard in the order of the input. Of each block nothing is read but its slice."""
    batches = []
    for piece in range(len(job.pieces)):
        with pa.memory_map(str(job.path("piece", piece))) as source:
            reader = pa.ipc.open_file(source)
            schema = reader.schema
            for block in map(reader.get_batch, range(reader.num_record_batches)):
                start, stop = np.searchsorted(block.column(SHARD).to_numpy(), [number, number + 1])
                batches.append(block.take(pa.array(np.arange(start, stop))))
    return pa.Table.from_batches(batches, schema).drop_columns([SHARD])


@contextmanager
def renamed(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes it, flushed to disk, when all went well, and is removed if not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_shards(job: Job, rows: int) -> dict[str, int]:
    """Counts of the finished output: {"rows", "pairs" (distinct), "truncated" (rows)}.

    Raises InputError where a row of the input is not there exactly once, a key lies in another's shard, or has two
    logits or one that is no number.
    """
    seen, counts = np.zeros(rows // 8 + 1, np.uint8), {"rows": 0, "pairs": 0, "truncated": 0}
    for number in range(job.shards):
        path = job.path("shard", number)

        def refuse(fault: str, path: Path = path) -> InputError:
            return InputError(f"{path} {fault}: remove it and run the same command again")

        try:
            table = pq.read_table(path, columns=[ROW, "key", "logit", "truncated"], page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise refuse(f"can't be read ({first_line(error)})") from None
        found, keys = table[ROW].to_numpy(), table["key"]
        prefixes = pc.unique(pc.utf8_slice_codeunits(keys, 0, 8)).to_pylist()
        pairs = pc.count_distinct(keys).as_py()
        if any(shard_of(prefix, job.shards) != number for prefix in prefixes):
            raise refuse("holds keys of another shard")
        if len(table.group_by(["key", "logit"]).aggregate([])) != pairs or not np.isfinite(table["logit"]).all():
            raise refuse("has a key with two logits, or a logit that is no number")
        if len(found) and not 0 <= found.min() <= found.max() < rows:
            raise refuse("has rows that the input does not have")
        np.bitwise_or.at(seen, found >> 3, (1 << (found & 7)).astype(np.uint8))
        counts["rows"] += len(table)
        counts["pairs"] += pairs
        counts["truncated"] += int(np.count_nonzero(table["truncated"]))
    present = int(np.unpackbits(seen).sum())
    if present != rows or counts["rows"] != rows:
        raise InputError(
            f"{job.output} has {counts['rows']:,} rows, {present:,} of the {rows:,} in the input, expected each once: "
            "remove the folder and run again"
        )
    return counts

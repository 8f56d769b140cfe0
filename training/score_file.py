"""A file of scores as a teacher: one row for each (query_id, passage_id, score)."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeGuard

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from training.backbone import user_path
from training.data import InputError, RankingData, first_line

FIELDS = ("query_id", "passage_id", "score")
LARGEST = float(np.finfo(np.float32).max)
SCORE_SUFFIXES = {".jsonl", ".tsv", ".parquet"}


def score_file(teacher: str) -> Path | None:
    """The file of scores that a teacher's name means, be it there or not; None where it means a model."""
    path = user_path(teacher)
    return path if path.suffix in SCORE_SUFFIXES and not path.is_dir() else None


def scores_of_pairs(path: Path, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """Scores (n,) float32 of `pairs` of (query id, passage id); other pairs of the file are not used.

    Raises InputError for a pair that the file lacks, and as `read_scores`.
    """
    scores = read_scores(path)
    missing = [pair for pair in dict.fromkeys(pairs) if pair not in scores]
    if missing:
        query, passage = missing[0]
        raise InputError(
            f"{path} lacks {len(missing)} of the pairs to score: add a line for each, "
            f"first query {query!r} with passage {passage!r}"
        )
    return np.array([scores[pair] for pair in pairs], dtype=np.float32)


def scores_by_query(path: Path, data: RankingData) -> dict[str, dict[str, float]]:
    """What a file scores of these data: query id -> passage id -> score. Raises InputError as `read_scores`."""
    found: dict[str, dict[str, float]] = {}
    for (query, passage), score in read_scores(path).items():
        if query in data.queries and passage in data.passages:
            found.setdefault(query, {})[passage] = score
    return found


def read_scores(path: Path) -> dict[tuple[str, str], float]:
    """(query id, passage id) -> score, from JSONL objects, TSV with a header line, or Parquet columns.

    Raises InputError, naming file and line (row for Parquet), for a field that is missing or of the wrong
    type, a score that is not finite, or a pair that comes twice.
    """
    readers = {".jsonl": _read_jsonl, ".tsv": _read_tsv, ".parquet": _read_parquet}
    scores: dict[tuple[str, str], float] = {}
    try:
        for place, query, passage, score in readers[path.suffix](path):
            if not is_score(score):
                raise InputError(f"{place}: score {score!r:.40} is no finite float32: correct it or drop the line")
            pair = (_identifier(place, "query_id", query), _identifier(place, "passage_id", passage))
            if pair in scores:
                raise InputError(
                    f"{place}: query {pair[0]!r} with passage {pair[1]!r} comes twice: keep one of the two"
                )
            scores[pair] = float(score)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8") from error
    return scores


def is_score(value: object) -> TypeGuard[int | float]:
    """Whether a value is a number that float32 can hold; JSON has integers beyond any float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _identifier(place: str, field: str, value: object) -> str:
    # Ids are compared as text everywhere; tools that write them as whole numbers mean the same.
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise InputError(f"{place}: {field} is {value!r}, expected a non-empty string or a whole number")
    return str(value)


def _read_jsonl(path: Path) -> Iterator[tuple[str, object, object, object]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            place = f"{path}:{number}"
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{place}: not a JSON object ({error})") from error
            if not isinstance(record, dict) or not all(field in record for field in FIELDS):
                raise InputError(f"{place}: expected an object with {', '.join(FIELDS)}")
            yield place, record["query_id"], record["passage_id"], record["score"]


def _read_tsv(path: Path) -> Iterator[tuple[str, object, object, object]]:
    with path.open(encoding="utf-8-sig") as file:
        header = file.readline().rstrip("\r\n").split("\t")
        if sorted(header) != sorted(FIELDS):
            raise InputError(f"{path}:1: header is {header}, expected {' <tab> '.join(FIELDS)}")
        order = [header.index(field) for field in FIELDS]
        for number, line in enumerate(file, start=2):
            place = f"{path}:{number}"
            if not line.strip():
                continue
            cells = line.rstrip("\r\n").split("\t")
            if len(cells) != len(FIELDS):
                raise InputError(f"{place}: {len(cells)} tab-separated fields, expected {len(FIELDS)}")
            query, passage, score = (cells[index] for index in order)
            try:
                yield place, query, passage, float(score)
            except ValueError:
                raise InputError(f"{place}: score {score!r} is not a number") from None


def _read_parquet(path: Path) -> Iterator[tuple[str, object, object, object]]:
    try:
        table = pq.read_table(path, columns=list(FIELDS))
    except (pa.ArrowException, OSError, KeyError) as error:
        raise InputError(f"{path} can't be read as Parquet ({first_line(error)})") from error
    if missing := [field for field in FIELDS if field not in table.column_names]:
        raise InputError(f"{path} has no column {missing[0]}, expected {', '.join(FIELDS)}")
    columns = (table[field].to_pylist() for field in FIELDS)
    for number, (query, passage, score) in enumerate(zip(*columns, strict=True), start=1):
        yield f"{path} row {number}", query, passage, score

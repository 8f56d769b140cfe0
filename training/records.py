"""Reads a file of one query a record into RankingData: the shape in which training sets are mostly passed around.

JSONL or Parquet of {"query": text, "positives": [text, ...], "negatives": [text, ...], "scores": [number, ...]}. A
single positive or negative may be a string; negatives and scores are optional. Scores are a teacher's raw logits for
the positives, then the negatives.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from training.data import InputError, RankingData, encodable, first_line
from training.score_file import is_score

RECORD_SUFFIXES = (".jsonl", ".parquet")
FIELDS = ("query", "positives", "negatives", "scores")


def read_records(path: Path) -> RankingData:
    """Ranking data of a .jsonl or .parquet file: see `collect_records`. Raises InputError too for an empty file."""
    data = collect_records(path.stem, _read_parquet(path) if path.suffix == ".parquet" else _read_jsonl(path))
    if not data.queries:
        raise InputError(f"{path}: the file is empty; expected one record with {', '.join(FIELDS[:2])} for each query")
    return data


def collect_records(name: str, records: Iterable[tuple[str, dict[str, Any]]]) -> RankingData:
    """Ranking data of records, each with the place where it was read; its splits stay to be made.

    Equal texts are one query or one passage. Positives have grade 1, negatives grade 0, so that training takes them
    first; what is ranked for held-out queries are not these lists, which would give the answer away, but all passages.

    Raises InputError, naming file and line (row for Parquet), for a field that is missing or of another type, an empty
    text, a passage that is positive and negative for one query, or scores that are too few or not finite.
    """
    queries: dict[str, str] = {}
    passages: dict[str, str] = {}
    judgments: dict[str, dict[str, int]] = {}
    scores: dict[str, dict[str, float]] = {}

    def identified(known: dict[str, str], prefix: str, text: str) -> str:
        return known.setdefault(text, f"{prefix}{len(known)}")

    for place, record in records:
        if not isinstance(record.get("query"), str):
            raise InputError(f'{place}: "query" is {record.get("query")!r:.60}, expected one text; add it')
        (query,) = _texts(place, record, "query", 1)
        positives, negatives = _texts(place, record, "positives", 1), _texts(place, record, "negatives", 0)
        query_id = identified(queries, "q", query)
        grades = judgments.setdefault(query_id, {})
        ids = [identified(passages, "p", text) for text in [*positives, *negatives]]
        for number, passage_id in enumerate(ids):
            grade = int(number < len(positives))
            if grades.setdefault(passage_id, grade) != grade:
                raise InputError(f"{place}: a passage is both positive and negative for {query[:60]!r}; keep it in one")
        if record.get("scores") is not None:
            scores.setdefault(query_id, {}).update(zip(ids, _scores(place, record["scores"], len(ids)), strict=True))
    return RankingData(
        name, {key: text for text, key in queries.items()}, {key: text for text, key in passages.items()},
        judgments, {}, {"train": [], "dev": [], "test": []}, "not stated", scores,
    )  # fmt: skip


def _texts(place: str, record: dict[str, Any], name: str, least: int) -> list[str]:
    value = record.get(name)
    texts = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(texts, list) or len(texts) < least:
        raise InputError(f'{place}: "{name}" is {value!r:.60}, expected a text or a list of {least} or more; add it')
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise InputError(f'{place}: "{name}" holds {text!r:.60}, expected texts that are not empty; fix or drop it')
    return [encodable(text) for text in texts]


def _scores(place: str, values: Any, count: int) -> list[float]:
    if not isinstance(values, list) or len(values) != count:
        found = f"{len(values)} of them" if isinstance(values, list) else f"{values!r:.60}"
        raise InputError(f'{place}: "scores" is {found}, expected {count}: of the positives, then the negatives')
    for value in values:
        if not is_score(value):
            raise InputError(
                f'{place}: "scores" holds {value!r:.40}, expected numbers of float32; correct it or drop the record'
            )
    return [float(value) for value in values]


def _read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            place = f"{path}:{number}"
            if not raw.strip():
                continue
            try:
                record = json.loads(raw.decode("utf-8-sig"))
            except UnicodeDecodeError as error:
                raise InputError(f"{place}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
            except (ValueError, RecursionError) as error:
                raise InputError(f"{place}: not a JSON object ({error}); fix the line") from None
            if not isinstance(record, dict):
                raise InputError(f'{place}: expected an object with "query" and "positives", got {record!r:.60}')
            yield place, record


def _read_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        file = pq.ParquetFile(path)
        known = [name for name in FIELDS if name in file.schema_arrow.names]
        number = 0
        for batch in file.iter_batches(columns=known):
            for record in batch.to_pylist():
                number += 1
                yield f"{path} row {number}", record
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} can't be read as Parquet ({first_line(error)})") from error

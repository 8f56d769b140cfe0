"""Files of scores as teachers: three formats read alike, and every bad line is refused where it stands."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.data import InputError, RankingData
from training.teacher import score_pairs


@pytest.fixture
def data() -> RankingData:
    queries = {f"q{number}": f"query {number}" for number in range(4)}
    passages = {f"p{number}": f"passage {number}" for number in range(4)}
    return RankingData("tiny", queries, passages, {}, {}, {}, "CC0-1.0")


GOOD = [("q1", "p1", 1.5), ("q1", "p2", -2.0), ("q2", "p1", 1e-3)]


def _write_scores(path: Path, rows: Sequence[tuple[object, object, object]]) -> Path:
    fields = ("query_id", "passage_id", "score")
    if path.suffix == ".parquet":
        pq.write_table(pa.table(dict(zip(fields, map(list, zip(*rows, strict=True)), strict=True))), path)
    elif path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(fields, row, strict=True))) + "\n" for row in rows]
        path.write_text("".join(lines), encoding="utf-8")
    else:
        lines = ["\t".join(map(str, row)) + "\n" for row in [fields, *rows]]
        path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["s.jsonl", "s.tsv", "s.parquet"])
def test_files_of_scores(name: str, data: RankingData, tmp_path: Path) -> None:
    path = str(_write_scores(tmp_path / name, GOOD))
    found = score_pairs(path, data, [("q2", "p1"), ("q1", "p2"), ("q1", "p1")], tmp_path)
    np.testing.assert_array_equal(found, np.array([1e-3, -2.0, 1.5], dtype=np.float32))
    with pytest.raises(InputError, match=r"lacks 1 of the pairs.*'q2' with passage 'p3'"):
        score_pairs(path, data, [("q1", "p1"), ("q2", "p3")], tmp_path)


@pytest.mark.parametrize("name", ["s.jsonl", "s.tsv", "s.parquet"])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("q3", "p1", float("nan")), "nan is no finite float32"),
        (("q3", "p1", float("-inf")), "-inf is no finite float32"),
        (("q3", "p1", 1e300), "1e\\+300 is no finite float32"),
        (("q1", "p2", 3.0), "'q1' with passage 'p2' comes twice"),
        (("", "p2", 3.0), "query_id is ''"),
    ],
)
def test_a_bad_score_is_refused_where_it_stands(
    name: str, row: tuple[object, object, object], message: str, data: RankingData, tmp_path: Path
) -> None:
    path = _write_scores(tmp_path / name, [*GOOD, row])
    place = {"s.jsonl": "s.jsonl:4: ", "s.tsv": "s.tsv:5: ", "s.parquet": "s.parquet row 4: "}[name]
    with pytest.raises(InputError, match=place + ".*" + message):
        score_pairs(str(path), data, [("q1", "p1")], tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "s.jsonl",
            '{"query_id": "q1", "passage_id": "p1"}\n',
            "s.jsonl:1: expected an object with query_id",
        ),
        ("s.jsonl", "\n{broken\n", "s.jsonl:2: not a JSON object"),
        ("s.jsonl", '{"query_id": "q1", "passage_id": "p1", "score": "2"}\n', ":1: score '2' is no"),
        ("s.jsonl", '{"query_id": "q1", "passage_id": "p1", "score": 1' + "0" * 400 + "}\n", ":1: score 10+ is no"),
        ("s.jsonl", "[" * 100_000 + "\n", "s.jsonl:1: not a JSON object"),
        ("s.tsv", "q1\tp1\t2.0\n", "s.tsv:1: header"),
        ("s.tsv", "query_id\tpassage_id\tscore\nq1\tp1\n", "s.tsv:2: 2 tab-separated fields"),
        ("s.tsv", "query_id\tpassage_id\tscore\nq1\tp1\thigh\n", "s.tsv:2: score 'high'"),
        ("s.parquet", "not parquet", "can't be read as Parquet"),
    ],
)
def test_a_malformed_file_of_scores_is_refused(
    name: str, content: str, message: str, data: RankingData, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        score_pairs(str(tmp_path / name), data, [("q1", "p1")], tmp_path)

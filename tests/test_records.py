"""A file of records: what it becomes by hand, JSONL and Parquet alike, and what is refused with its line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.data import InputError
from training.examples import choose_candidates
from training.load import load
from training.records import read_records
from training.teacher import OWN_SCORES, score_pairs

RECORDS: list[dict[str, Any]] = [
    {"query": "sort a list", "positives": ["sorted"], "negatives": ["shuffle", "bind"], "scores": [4.0, -1.5, -3.0]},
    {"query": "open a file", "positives": ["open", "fopen"], "negatives": ["sorted"], "scores": [5.0, 2.0, 0.25]},
    {"query": "sort a list", "positives": ["list.sort"], "negatives": ["bind"], "scores": [3.0, -3.5]},
]


def write(path: Path, records: list[Any]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.parquet"])
def test_records_by_hand(tmp_path: Path, name: str) -> None:
    data = read_records(write(tmp_path / name, RECORDS))
    assert data.name == "mine"
    assert data.queries == {"q0": "sort a list", "q1": "open a file"}
    assert list(data.passages.values()) == ["sorted", "shuffle", "bind", "open", "fopen", "list.sort"]
    # The third record is about the first one's query; "sorted" is one passage, relevant to q0 and not to q1.
    assert data.judgments == {"q0": {"p0": 1, "p1": 0, "p2": 0, "p5": 1}, "q1": {"p3": 1, "p4": 1, "p0": 0}}
    assert data.scores == {
        "q0": {"p0": 4.0, "p1": -1.5, "p2": -3.5, "p5": 3.0}, "q1": {"p3": 5.0, "p4": 2.0, "p0": 0.25}
    }  # fmt: skip
    assert data.candidates == {}


def test_only_the_query_and_a_positive_are_needed(tmp_path: Path) -> None:
    records = [{"query": f"query {i}", "positives": f"passage {i}", "id": i} for i in range(30)]
    data = load(write(tmp_path / "pairs.jsonl", records))
    assert [len(ids) for ids in data.splits.values()] == [24, 3, 3]
    assert data.judgments["q7"] == {"p7": 1}
    assert data.scores == {}


def test_own_scores_teach_and_a_pair_without_one_is_named(tmp_path: Path) -> None:
    data = read_records(write(tmp_path / "mine.jsonl", RECORDS))
    pairs = [("q1", "p0"), ("q0", "p2")]
    assert score_pairs(OWN_SCORES, data, pairs, tmp_path).tolist() == [0.25, -3.5]
    with pytest.raises(InputError, match="mine has no score for 1 of 2 pairs, first query 'q1' with passage 'p2'"):
        score_pairs(OWN_SCORES, data, [("q1", "p0"), ("q1", "p2")], tmp_path)


def test_negatives_of_the_record_come_first_and_scored_ones_alone_where_asked(tmp_path: Path) -> None:
    many = [{"query": f"word {i}", "positives": [f"yes {i}"], "negatives": [f"no {i} {j}" for j in range(3)],
             "scores": [1.0, 0.0, 0.0, 0.0]} for i in range(20)]  # fmt: skip
    data = read_records(write(tmp_path / "mine.jsonl", many))
    data.splits["train"] = list(data.queries)
    for random_share, only in ((0.0, False), (0.9, True)):
        chosen = choose_candidates(
            data, data.splits["train"], {}, size=4, random_share=random_share, seed=0, scored_only=only
        )
        assert len(chosen) == 20
        for query, passages in chosen:
            number = data.queries[query].split()[1]
            assert sorted(data.passages[i] for i in passages) == [
                *(f"no {number} {j}" for j in range(3)),
                f"yes {number}",
            ]
    # Four are scored: a list of five cannot be had of them.
    assert choose_candidates(data, ["q0"], {}, size=5, random_share=0.0, seed=0, scored_only=True) == []


@pytest.mark.parametrize(
    ("record", "named"),
    [
        ({"positives": ["a"]}, '"query" is None'),
        ({"query": ["q", "r"], "positives": ["a"]}, r"\"query\" is \['q', 'r'\], expected one text"),
        ({"query": "q"}, '"positives" is None'),
        ({"query": "q", "positives": []}, r'"positives" is \[\]'),
        ({"query": " ", "positives": ["a"]}, "\"query\" holds ' '"),
        ({"query": "q", "positives": ["a", 3]}, '"positives" holds 3'),
        ({"query": "q", "positives": ["a"], "negatives": [""]}, "\"negatives\" holds ''"),
        ({"query": "q", "positives": ["a"], "negatives": ["a"]}, "both positive and negative"),
        ({"query": "q", "positives": ["a"], "scores": [1, 2]}, '"scores" is 2 of them, expected 1'),
        ({"query": "q", "positives": ["a"], "scores": "high"}, "\"scores\" is 'high', expected 1"),
        ({"query": "q", "positives": ["a"], "scores": [float("nan")]}, '"scores" holds nan'),
        ({"query": "q", "positives": ["a"], "scores": [10**400]}, '"scores" holds 1000'),
        (["q", "a"], "expected an object"),
    ],
)
def test_a_bad_record_is_named_by_file_and_line(tmp_path: Path, record: Any, named: str) -> None:
    path = write(tmp_path / "bad.jsonl", [RECORDS[0], record])
    with pytest.raises(InputError, match=rf"bad\.jsonl:2: .*{named}"):
        read_records(path)


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "torn.jsonl").write_text('{"query": "a", "posi')
    (tmp_path / "text.parquet").write_text("no parquet")
    (tmp_path / "latin.jsonl").write_bytes(b'{"query": "caf\xe9", "positives": ["a"]}')
    for name, named in (
        ("empty.jsonl", "the file is empty"), ("torn.jsonl", "torn.jsonl:1: not a JSON object"),
        ("text.parquet", "can't be read as Parquet"), ("latin.jsonl", "latin.jsonl:1: byte 14 is not UTF-8"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=named):
            load(tmp_path / name)
    with pytest.raises(InputError, match=r"is no folder and no \.jsonl or \.parquet file"):
        load(tmp_path / "absent.jsonl")


def test_scores_reach_the_examples_in_order(tmp_path: Path) -> None:
    data = read_records(write(tmp_path / "mine.jsonl", RECORDS))
    ((query, passages),) = choose_candidates(data, ["q1"], {}, size=2, random_share=0.0, seed=0, scored_only=True)
    scores = score_pairs(OWN_SCORES, data, [(query, passage) for passage in passages], tmp_path)
    expected = {"open": 5.0, "fopen": 2.0, "sorted": 0.25}
    np.testing.assert_array_equal(scores, [expected[data.passages[passage]] for passage in passages])
    assert data.passages[passages[1]] == "sorted"

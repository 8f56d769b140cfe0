"""Data sets in the hub's layout, from local folders of the same schema: texts, ids, margins, labels, refusals."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from training.data import InputError, RankingData
from training.hub import HUB_SET, read_set
from training.load import load
from training.records import read_records

Rows = Sequence[Mapping[str, Any]]


def write_set(folder: Path, **configs: Rows) -> str:
    """A folder as the hub shows it: a card that names the configurations, a Parquet file for each."""
    names = "".join(f"- config_name: {name}\n  data_files: {name}.parquet\n" for name in configs)
    folder.mkdir()
    (folder / "README.md").write_text(f"---\nconfigs:\n{names}---\n", encoding="utf-8")
    for name, rows in configs.items():
        pq.write_table(pa.Table.from_pylist(list(rows)), folder / f"{name}.parquet")
    return str(folder)


def by_text(data: RankingData) -> dict[str, dict[str, tuple[int, float | None]]]:
    """Query -> passage -> grade and score, in texts."""
    return {
        data.queries[query]: {
            data.passages[passage]: (grade, data.scores.get(query, {}).get(passage))
            for passage, grade in grades.items()
        }
        for query, grades in data.judgments.items()
    }


def test_triplets_of_texts_are_what_the_same_records_in_a_file_are(tmp_path: Path) -> None:
    rows = [
        {"query": "sort a list", "positive": "sorted", "negative": "bind"},
        {"query": "sort a list", "positive": "sorted", "negative": "shuffle"},
        {"query": "open a socket", "positive": "bind", "negative": "sorted"},
        {"query": "sort a list", "positive": "bind", "negative": "close"},
    ]
    data = read_set(write_set(tmp_path / "set", triplet=rows), "triplet", 4, name="set")
    # `bind` is a negative in the first row and relevant by the last: the judgment holds.
    assert by_text(data) == {
        "sort a list": {"sorted": (1, None), "shuffle": (0, None), "bind": (1, None), "close": (0, None)},
        "open a socket": {"bind": (1, None), "sorted": (0, None)},
    }
    path = tmp_path / "set.jsonl"
    records = [{"query": r["query"], "positives": r["positive"], "negatives": r["negative"]} for r in rows[1:]]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    assert by_text(read_records(path)) == by_text(data)


def test_other_names_of_columns_and_numbered_negatives(tmp_path: Path) -> None:
    row = {"question": "q", "answer": "a", **{f"negative_{i}": f"n{i}" for i in (10, 9, 1)}}
    data = read_set(write_set(tmp_path / "set", hard=[row, row | {"question": "r"}]), "hard", 1, name="set")
    assert list(data.passages.values()) == ["a", "n1", "n9", "n10"]
    assert list(data.queries.values()) == ["q"]  # of two rows, the one that was asked for


def test_ids_are_looked_up_and_a_margin_becomes_two_logits(tmp_path: Path) -> None:
    texts = {"7": "seven", "8": "eight", "9": "nine"}
    repository = write_set(
        tmp_path / "set",
        margin=[
            {"query_id": "1", "positive_id": "7", "negative_id": "8", "score": 2.5},
            {"query_id": "1", "positive_id": "7", "negative_id": "9", "score": -1.0},
            {"query_id": "2", "positive_id": "6", "negative_id": "9", "score": 1.0},  # no such passage
        ],
        labels=[{"query_id": "2", "doc_ids": ["8", "9", "7"], "labels": [0, 1, 0]}],
        queries=[{"query_id": "2", "query": "two"}, {"query_id": "1", "query": "one"}],
        corpus=[{"passage_id": key, "passage": text} for key, text in texts.items()],
    )
    margins = read_set(repository, "margin", 10, name="set")
    assert by_text(margins) == {"one": {"seven": (1, 0.0), "eight": (0, -2.5), "nine": (0, 1.0)}}
    labels = read_set(repository, "labels", 10, name="set")
    assert by_text(labels) == {"two": {"nine": (1, None), "eight": (0, None), "seven": (0, None)}}


def test_scores_follow_their_negatives(tmp_path: Path) -> None:
    rows = [
        {"query": "q", "positive": ["a"], "negatives": ["b", "c"], "scores": [4.0, 3.0, -2.0]},
        {"query": "q", "positive": ["b"], "negatives": ["d"], "scores": [3.0, -5.0]},
    ]
    data = read_set(write_set(tmp_path / "set", lists=rows), "lists", 2, name="set")
    assert by_text(data) == {"q": {"a": (1, 4.0), "c": (0, -2.0), "b": (1, 3.0), "d": (0, -5.0)}}


@pytest.mark.parametrize(
    ("rows", "config", "message"),
    [
        ([{"premise": "a", "label": 1}], "pairs", "has the columns label, premise; expected one of query, anchor"),
        ([{"query": "a", "positive": "b"}], "none", "configuration 'none'"),
        ([{"query_id": "1", "positive_id": "2", "negative_id": "3"}], "pairs", "can't be read .*queries"),
        ([{"query": "a", "positive": [{"text": "b"}]}], "pairs", "'a' and its passages are not all texts"),
        ([{"query": "a", "positive": "b", "negative": "c", "scores": [1.0]}], "pairs", "expected 2: of the positives"),
        ([{"query": " ", "positive": "b"}], "pairs", r'set row 1: "query" holds \' \', expected texts'),
    ],
)
def test_what_is_no_ranking_data_is_named(tmp_path: Path, rows: Rows, config: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_set(write_set(tmp_path / "set", pairs=rows), config, 5, name="set")


def test_an_unreachable_hub_is_named_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for source in ("msmarco", "owner/name", "owner/name:config"):
        began = time.monotonic()
        with pytest.raises(InputError, match=f"'{source}' is no folder and no file, and the hub at http://127.0.0.1:9"):
            load(source)
        assert time.monotonic() - began < 10
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        load("msmarco")


def test_a_file_that_is_not_there_is_no_set() -> None:
    for name in ("data/x.jsonl", "data/x.parquet"):
        with pytest.raises(InputError, match=f"data source '{name}' is no folder and no .jsonl or .parquet file; give"):
            load(name)


@pytest.mark.parametrize("name", ["name", "a/b/c", "./a", "a/b:", "/a/b", "a b/c", "a/b:c:d"])
def test_what_is_no_name_of_a_set_is_not_looked_for_on_the_hub(name: str) -> None:
    assert not HUB_SET.fullmatch(name)

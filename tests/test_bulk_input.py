"""What recipes.bulk can't score is one line that names the row, the file or the setting, before anything is scored."""

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flashranker import Reranker
from test_bulk import refusal, run

from recipes import bulk_shards


def write(folder: Path, **columns: Any) -> Path:
    """A file whose last rows are in a second row group."""
    pq.write_table(pa.table(columns), folder / "pairs.parquet", row_group_size=2)
    return folder / "pairs.parquet"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"query": ["a", "b", None], "passage": ["x"] * 3}, "row 2: query is NULL"),
        ({"query": ["a", "b", "c"], "passage": ["x", None, "y"]}, "row 1: passage is NULL"),
        ({"query": ["a", "b", " "], "passage": ["x"] * 3}, "row 2: the query is empty"),
        ({"query": ["a", "b", "river " * 60], "passage": ["x"] * 3}, "row 2: the query has 60 tokens"),
        ({"query": ["a"]}, "there is no column 'passage'"),
        ({"query": ["a"], "passage": [1]}, "column 'passage' holds int64"),
        ({"query": ["a"], "passage": ["x"], "logit": [1.0]}, "the column 'logit' already"),
        ({"query": pa.array([], pa.string()), "passage": pa.array([], pa.string())}, "has no rows"),
    ],
)
def test_bad_rows_are_named_before_anything_is_scored(
    columns: dict, message: str, tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = write(tmp_path, **columns)
    assert message in refusal(capsys, path, tmp_path / "out", "--model", tiny_artifact)
    assert not list((tmp_path / "out").glob("shard-*"))
    assert not list(tmp_path.rglob(".*.tmp"))


def test_a_row_is_counted_from_the_start_of_its_file(
    tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(bulk_shards, "PIECE_ROWS", 40)
    monkeypatch.setattr(bulk_shards, "BLOCK_ROWS", 1)  # so 32 a shard
    for name, fault in (("a", 200), ("b", 77)):  # of b, the second piece starts at 40, its second block at 72
        passages = [None if row == fault else "river" for row in range(100)]
        table = pa.table({"query": ["sort"] * 100, "passage": passages})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=40)
    line = refusal(capsys, tmp_path, tmp_path.parent / "out", "--model", tiny_artifact, "--shards", 1)
    assert "b.parquet: row 77: passage is NULL" in line


def raw_strings(*values: bytes) -> pa.Array:
    """A column of strings that were never checked to be UTF-8."""
    binary = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(values), binary.buffers())


def test_texts_that_are_no_utf8(tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write(tmp_path, query=["sort"] * 2, passage=raw_strings(b"\xed\xa0\x80 river", b""))
    assert run(path, tmp_path / "out", tiny_artifact) == 0
    logits = pq.read_table(tmp_path / "out", columns=["input_row", "logit"]).sort_by("input_row")["logit"].to_numpy()
    assert (logits == Reranker(tiny_artifact).score("sort", ["\ud800 river", ""])).all()
    path = write(tmp_path, query=["sort"] * 3, passage=raw_strings(b"a", b"b", b"\xff river"))
    assert "row 2: passage is not UTF-8" in refusal(capsys, path, tmp_path / "other", "--model", tiny_artifact)


def test_settings_and_places_that_make_no_sense(
    tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, model = tmp_path / "out", ("--model", tiny_artifact)
    (tmp_path / "in").mkdir()
    pairs = write(tmp_path / "in", query=["a"], passage=["b"]).parent
    assert "--workers is -1" in refusal(capsys, pairs, output, *model, "--workers", -1)
    assert "max_length is 65" in refusal(capsys, pairs, output, *model, "--max_length", 65)
    assert "expected none with --engine local" in refusal(capsys, pairs, output, *model, "--address", "auto")
    assert "no artifact folder" in refusal(capsys, pairs, output, "--model", tmp_path / "none")
    assert "no Parquet file" in refusal(capsys, tmp_path / "none", output, *model)
    assert "lies in INPUT" in refusal(capsys, pairs, pairs / "out", *model)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("")
    assert "holds other files" in refusal(capsys, pairs, tmp_path / "mine", *model)
    (tmp_path / "parts/year=2026").mkdir(parents=True)
    write(tmp_path / "parts/year=2026", query=["a"], passage=["b"])
    assert "columns in folder names are not read" in refusal(capsys, tmp_path / "parts", output, *model)
    assert not output.exists()
    for package, engine in (("ray", "ray"), ("pyspark", "spark")):
        monkeypatch.setitem(sys.modules, package, None)
        line = refusal(capsys, pairs, output, *model, "--engine", engine)
        assert line.startswith(f"error: {package} is not installed")
        assert "make .venv/.installed-bulk" in line


def test_files_that_differ_are_refused(tiny_artifact: Path, tmp_path: Path, capsys) -> None:
    pq.write_table(pa.table({"query": ["a"], "passage": ["b"], "votes": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"query": ["a"], "passage": ["b"], "votes": ["1"]}), tmp_path / "2.parquet")
    assert "2.parquet has other columns or types" in refusal(capsys, tmp_path, tmp_path.parent / "out", "--model",
                                                             tiny_artifact)  # fmt: skip
    (tmp_path / "2.parquet").write_bytes(b"PAR1 torn")
    assert "2.parquet: " in refusal(capsys, tmp_path, tmp_path.parent / "out", "--model", tiny_artifact)
    (tmp_path / "pairs.csv").write_text("query,passage\na,b\n")
    line = refusal(capsys, tmp_path / "pairs.csv", tmp_path.parent / "out", "--model", tiny_artifact)
    assert "read_csv(FILE).to_parquet(NEW)" in line
    assert ".: " not in line

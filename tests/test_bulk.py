"""Bulk reranking in one process: the bits of single calls, every pair once, and a killed run goes on."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import WORDS, negated_artifact
from flashranker import Reranker
from hypothesis import given
from hypothesis import strategies as st

from recipes import bulk, bulk_shards
from recipes.bulk_rank import pair_keys, rank_pairs
from recipes.bulk_shards import shard_of
from recipes.claim import claimed

ROOT = Path(__file__).parent.parent
Expected = dict[tuple[str, str], tuple[float, float, bool]]


def expect(rows: dict[str, list[Any]], artifact: Path) -> Expected:
    """Pair -> logit, probability and whether it was cut, each pair by a call of its own."""
    ranker, found = Reranker(artifact, threads=1), {}
    for query, passage in set(zip(rows["query"], rows["passage"], strict=True)):
        (logit,), (hit,) = ranker.score(query, [passage]), ranker.rerank(query, [passage])
        found[query, passage] = (float(logit), hit.score, hit.truncated)
    return found


def read(output: Path) -> pa.Table:
    """The rows of an output in the order of the input, by the reader of a user who knows nothing of it."""
    return pq.read_table(output).sort_by("input_row")


def check_output(output: Path, rows: dict[str, list[Any]], expected: Expected, shards: int) -> None:
    """All rows once, in the bits of `expected`, every pair scored once, and no other file left."""
    table = read(output)
    assert table["input_row"].to_pylist() == list(range(len(rows["query"])))
    for name, values in rows.items():
        assert table[name].to_pylist() == values
    found = zip(*(table[name].to_pylist() for name in ("query", "passage", "logit", "score", "truncated")), strict=True)
    for query, passage, *ranked in found:
        assert tuple(ranked) == expected[query, passage]
    assert table["key"].to_pylist() == pair_keys(rows["query"], rows["passage"])
    assert sorted(path.name for path in output.iterdir() if path.name[0] != ".") == [
        "_plan.json", "_summary.json", *(f"shard-{number:05}.parquet" for number in range(shards))
    ]  # fmt: skip
    found = summary(output)
    assert (found["rows"], found["distinct pairs"], found["pairs scored"]) == (
        len(rows["query"]),
        len(expected),
        len(expected),
    )
    assert found["truncated rows"] == sum(
        expected[pair][2] for pair in zip(rows["query"], rows["passage"], strict=True)
    )


def run(given: Path, output: Path, model: Path, *options: object) -> int:
    return bulk.main([str(given), str(output), "--model", str(model), "--workers", "2", *map(str, options)])


def summary(output: Path) -> dict[str, Any]:
    return json.loads((output / "_summary.json").read_text(encoding="utf-8"))


def test_this_process_gives_the_bits_of_one_call_a_pair(
    pairs: Path, rows: dict, tiny_artifact: Path, tmp_path: Path
) -> None:
    assert run(pairs, tmp_path / "scored", tiny_artifact, "--shards", 6) == 0
    check_output(tmp_path / "scored", rows, expect(rows, tiny_artifact), 6)


def test_pieces_and_blocks_smaller_than_the_input_change_nothing(
    pairs: Path, rows: dict, tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_shards, "PIECE_ROWS", 72)  # a.parquet: row groups of 64, 64, 64 and 8
    monkeypatch.setattr(bulk_shards, "BLOCK_ROWS", 1)  # so 32 a shard
    pieces, _ = bulk_shards.cut(bulk_shards.find_files(pairs))
    assert [(one.start, one.stop, one.first, one.before, one.rows) for one in pieces] == [
        (0, 1, 0, 0, 64), (1, 2, 64, 64, 64), (2, 4, 128, 128, 72), (0, 1, 0, 200, 100)
    ]  # fmt: skip
    assert run(pairs, tmp_path / "scored", tiny_artifact, "--shards", 1) == 0
    check_output(tmp_path / "scored", rows, expect(rows, tiny_artifact), 1)


def test_a_pair_that_comes_again_runs_once(tiny_artifact: Path) -> None:
    ranker = Reranker(tiny_artifact, threads=1)
    long = "coffee paper " * 60
    ranked = rank_pairs(ranker, ["sort", "list", "sort", "sort", "sort"], [long, long, "river", long, long])
    assert ranker.truncated_passages == 2  # counted by the runtime as it runs them
    assert ranked.pairs == 3
    assert ranked.truncated.tolist() == [True, True, False, True, True]
    assert len({float(ranked.logits[row]) for row in (0, 3, 4)}) == 1


@given(st.text(max_size=12), st.integers(0, 12), st.integers(0, 12))
def test_a_key_tells_where_the_query_ends(text: str, one: int, other: int) -> None:
    pairs = [(text[:cut], text[cut:]) for cut in (one, other)]
    first, second = pair_keys(*zip(*pairs, strict=True))
    assert (first == second) == (pairs[0] == pairs[1])
    assert len(first) == 32
    assert 0 <= shard_of(first, 7) < 7


def test_the_shards_divide_the_keys_evenly() -> None:
    keys = pair_keys([str(number) for number in range(3000)], ["river"] * 3000)
    counts = np.bincount([shard_of(key, 3) for key in keys])
    assert counts.min() > 900
    assert [shard_of(digits * 8, 16) for digits in "0f8"] == [0, 15, 8]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,400 rows, 2,400 pairs."""
    draw = random.Random(1)
    passages = [f"{' '.join(draw.choices(WORDS, k=20))} {number}" for number in range(2400)]
    path = tmp_path_factory.mktemp("many") / "pairs.parquet"
    pq.write_table(pa.table({"query": draw.choices(WORDS, k=2400), "passage": passages}), path)
    return path


def test_a_killed_run_goes_on_and_scores_no_finished_shard_again(
    many: Path, tiny_artifact: Path, tmp_path: Path
) -> None:
    output, shards = tmp_path / "scored", 80
    command = [sys.executable, "-m", "recipes.bulk", str(many), str(output), "--model", str(tiny_artifact), "--workers",
               "1", "--shards", str(shards)]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while len(list(output.glob("shard-*"))) < 5 and process.poll() is None:
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    finished = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in output.glob("shard-*")}
    assert 5 <= len(finished) < shards
    assert not (output / "_summary.json").exists()
    (output / ".shard-00079.parquet.1.aa.tmp").write_bytes(b"half")

    assert run(many, output, tiny_artifact) == 0
    for path, (changed, content) in finished.items():
        assert (path.stat().st_mtime_ns, path.read_bytes()) == (changed, content)
    kept = sum(pq.read_metadata(path).num_rows for path in finished)
    assert summary(output)["pairs scored"] == 2400 - kept
    assert summary(output)["shards kept"] == len(finished)
    assert not list(output.glob(".*.tmp"))
    table = read(output)
    assert table["input_row"].to_pylist() == list(range(2400))
    assert table["passage"].to_pylist() == pq.read_table(many)["passage"].to_pylist()

    lost = output / "shard-00033.parquet"
    before = lost.read_bytes()
    lost.unlink()
    assert run(many, output, tiny_artifact) == 0
    assert lost.read_bytes() == before
    assert summary(output)["pairs scored"] == pq.read_metadata(lost).num_rows
    assert summary(output)["shards kept"] == shards - 1


@pytest.fixture
def scored(pairs: Path, tiny_artifact: Path, tmp_path: Path) -> Path:
    output = tmp_path / "scored"
    assert run(pairs, output, tiny_artifact, "--shards", 3) == 0
    return output


def refusal(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """The one line that a run with status 2 ends in."""
    capsys.readouterr()
    assert bulk.main([str(argument) for argument in arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_what_another_run_began_is_refused(
    scored: Path, pairs: Path, many: Path, tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = negated_artifact(tiny_artifact, tmp_path / "negated")
    before = {path.name: path.read_bytes() for path in scored.glob("shard-*")}
    assert "a run with model " in refusal(capsys, pairs, scored, "--model", other)
    assert "a run with columns " in refusal(capsys, many, scored, "--model", tiny_artifact)
    assert "a run with shards 3, this one has 4" in refusal(
        capsys, pairs, scored, "--model", tiny_artifact, "--shards", 4
    )
    assert "a run with max_length 64, this one has 32" in refusal(
        capsys, pairs, scored, "--model", tiny_artifact, "--max_length", 32
    )
    with claimed(scored / ".lock", "held by a test"):
        assert "another process fills" in refusal(capsys, pairs, scored, "--model", tiny_artifact)
    assert {path.name: path.read_bytes() for path in scored.glob("shard-*")} == before
    assert run(pairs, scored, tiny_artifact) == 0  # the number of shards is the plan's
    assert summary(scored)["pairs scored"] == 0


def test_changed_input_is_another_run(tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"query": ["sort"], "passage": ["list"]}), path)
    assert run(path, tmp_path / "scored", tiny_artifact) == 0
    pq.write_table(pa.table({"query": ["sort"], "passage": ["file"]}), path)
    assert "a run with input " in refusal(capsys, path, tmp_path / "scored", "--model", tiny_artifact)


def test_a_damaged_output_does_not_pass_the_check(
    scored: Path, pairs: Path, tiny_artifact: Path, capsys: pytest.CaptureFixture
) -> None:
    path = scored / "shard-00001.parquet"
    whole, table = path.read_bytes(), pq.read_table(path)
    arguments = (pairs, scored, "--model", tiny_artifact)
    path.write_bytes(whole[:-100])
    assert "shard-00001.parquet can't be read" in refusal(capsys, *arguments)
    path.write_bytes((scored / "shard-00002.parquet").read_bytes())
    assert "holds keys of another shard" in refusal(capsys, *arguments)
    pq.write_table(table.slice(1), path)
    assert "has 299 rows, 299 of the 300 in the input" in refusal(capsys, *arguments)
    pq.write_table(pa.concat_tables([table.slice(1), table.slice(1, 1)]), path)
    assert "has 300 rows, 299 of the 300 in the input" in refusal(capsys, *arguments)
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), path)
    assert "has 301 rows, 300 of the 300 in the input" in refusal(capsys, *arguments)
    again = next(key for key in table["key"].to_pylist() if table["key"].to_pylist().count(key) > 1)
    at = table["key"].to_pylist().index(again)
    logits = table["logit"].to_numpy().copy()
    logits[at] += 1
    pq.write_table(table.set_column(table.schema.get_field_index("logit"), "logit", pa.array(logits)), path)
    assert "has a key with two logits" in refusal(capsys, *arguments)
    path.unlink()
    assert run(pairs, scored, tiny_artifact) == 0
    assert path.read_bytes() == whole

"""TREC run files: read as trec_eval reads them, written so that it measures what we measured, bad lines refused."""

from pathlib import Path

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data import InputError
from training.metrics import evaluate
from training.trec import check_ids, read_run, untied, write_run

# Any text without ASCII white space, the separator of columns; U+00A0 and U+3000 stay part of an id.
IDS = st.text(st.characters(exclude_characters=" \t\n\r\x0b\x0c", exclude_categories=["Cs"]), min_size=1, max_size=5)
SCORES = st.floats(allow_nan=False, allow_infinity=False)
RUNS = st.dictionaries(IDS, st.dictionaries(IDS, SCORES, min_size=1, max_size=6), min_size=1, max_size=4)
BYTE_ORDER_MARK = "\ufeff"


def test_the_score_decides_and_equal_scores_keep_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.run"
    lines = [
        "q1 Q0 low 1 -1.5 tag",
        "q2\tQ0\tx\t1\t7\ttag",
        "q1 Q0 z 3 2 tag",
        "",
        "q1  Q0 a 2 2.0 tag",
        "q1 Q0 top 9 1e3 t",
        f"{BYTE_ORDER_MARK}q Q0 x 1 0 t",
    ]
    path.write_text("\r\n".join(lines) + "\r\n", encoding="utf-8-sig")
    run = read_run(path)
    assert [*run] == ["q1", "q2", f"{BYTE_ORDER_MARK}q"]
    assert [*run["q1"].items()] == [("top", 1000.0), ("z", 2.0), ("a", 2.0), ("low", -1.5)]


@settings(max_examples=60, deadline=None)
@given(RUNS)
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, run: dict[str, dict[str, float]]
) -> None:
    # The first id of a file would lose a byte order mark in front, which belongs to the file.
    if next(iter(run)).startswith(BYTE_ORDER_MARK):
        return
    path = tmp_path_factory.mktemp("run") / "runs" / "a.trec"
    write_run(path, run, "tag")
    found = read_run(path, run.keys())
    assert found == run
    for query, scores in run.items():
        assert [*found[query]] == sorted(scores, key=lambda passage: -scores[passage])
    ranks = [line.split(" ")[3] for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert ranks == [str(rank) for scores in run.values() for rank in range(1, len(scores) + 1)]
    assert [file.name for file in path.parent.iterdir()] == ["a.trec"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, 1.0 + 1e-12, 3.25, -2.0, 1e300]), min_size=1, max_size=8))
def test_untied_scores_keep_the_order_and_fall_in_single_precision(scores: list[float]) -> None:
    run = {"q": {f"p{number}": score for number, score in enumerate(scores)}}
    apart = untied(run)["q"]
    assert [*apart] == sorted(run["q"], key=lambda passage: -run["q"][passage])
    values = np.array([*apart.values()])
    assert (np.diff(values.astype(np.float32)) < 0).all()
    close = [abs(apart[passage] - score) <= 1e-5 * max(1, abs(score)) for passage, score in run["q"].items()]
    assert all(close) or 1e300 in scores


@pytest.mark.parametrize("relevant", ["a", "m", "z"])
def test_another_tool_measures_our_order_where_scores_are_equal(relevant: str, tmp_path: Path) -> None:
    run, judgments = {"q": {"m": 0.5, "z": 0.5, "a": 0.5}}, {"q": {relevant: 1}}
    write_run(tmp_path / "a.trec", untied(run), "tag")
    read = list(ir_measures.read_trec_run(str(tmp_path / "a.trec")))
    for name in ("nDCG@10", "MRR@10", "MAP"):
        theirs = ir_measures.calc_aggregate([ir_measures.parse_measure(name)], judgments, read)
        assert [*theirs.values()] == pytest.approx([evaluate(run, judgments, [name])[name]["q"]])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1 Q0 b 2 0.5", "a.run:2: 5 columns, expected 6"),
        ("q1 Q0 b 2 0.5 my tag", "a.run:2: 7 columns, expected 6"),
        ("q1 Q0 b 2 high tag", "a.run:2: score 'high' is not a finite number: correct it"),
        ("q1 Q0 b 2 nan tag", "a.run:2: score 'nan'"),
        ("q1 Q0 b 2 1e999 tag", "a.run:2: score '1e999'"),
        ("q1 Q0 a 2 0.5 tag", "a.run:2: query 'q1' ranks passage 'a' twice: keep one line"),
        ("q7 Q0 a 1 0.5 tag", "a.run:2: query 'q7' is in none of the data: drop the line"),
        ("q\udcff Q0 a 1 0.5 tag", "a.run:2: not UTF-8"),
    ],
)
def test_a_bad_line_is_named(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.run"
    path.write_bytes(f"q1 Q0 a 1 0.75 tag\n{line}\n".encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=message):
        read_run(path, {"q1"})


def test_an_empty_file_and_what_can_not_be_written_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.run"
    path.write_text("\n \n", encoding="utf-8")
    with pytest.raises(InputError, match="is empty: expected lines of"):
        read_run(path)
    for run, tag in (({"q 1": {"a": 1.0}}, "tag"), ({"q": {"": 1.0}}, "tag"), ({"q": {"a": 1.0}}, "my tag")):
        with pytest.raises(InputError, match="white space"):
            write_run(tmp_path / "b.run", run, tag)
    with pytest.raises(InputError, match="score nan is not a finite number"):
        write_run(tmp_path / "b.run", {"q": {"a": float("nan")}}, "tag")
    assert [file.name for file in tmp_path.iterdir()] == ["a.run"]
    check_ids(["a\u00a0b", "日本\u3000語"])

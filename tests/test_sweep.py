"""The sweep: which combinations there are, on how much they are trained, and that its table says what was measured."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_distill import write_corpus, write_teacher

from recipes.settings import TrainingConfig
from recipes.sweep import grid, main, smaller
from training.data import InputError
from training.dev import DevMeasure, load_student
from training.load import load_source
from training.prepare import held_out
from training.tiers import TIERS


def test_a_grid_has_all_combinations_with_values_of_the_settings_kinds() -> None:
    assert grid(["kl=0,0.5", "candidates=4,8", "false_negative_margin=-1"]) == [
        {"kl": 0.0, "candidates": 4, "false_negative_margin": -1.0},
        {"kl": 0.0, "candidates": 8, "false_negative_margin": -1.0},
        {"kl": 0.5, "candidates": 4, "false_negative_margin": -1.0},
        {"kl": 0.5, "candidates": 8, "false_negative_margin": -1.0},
    ]
    assert isinstance(grid(["candidates=4"])[0]["candidates"], int)


@pytest.mark.parametrize(
    ("attempts", "message"),
    [
        (["rate=1"], "--attempts rate=1: expected NAME=VALUE,VALUE,... with one of apart_gold, "),
        (["layers=2,4"], "--attempts layers=2,4: expected NAME=VALUE"),
        (["gate=report"], "--attempts gate=report: expected NAME=VALUE"),
        (["kl"], "--attempts kl: expected NAME=VALUE"),
        (["candidates=4,x"], "--attempts candidates=4,x: expected int values"),
        (["kl=0", "kl=1"], "expected each setting once"),
        ([], "--attempts is missing"),
    ],
)
def test_what_is_no_grid_is_named(attempts: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        grid(attempts)


def test_every_stage_is_trained_on_its_share() -> None:
    tier = replace(TIERS["small"], imitated_texts=1000, apart_queries=3000, train_queries=200)
    training, part = smaller(TrainingConfig(), tier, 0.15)
    assert (part.imitated_texts, part.apart_queries, part.train_queries) == (150, 450, 30)
    assert (training.limit, training.imitated_texts, training.apart_queries) == (None, None, None)
    _, part = smaller(TrainingConfig(limit=1000, apart_queries=5000), tier, 0.1)
    assert (part.imitated_texts, part.apart_queries, part.train_queries) == (100, 500, 100)  # what is said holds
    assert smaller(TrainingConfig(limit=1000), tier, 0.1)[1].apart_queries == 100
    assert smaller(TrainingConfig(limit=10), tier, 0.5)[1].imitated_texts == 160  # 32 for each query
    _, part = smaller(TrainingConfig(imitated_texts=40, apart_queries=0), tier, 0.1)
    assert (part.imitated_texts, part.apart_queries, part.train_queries) == (4, 0, 20)


def test_the_table_says_what_dev_says_and_nothing_is_trained_twice(bi_encoder: Path, tmp_path: Path) -> None:
    corpus, teacher = write_corpus(tmp_path / "corpus"), write_teacher(tmp_path / "teacher.tsv")
    given = {
        "data": corpus, "teacher": teacher, "base": bi_encoder, "output": tmp_path / "sweeps", "share": 1.0,
        "cache": tmp_path / "cache", "depth": 12, "candidates": 4, "evaluations": 2, "max_length": 32,
        "train_length": 32, "queries_per_step": 4, "threads": 1, "dev_queries": 24, "neighbours": 8,
        "learning_rate": 1e-12,
    }  # fmt: skip
    options = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    assert main([*options, "--attempts", "apart_queries=0,480"]) == 0
    found = json.loads((tmp_path / "sweeps/sweep.json").read_text())
    first, second = (row["MRR@10"] for row in found["tried"])
    dev = held_out(load_source(str(corpus), False, False), "dev", 24, 20, 0)
    best = (tmp_path / "cache/runs").glob("*/together/best")
    measured = [DevMeasure(dev.data, dev.candidates)(load_student(folder, 32))["MRR@10"] for folder in best]
    assert sorted([first, second]) == pytest.approx(sorted(measured), abs=1e-9)
    assert found["tried"][0]["less the first"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert found["tried"][1]["less the first"]["mean"] == pytest.approx(second - first)
    assert first != second
    rows = [line.split(" | ") for line in (tmp_path / "sweeps/sweep.md").read_text().splitlines()[4:]]
    assert [row[1] for row in rows] == [f"{value:.4f}" for value in sorted([first, second], reverse=True)]
    trained = times(tmp_path / "cache/runs")
    assert len(trained) == 2
    assert main([*options, "--attempts", "apart_queries=480,0"]) == 0
    assert times(tmp_path / "cache/runs") == trained
    # The same settings with other numbers of queries are another training.
    assert main([*options, "--limit", "24", "--attempts", "apart_queries=0"]) == 0
    assert len(times(tmp_path / "cache/runs")) == 3


def times(runs: Path) -> dict[Path, int]:
    """When each training ended."""
    return {path: path.stat().st_mtime_ns for path in runs.glob("*/together/training.json")}


def test_bad_settings_are_found_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--attempts", "kl=0,-1", "--data", str(tmp_path)]) == 2
    assert "--kl is -1.0: expected 0 or more" in capsys.readouterr().err
    assert main(["--attempts", "kl=0", "--share", "0"]) == 2
    assert "--share is 0.0: expected above 0 to 1" in capsys.readouterr().err

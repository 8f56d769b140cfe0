"""What int8 saves against PyTorch: the direction on a model that is slow by design; the refusal; the table by hand."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import make_checkpoint
from test_distill import write_corpus
from transformers import AutoConfig, AutoModelForSequenceClassification

from recipes import against_torch


def test_a_deep_checkpoint_is_slower_than_the_artifact_beside_it(tiny_artifact: Path, tmp_path: Path) -> None:
    folder, output = shutil.copytree(tiny_artifact, tmp_path / "mine"), tmp_path / "out.json"
    (tmp_path / "mine.checkpoint").mkdir()
    checkpoint = make_checkpoint(tmp_path / "mine.checkpoint", 0.5)
    config = AutoConfig.from_pretrained(checkpoint, num_hidden_layers=48)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(checkpoint)
    given = ["--data", str(write_corpus(tmp_path / "corpus")), "--queries", "2", "--turns", "2"]
    assert against_torch.main([str(folder), *given, "--output", str(output)]) == 0
    content = json.loads(output.read_text())
    found = content["artifacts"]["mine"]
    # Two queries of up to 100 candidates in a corpus of 96: fewer, as BM25 finds those that share a word.
    assert content["read"]["queries"] == 2
    assert 2 < content["read"]["passages"] < 192
    assert found["times"]["low"] > 2
    assert found["MB"] == (folder / "onnx/model.onnx").stat().st_size / 1e6


def test_an_artifact_without_its_checkpoint_is_refused(
    tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(tiny_artifact, tmp_path / "mine")
    assert against_torch.main([str(folder)]) == 2
    assert f"mine has no PyTorch weights beside it: expected {folder}.checkpoint" in capsys.readouterr().err


def test_the_table_by_hand() -> None:
    found: dict[str, Any] = {
        "int8": {"median": 100.0, "low": 90.0, "high": 120.4}, "torch": {"median": 250.0, "low": 225.0, "high": 300.0},
        "times": {"median": 2.5, "low": 2.491, "high": 2.6}, "tier": "small", "MB": 23.46, "rung": "dynamic int8",
    }  # fmt: skip
    content = {
        "command": "c", "settings": {"data": "folder/dl19", "queries": 5, "turns": 7}, "machine": {"threads": 2},
        "read": {"queries": 4, "passages": 390}, "artifacts": {"mine": found},
    }  # fmt: skip
    lines = against_torch.against_torch_section(content).splitlines()
    row = "| mine | small | 23.5 | dynamic int8 | 100 (90 to 120) | 250 (225 to 300) | 2.50 (2.49 to 2.60) |"
    assert lines[-1] == row
    assert "`dl19`, 390 read, 2 cores" in lines[0]
    assert "4 queries' medians of 7 turns" in lines[0]


def test_two_artifacts_of_one_name_are_refused(
    tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(shutil.copytree(tiny_artifact, tmp_path / parent / "mine")) for parent in ("a", "b")]
    assert against_torch.main(given) == 2
    assert "a/mine, " in (error := capsys.readouterr().err)
    assert "b/mine have one name" in error

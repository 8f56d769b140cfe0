"""`flashranker info` and `verify`: what a folder holds, whatever its manifest says, and whether it is still that."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
from flashranker.artifact import read_manifest, write_manifest
from flashranker.cli import main


def test_info_and_verify_say_what_a_folder_holds(tiny_artifact: Path, capsys: pytest.CaptureFixture) -> None:
    size = (tiny_artifact / "onnx/model.onnx").stat().st_size
    assert main(["info", str(tiny_artifact), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["name"], facts["model bytes"], facts["max_length (tokens)"]) == ("tiny", size, 64)
    assert facts["intact"] is True
    assert main(["info", str(tiny_artifact)]) == 0
    shown = capsys.readouterr().out
    assert f"model bytes:           {size}" in shown
    assert re.search(r"^files: +\d+, as the manifest says$", shown, re.MULTILINE)
    assert main(["verify", str(tiny_artifact)]) == 0
    assert "are what the manifest says, the model runs" in capsys.readouterr().out


def test_info_says_that_a_model_was_cut_short(
    tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = shutil.copytree(tiny_artifact, tmp_path / "cut")
    model = folder / "onnx/model.onnx"
    model.write_bytes(model.read_bytes()[:1000])
    assert main(["info", str(folder)]) == 0
    assert f"files:                 NOT as the manifest says: {model} has 1000 bytes" in capsys.readouterr().out
    assert main(["info", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["intact"] is False


def test_info_shows_whatever_a_manifest_may_hold(
    tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = shutil.copytree(tiny_artifact, tmp_path / "odd")
    odd = {
        "metrics": {"x": 3, "y": {"z": "fine"}, "w": {"z": {"queries": [1]}}},
        "gates": [{}, "later"],
        "lineage": {"base": [1]},
    }
    write_manifest(folder, dataclasses.replace(read_manifest(folder), **odd, notices=["small pools"]))
    assert main(["info", str(folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["gates"], facts["notices"]) == (odd["gates"], ["small pools"])
    assert main(["info", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert [line.split(": ", 1)[1].strip() for line in shown.splitlines() if line[:2] in ("x:", "y:")] == [
        "3",
        "z fine",
    ]
    assert "gate: None: FAILED, later" in shown


def test_info_reads_what_distill_writes(tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = shutil.copytree(tiny_artifact, tmp_path / "distilled")
    lineage = {
        "base": {"name": "builtin", "licence": "Apache-2.0", "start": "6 layers"}, "languages": ["en"],
        "run": {"seconds": 12.5, "peak memory in MB": 900},
    }  # fmt: skip
    metrics = {
        "fp32": {"MRR@10": {"mean": 0.5, "low": 0.4, "high": 0.6, "queries": 50}},
        "int8": {"MRR@10": {"mean": 0.62, "low": 0.5, "high": 0.7, "queries": 400}},
    }
    made = {"lineage": lineage, "metrics": metrics, "quantization": {"profile": "dot-product"}}
    write_manifest(folder, dataclasses.replace(read_manifest(folder), **made))
    assert main(["info", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^profile: +dot-product$", shown, re.MULTILINE)
    assert "MRR@10 0.5000 (50 queries)" in shown
    assert "MRR@10 0.6200 (400 queries)" in shown
    assert "licence Apache-2.0, name builtin, start 6 layers" in shown
    assert "peak memory in MB 900, seconds 12.5" in shown


def test_verify_finds_a_changed_byte(tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = shutil.copytree(tiny_artifact, tmp_path / "changed")
    content = bytearray((folder / "config.json").read_bytes())
    content[5] ^= 1
    (folder / "config.json").write_bytes(content)
    assert main(["verify", str(folder)]) == 2
    error = capsys.readouterr().err
    assert "config.json was changed" in error
    assert error.count("\n") == 1

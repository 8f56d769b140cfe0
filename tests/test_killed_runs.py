"""The recipe killed at every stage, for real: it goes on where it was, ends with the same bytes, never shows half."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from flashranker.artifact import read_manifest
from test_distill import write_corpus, write_teacher

STAGES = ["2/7 teacher", "4/7 training", "    together", "5/7 export", "6/7 measuring", "7/7 artifact"]


@pytest.fixture(scope="module")
def command(calm_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("killed")
    corpus, teacher = write_corpus(folder / "corpus"), write_teacher(folder / "teacher.tsv")
    settings = {
        "data": corpus, "teacher": teacher, "base": calm_checkpoint, "gate": "report", "depth": 12, "candidates": 4,
        "neighbours": 4, "evaluations": 2, "max_length": 32, "train_length": 32, "learning_rate": 1e-3,
        "queries_per_step": 4, "threads": 1,
    }  # fmt: skip
    options = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    return [sys.executable, "-u", "-m", "recipes.distill", *options]


def run_until(command: list[str], stage: str | None) -> int:
    """Run the recipe; SIGKILL it when it announces `stage`. Returns its exit status."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if stage and line.startswith(stage):
                process.kill()
                break
        process.stdout.read()
        return process.wait()


def test_a_run_killed_at_every_stage_ends_as_an_unbroken_one(command: list[str], tmp_path: Path) -> None:
    def paths(name: str) -> list[str]:
        return ["--output", str(tmp_path / name / "tiny"), "--cache", str(tmp_path / name / "cache")]

    assert run_until(command + paths("whole"), None) == 0
    broken = tmp_path / "broken" / "tiny"
    for stage in STAGES:
        assert run_until(command + paths("broken"), stage) == -signal.SIGKILL, stage
        # The rename is the last thing that happens: what is visible under the artifact's name is whole.
        assert not broken.exists() or read_manifest(broken)
    assert run_until(command + paths("broken"), None) == 0
    whole = read_manifest(tmp_path / "whole" / "tiny")
    assert (broken / "onnx/model.onnx").read_bytes() == (tmp_path / "whole/tiny/onnx/model.onnx").read_bytes()
    assert read_manifest(broken).metrics == whole.metrics
    weights = (tmp_path / name / "tiny.checkpoint/model.safetensors" for name in ("whole", "broken"))
    assert next(weights).read_bytes() == next(weights).read_bytes()
    assert not [path.name for path in broken.parent.iterdir() if path.name.startswith(".tiny")]

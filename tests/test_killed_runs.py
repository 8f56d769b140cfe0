"""The recipe killed at every stage, for real: it goes on where it was, ends with the same bytes, never shows half."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flashranker.artifact import read_manifest
from test_distill import write_corpus, write_teacher

from recipes.distill import main

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


@contextmanager
def run_to(command: list[str], stage: str | None, said: Path = Path(os.devnull)) -> Iterator[subprocess.Popen[str]]:
    """The recipe, when it announces `stage` or, without one, is at its end; its standard error goes to `said`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (
        said.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as process,
    ):
        try:
            assert process.stdout
            for line in process.stdout:
                if stage and line.startswith(stage):
                    break
            yield process
        finally:
            process.kill()


def run_until(command: list[str], stage: str | None) -> int:
    """Run the recipe; SIGKILL it when it announces `stage`. Returns its exit status."""
    with run_to(command, stage) as process:
        if stage:
            process.kill()
        process.communicate()
        return process.returncode


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


def test_of_two_runs_one_waits_and_an_interrupted_one_goes_on(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def paths(name: str) -> list[str]:
        return ["--output", str(tmp_path / name), "--cache", str(tmp_path / "cache")]

    with run_to(command + paths("one"), "4/7 training", tmp_path / "said") as process:
        process.send_signal(signal.SIGSTOP)
        assert main([*command[4:], *paths("other")]) == 2
        (refusal,) = capsys.readouterr().err.splitlines()[-1:]
        assert refusal.startswith("error: another run with these settings works in ")
        assert main([*command[4:], *paths("one"), "--learning_rate", "2e-3"]) == 2
        assert f"error: another run is to make {tmp_path / 'one'}: wait for it" in capsys.readouterr().err
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        process.communicate()
        assert process.returncode == 128 + signal.SIGINT
    said = (tmp_path / "said").read_text(encoding="utf-8")
    assert said.splitlines()[-1] == "interrupted; the same command goes on from what is in --cache"
    assert "Traceback" not in said
    assert main([*command[4:], *paths("one")]) == 0
    assert "another run" not in capsys.readouterr().err

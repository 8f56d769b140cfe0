"""A run that was killed, wherever that was, ends as one that was not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from test_train import SETTINGS, make_dev, make_examples, planted, run

import training.train
from training.losses import DistillationLoss
from training.train import last_complete_checkpoint, train


def test_a_killed_run_ends_with_the_weights_of_an_unbroken_one(tiny_checkpoint: Path, tmp_path: Path) -> None:
    whole = run(tiny_checkpoint, tmp_path / "whole", planted(3), rounds=400)
    folder = tmp_path / "killed"
    script = (
        "import sys; sys.path[:0] = ['.', 'tests']\n"
        "from pathlib import Path; import torch; torch.set_num_threads(1); import test_resumed as t\n"
        f"t.run(Path({str(tiny_checkpoint)!r}), Path({str(folder)!r}), t.planted(3), rounds=400)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(folder.glob("run/checkpoint-*/trainer_state.json")):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "run" / "best").exists()
    resumed = run(tiny_checkpoint, folder, planted(3), rounds=400)
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("seed", "sign", "rounds", "rate", "patience", "measured"),
    [(3, 1.0, 96, 1e-3, 1, 1), (0, -1.0, 24, 7e-4, 2, 2)],
    ids=["dev rises", "dev falls"],
)
def test_a_run_that_goes_on_measures_and_stops_as_an_unbroken_one(
    seed: int,
    sign: float,
    rounds: int,
    rate: float,
    patience: int,
    measured: int,
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    teacher = planted(seed)
    examples, dev = make_examples(sign * teacher, rounds), make_dev(teacher)
    settings = SETTINGS | {"patience": patience, "learning_rate": rate}
    whole = train(tiny_checkpoint, examples, *dev, tmp_path / "whole", **settings)
    _, first, second, *later = (value for _, value in whole.dev_quality)
    assert second > first if sign > 0 else second < first and len(later) == 1

    class Stopped(DistillationLoss):
        passes = 0

        def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            Stopped.passes += 1
            if Stopped.passes > measured * rounds // 2 + 4:  # of two a step; an evaluation is a quarter
                raise OSError("the machine went away")
            return super().forward(*args, **kwargs)

    kept = settings["loss"]
    broken = settings | {"loss": lambda model: Stopped(model, *kept.args, **kept.keywords)}
    with pytest.raises(OSError, match="went away"):
        train(tiny_checkpoint, examples, *dev, tmp_path / "broken", **broken)
    resumed = train(tiny_checkpoint, examples, *dev, tmp_path / "broken", **settings)
    assert resumed.dev_quality == whole.dev_quality
    assert resumed.read == {"broken": whole.read["whole"]}
    ended, expected = (load_file(one.checkpoint / "model.safetensors") for one in (resumed, whole))
    assert all(torch.equal(ended[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("keep", "patience", "rate", "sign", "rounds"), [("best", 1, 1e-3, 1.0, 96), ("last", 9, 2e-4, -1.0, 25)]
)
def test_a_run_killed_behind_its_last_step_takes_no_more_of_them(
    keep: Literal["best", "last"],
    patience: int,
    rate: float,
    sign: float,
    rounds: int,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    teacher = planted(0)
    # 25 steps are one more than 4 evaluations of 6.
    examples, dev = make_examples(sign * teacher, rounds), make_dev(teacher)
    settings: dict[str, Any] = SETTINGS | {"patience": patience, "keep": keep, "learning_rate": rate}
    whole = train(tiny_checkpoint, examples, *dev, tmp_path / "whole", **settings)
    if keep == "best":
        assert max(whole.dev_quality[0][1], whole.dev_quality[-1][1]) < whole.quality

    def full(*args: object) -> None:
        raise OSError("no space left on the device")

    with monkeypatch.context() as disk:
        disk.setattr(training.train, "save_checkpoint", full)
        with pytest.raises(OSError, match="no space"):
            train(tiny_checkpoint, examples, *dev, tmp_path / "broken", **settings)
    resumed = train(tiny_checkpoint, examples, *dev, tmp_path / "broken", **settings)
    assert resumed.dev_quality == whole.dev_quality
    assert (resumed.loss["broken"], resumed.read["broken"]) == (whole.loss["whole"], whole.read["whole"])
    ended, expected = (load_file(one.checkpoint / "model.safetensors") for one in (resumed, whole))
    assert all(torch.equal(ended[name], expected[name]) for name in expected)


def test_an_unfinished_checkpoint_is_removed(tmp_path: Path) -> None:
    for name, state in (
        ("checkpoint-5", '{"global_step": 5}'),
        ("checkpoint-9", '{"global_st'),
        ("checkpoint-12", None),
    ):
        (tmp_path / name).mkdir()
        if state:
            (tmp_path / name / "trainer_state.json").write_text(state)
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-5"]

"""The measurement of training speed: what is compared is the same work, and a run ends in its file."""

import json
from pathlib import Path

import pytest
from sentence_transformers.cross_encoder import CrossEncoderTrainer
from test_distill import write_corpus
from transformers.trainer_utils import TrainOutput

from recipes.training_speed import SpeedConfig, main, stock, together
from training.dev import load_student
from training.load import load_source
from training.precision import uses_bfloat16
from training.prepare import make_examples
from training.student import build_student


def test_both_trainers_read_the_same_lists(bi_encoder: Path, tmp_path: Path) -> None:
    data = load_source(str(write_corpus(tmp_path / "corpus")), False, False)
    examples = make_examples(
        data, None, tmp_path, queries=8, depth=12, candidates=4, random_share=0.25, teacher_length=32,
        seed=0,
    ).dataset  # fmt: skip
    build_student(str(bi_encoder), tmp_path / "start")
    model, config = load_student(tmp_path / "start", 32), SpeedConfig(queries_per_step=4, steps=2)
    own, other = (make(config, examples, model, tmp_path / "out") for make in (together, stock))
    assert other.train_dataset["query"] == own.train_dataset["query"]
    assert other.train_dataset["docs"] == own.train_dataset["passages"]
    assert other.train_dataset["labels"] == [[1.0, 0.0, 0.0, 0.0]] * 8
    for trainer in (own, other):
        a_step = trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps
        assert (a_step, trainer.args.max_steps) == (4, 2)


def test_a_run_ends_in_its_file(bi_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_the_clock = CrossEncoderTrainer.train

    def in_two_seconds(trainer: CrossEncoderTrainer) -> TrainOutput:
        done = by_the_clock(trainer)
        assert done.metrics["train_runtime"] > 0
        return done._replace(metrics={"train_runtime": 2.0})

    monkeypatch.setattr(CrossEncoderTrainer, "train", in_two_seconds)
    corpus, output = write_corpus(tmp_path / "corpus"), tmp_path / "speed.json"
    settings = {
        "data": corpus, "base": bi_encoder, "candidates": 4, "neighbours": 8, "queries_per_step": 4, "steps": 1,
        "turns": 3, "length": 32, "cache": tmp_path, "output": output,
    }  # fmt: skip
    assert main([part for name, value in settings.items() for part in (f"--{name}", str(value))]) == 0
    speeds = json.loads(output.read_text(encoding="utf-8"))["pairs per second"]
    both = {"stock", "together", "apart"}
    assert set(speeds) == (both | {f"{name}, bf16" for name in both} if uses_bfloat16("auto") else both)
    # A step of lists scores 4 queries' 4 passages, a step apart 8 queries' and 8 passages' pairs.
    assert {name: found["median"] for name, found in speeds.items()} == {
        name: 32.0 if name.startswith("apart") else 8.0 for name in speeds
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--candidates", "1"], "--candidates and --neighbours must be 2 or more"),
        (["--data", "no/data/x"], "no folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(capsys: pytest.CaptureFixture, options: list[str], message: str) -> None:
    assert main(options) == 2
    assert message in capsys.readouterr().err

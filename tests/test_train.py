"""The training loop learns what is planted, and nothing else."""

import json
import struct
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from scipy.stats import kendalltau
from tensorboardX.proto.event_pb2 import Event
from test_export_architectures import make_classifier

import training.train
from training.data import InputError, RankingData
from training.dev import load_student, score_candidates
from training.examples import Example, as_dataset
from training.losses import DistillationLoss, NeighbourhoodLoss
from training.neighbours import neighbourhood_dataset
from training.student import build_student
from training.train import TrainingResult, joined, train


class Clock:
    """Half a second goes by between two looks at it."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 0.5
        return self.now


QUERIES = ["python list", "river water", "solar panel", "violin garden", "copper market", "socket server",
           "window bridge", "coffee bread"]  # fmt: skip
PASSAGES = ["mountain", "falcon winter", "sort file", "thread lock queue", "json date", "letter paper"]
SETTINGS: dict[str, Any] = {
    "learning_rate": 2e-3,
    "rows_per_step": 8,
    "evaluations": 4,
    "patience": 9,
    "max_length": 32,
    "loss": partial(DistillationLoss, kl_weight=1.0, regression_weight=0.5, gold_weight=0.0, temperature=1.0),
}


def planted(seed: int) -> np.ndarray:
    """Teacher logits, (queries, passages): a random order for every query."""
    generator = np.random.default_rng(seed)
    return np.stack([generator.permutation(len(PASSAGES)) - 2.5 for _ in QUERIES])


def make_examples(logits: np.ndarray, rounds: int) -> Dataset:
    once = [
        Example(query, PASSAGES, row.tolist(), [0] * len(PASSAGES)) for query, row in zip(QUERIES, logits, strict=True)
    ]
    return as_dataset(once * rounds)


def make_dev(logits: np.ndarray) -> tuple[RankingData, dict[str, list[str]]]:
    passages = {f"p{i}": text for i, text in enumerate(PASSAGES)}
    queries = dict(zip((f"q{i}" for i in range(len(QUERIES))), QUERIES, strict=True))
    judgments = {query: {f"p{int(row.argmax())}": 1} for query, row in zip(queries, logits, strict=True)}
    data = RankingData("planted", queries, passages, judgments, {}, {"train": [], "dev": list(queries), "test": []}, "")
    return data, {query: list(passages) for query in queries}


def run(checkpoint: Path, folder: Path, logits: np.ndarray, rounds: int = 60) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    build_student(str(checkpoint), folder / "start")
    data, candidates = make_dev(logits)
    return train(
        folder / "start", make_examples(logits, rounds), data, candidates, folder / "run", **SETTINGS
    ).checkpoint


def agreement(checkpoint: Path, logits: np.ndarray) -> float:
    """Mean Kendall tau over queries between a checkpoint's order and `logits`."""
    found = score_candidates(load_student(checkpoint, 32), *make_dev(logits))
    return float(np.mean([kendalltau(row, mine).statistic for row, mine in zip(logits, found.values(), strict=True)]))


def test_the_student_recovers_a_planted_order_and_a_shuffled_teacher_does_not_lead_there(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    teacher = planted(0)
    assert agreement(run(tiny_checkpoint, tmp_path / "true", teacher), teacher) > 0.8
    assert agreement(run(tiny_checkpoint, tmp_path / "shuffled", planted(7)), teacher) < 0.4


def test_a_step_in_parts_is_the_same_step(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = planted(0)
    weights = []
    for at_once in (8, 2, 1):
        monkeypatch.setattr(training.train, "ROWS_AT_ONCE", at_once)
        checkpoint = run(tiny_checkpoint, tmp_path / str(at_once), teacher, rounds=12)
        weights.append(load_file(checkpoint / "model.safetensors")["classifier.weight"])
    start = load_file(tmp_path / "8/start/model.safetensors")["classifier.weight"]
    moved = (weights[0] - start).abs().max()
    assert moved > 1e-3
    for other in weights[1:]:
        assert (other - weights[0]).abs().max() < 0.02 * moved


def test_neighbourhoods_teach_which_passage_answers_and_shuffled_ones_do_not(bi_encoder: Path, tmp_path: Path) -> None:
    passages = {f"p{i}": text for i, text in enumerate(PASSAGES)}
    queries = {f"q{i}": text for i, text in enumerate(QUERIES[: len(PASSAGES)])}

    def learned(answers: list[int], folder: Path) -> float:
        """Share of queries whose planted answer, the passage of their own number, comes first after training."""
        judgments = {f"q{i}": {f"p{answer}": 1} for i, answer in enumerate(answers)}
        data = RankingData("planted", queries, passages, judgments, {}, {"train": [], "dev": [], "test": []}, "")
        group = [(f"q{i}", f"p{answer}") for i, answer in enumerate(answers)]
        build_student(str(bi_encoder), folder / "start")
        settings = SETTINGS | {"rows_per_step": 1, "loss": NeighbourhoodLoss}
        lists = {query: list(passages) for query in queries}
        rows = neighbourhood_dataset(data, [group] * 60)
        result = train(folder / "start", rows, data, lists, folder / "run", **settings)
        found = score_candidates(load_student(result.checkpoint, 32), data, lists)
        return float(np.mean([int(row.argmax()) == i for i, row in enumerate(found.values())]))

    own = list(range(len(PASSAGES)))
    assert learned(own, tmp_path / "own") == 1.0
    assert learned([*own[1:], own[0]], tmp_path / "others") == 0.0


def test_two_stages_are_reported_as_one() -> None:
    first = TrainingResult(Path("a"), {"one": [(5, 2.0), (9, 1.5)]}, [(0, 0.2), (10, 0.3)], 0.3, {"one": 320})
    second = TrainingResult(Path("b"), {"two": [(4, 1.2)]}, [(0, 0.3), (4, 0.25)], 0.3, {"two": 32})
    assert joined(first, second) == TrainingResult(
        Path("b"),
        {"one": [(5, 2.0), (9, 1.5)], "two": [(14, 1.2)]},
        [(0, 0.2), (10, 0.3), (14, 0.25)],
        0.3,
        {"one": 320, "two": 32},
    )


def test_the_last_checkpoint_is_kept_where_that_is_asked_for_and_says_what_it_reached(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    teacher = planted(0)
    data, candidates = make_dev(teacher)
    build_student(str(tiny_checkpoint), tmp_path / "start")
    # What is planted is learned the wrong way round; 25 steps are one more than 4 evaluations of 6.
    found = {
        name: train(
            tmp_path / "start", make_examples(-teacher, steps), data, candidates, tmp_path / name,
            keep=keep, **SETTINGS,  # type: ignore[arg-type]
        )
        for name, keep, steps in (("best", "best", 25), ("last", "last", 25), ("whole", "last", 24))
    }  # fmt: skip
    assert found["best"].quality == max(value for _, value in found["best"].dev_quality)
    assert found["last"].dev_quality[-1] == (24, found["last"].quality)
    ended, whole = (load_file(found[name].checkpoint / "model.safetensors") for name in ("last", "whole"))
    assert all(torch.equal(ended[name], whole[name]) for name in whole)
    assert found["last"].quality < found["best"].quality - 0.05
    again = score_candidates(load_student(found["last"].checkpoint, 32), data, candidates)
    ranks = [(row > row[int(order.argmax())]).sum() + 1 for row, order in zip(again.values(), teacher, strict=True)]
    assert np.mean([1 / rank for rank in ranks]) == pytest.approx(found["last"].quality)


def test_the_best_checkpoint_is_kept_and_a_rerun_returns_it(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = run(tiny_checkpoint, tmp_path, planted(0), rounds=20)
    weights = (checkpoint / "model.safetensors").read_bytes()
    stamp = (checkpoint / "model.safetensors").stat().st_mtime_ns
    assert run(tiny_checkpoint, tmp_path, planted(0), rounds=20) == checkpoint
    assert (checkpoint / "model.safetensors").stat().st_mtime_ns == stamp
    other = run(tiny_checkpoint, tmp_path / "again", planted(0), rounds=20)
    assert (other / "model.safetensors").read_bytes() == weights


def test_layers_of_another_kind_are_refused(tmp_path: Path) -> None:
    make_classifier("distilbert", tmp_path / "base")
    with pytest.raises(InputError, match="--layers can't pick layers of a distilbert"):
        build_student(str(tmp_path / "base"), tmp_path / "student", layers=[0])


def test_a_layer_taken_twice_is_two_layers(tiny_checkpoint: Path, tmp_path: Path) -> None:
    build_student(str(tiny_checkpoint), tmp_path / "three", layers=[0, 1, 1])
    stack = load_student(tmp_path / "three", 32)[0].model.bert.encoder.layer
    first, second = (layer.output.dense.weight for layer in stack[1:])
    torch.testing.assert_close(first, second)
    with torch.no_grad():
        first.add_(1.0)
    assert (first - second).min() > 0.9


def test_chosen_layers_are_the_bases_own(tiny_checkpoint: Path, tmp_path: Path) -> None:
    build_student(str(tiny_checkpoint), tmp_path / "one", layers=[1])
    whole, part = (load_student(folder, 32)[0].model for folder in (tiny_checkpoint, tmp_path / "one"))
    assert part.config.num_hidden_layers == 1
    expected = whole.bert.encoder.layer[1].state_dict()
    for name, value in part.bert.encoder.layer[0].state_dict().items():
        torch.testing.assert_close(value, expected[name])


def test_the_log_has_a_line_for_every_value_with_rate_and_speed(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("training.progress.time", Clock())
    logits = planted(0)
    result = train(tiny_checkpoint, make_examples(logits, 12), *make_dev(logits), tmp_path / "run", **SETTINGS)
    assert "run: 100%|" in capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [(line["step"], line["loss"]) for line in steps] == result.loss["run"]
    assert result.read == {"run": 12 * 8}
    assert [(line["step"], line["eval_MRR@10"]) for line in lines if "eval_MRR@10" in line] == result.dev_quality
    # 12 steps, the first of which warms up; the rate that is logged is that of the step before.
    assert [line["learning_rate"] for line in steps] == pytest.approx([2e-3 * (13 - s) / 11 for s in (3, 6, 9, 12)])
    # 8 rows of 6 passages in half a second.
    assert [line["pairs_per_second"] for line in steps] == [96.0] * 4
    curves = read_curves(tmp_path / "run/tensorboard")
    for name, points in (("train/loss", result.loss["run"]), ("eval/MRR_10", result.dev_quality)):
        assert [step for step, _ in curves[name]] == [step for step, _ in points]
        assert [value for _, value in curves[name]] == pytest.approx([value for _, value in points])


def read_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The scalars that TensorBoard would draw, of a folder with one file of events."""
    (file,) = folder.iterdir()
    content, start, curves = file.read_bytes(), 0, defaultdict(list)
    while start < len(content):
        # A record is its length in 8 bytes, a checksum in 4, itself, and a checksum of it.
        (length,) = struct.unpack_from("<Q", content, start)
        event = Event.FromString(content[start + 12 : start + 12 + length])
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                curves[value.tag].append((event.step, value.simple_value))
        start += 16 + length
    return curves


def test_a_step_that_the_data_do_not_fill_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    logits = planted(0)
    examples = make_examples(logits, 1).select(range(7))
    with pytest.raises(InputError, match=r"7 training queries are fewer than the 8 of a step.*--queries_per_step"):
        train(tiny_checkpoint, examples, *make_dev(logits), tmp_path / "run", **SETTINGS)

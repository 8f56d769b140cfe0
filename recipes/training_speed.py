"""Pairs that a second of training takes: this project's stages with queries against sentence-transformers' own trainer.

python -m recipes.training_speed                       # recipes/results/training_speed.json

The same student, texts, length and processor in one run, turn by turn. `stock` is CrossEncoderTrainer with
ListNetLoss as its examples have it; `together` is the second stage of recipes.distill on the same lists; `apart` is
the first stage, where a step reads queries and passages once each and every query meets every passage. Where the
processor multiplies bfloat16, all three are measured in it too.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import ListNetLoss
from tqdm import tqdm

from export.artifact import write_json
from recipes.command import launch, plain, say, setting
from recipes.starts import spread
from training.data import InputError
from training.dev import load_student
from training.load import load_source
from training.losses import DistillationLoss, NeighbourhoodLoss
from training.precision import PRECISIONS, uses_bfloat16
from training.prepare import make_examples, make_neighbourhoods, make_start
from training.tiers import TIERS
from training.train import make_trainer

RATE = 1e-6  # any will do
WEIGHTS: dict[str, Any] = {"kl_weight": 0.0, "regression_weight": 0.0, "gold_weight": 1.0, "temperature": 1.0}


@dataclass(frozen=True)
class SpeedConfig:
    """Settings of one measurement."""

    data: str = setting("pydocs", "where queries and passages come from: as --data of recipes.distill")
    tier: str = setting("small", "size of the student", choices=list(TIERS))
    base: str = setting("builtin", "what the student is made of: builtin, a model folder or a hub id")
    candidates: int = setting(8, "passages a query, in lists")
    neighbours: int = setting(32, "queries, and as many passages, of a step apart")
    queries_per_step: int = setting(8, "queries of a step with lists")
    steps: int = setting(3, "steps a turn")
    turns: int = setting(5, "turns")
    length: int = setting(128, "tokens of a pair, or of a text apart")
    precision: str = setting(
        "auto", "fp32 alone, bf16 too, or auto: bf16 too where there are instructions for it", choices=PRECISIONS
    )
    cache: Path = setting(Path("cache"), "folder of teacher scores")
    output: Path = setting(Path("recipes/results/training_speed.json"), "where the numbers go")
    seed: int = setting(0, "seed of every random choice")


def run(config: SpeedConfig, command: str) -> None:
    """The story of one measurement. Raises InputError."""
    least = min(config.candidates - 1, config.neighbours - 1, config.queries_per_step, config.steps, config.turns)
    if least < 1:
        raise InputError("--candidates and --neighbours must be 2 or more, all other counts 1 or more")
    say(f"1/3 data: {config.data}")
    data = load_source(config.data, drop_leaks=False, keep_missing=False)
    rows = config.queries_per_step * config.steps
    examples = make_examples(
        data, None, config.cache, queries=4 * rows, depth=50, candidates=config.candidates, random_share=0.25,
        teacher_length=config.length, seed=config.seed,
    )  # fmt: skip
    groups = make_neighbourhoods(
        data, queries=config.neighbours * config.steps, size=config.neighbours, seed=config.seed
    )
    if len(examples.dataset) < rows or len(groups) < config.steps:
        raise InputError(f"{config.data}: too few queries for {config.steps} steps, expected {rows}: lower --steps")

    with tempfile.TemporaryDirectory() as folder:
        say(f"2/3 student: {config.tier} from {config.base}")
        start = Path(folder) / "start"
        make_start(config.base, TIERS[config.tier], examples.texts, start, config.seed)

        say(f"3/3 speed: {config.turns} turns of {config.steps} steps")
        runs = {
            name + (", bf16" if bf16 else ""): (partial(make, config, rows_of, bf16=bf16), pairs)
            for bf16 in ([False, True] if uses_bfloat16(config.precision) else [False])
            for name, make, rows_of, pairs in (
                ("stock", stock, examples.dataset, rows * config.candidates),
                ("together", together, examples.dataset, rows * config.candidates),
                ("apart", apart, groups, config.steps * config.neighbours**2),
            )
        }
        speeds: dict[str, list[float]] = {name: [] for name in runs}
        for turn in tqdm(range(config.turns + 1), unit="turn"):
            for name, (make, pairs) in runs.items():
                os.environ.pop("ACCELERATE_MIXED_PRECISION", None)  # where a trainer in bf16 leaves it to the next
                trainer = make(load_student(start, config.length), Path(folder) / name)
                seconds = trainer.train().metrics["train_runtime"]
                if turn:  # the first one warms up
                    speeds[name].append(pairs / seconds)
    found = {name: spread(values) for name, values in speeds.items()}
    results = {
        "command": command, "settings": plain(config), "machine": {"threads": torch.get_num_threads()},
        "pairs per second": found,
    }  # fmt: skip
    write_json(config.output, results)
    for name, speed in found.items():
        times = speed["median"] / found["stock"]["median"]
        say(f"{name:<14} {speed['median']:8.1f} pairs/s ({speed['low']:.1f} to {speed['high']:.1f})  {times:.2f}x")


def stock(
    config: SpeedConfig, examples: Dataset, model: CrossEncoder, output: Path, bf16: bool = False
) -> CrossEncoderTrainer:
    """sentence-transformers' trainer and loss with their defaults."""
    columns = {
        "query": examples["query"], "docs": examples["passages"], "labels": [label[1] for label in examples["label"]]
    }  # fmt: skip
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(output), max_steps=config.steps, per_device_train_batch_size=config.queries_per_step,
        learning_rate=RATE, warmup_ratio=0.1, seed=config.seed, save_strategy="no", report_to="none", bf16=bf16,
        use_cpu=bf16 and not torch.cuda.is_available(),  # or it refuses bf16
    )  # fmt: skip
    return CrossEncoderTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(columns), loss=ListNetLoss(model)
    )


def together(
    config: SpeedConfig, examples: Dataset, model: CrossEncoder, output: Path, bf16: bool = False
) -> CrossEncoderTrainer:
    """The same lists as the second stage reads them."""
    return ours(config, examples, model, output, partial(DistillationLoss, **WEIGHTS), config.queries_per_step, bf16)


def apart(
    config: SpeedConfig, groups: Dataset, model: CrossEncoder, output: Path, bf16: bool = False
) -> CrossEncoderTrainer:
    """Neighbourhoods as the first stage reads them."""
    return ours(config, groups, model, output, NeighbourhoodLoss, 1, bf16)


def ours(
    config: SpeedConfig,
    rows: Dataset,
    model: CrossEncoder,
    output: Path,
    loss: Callable[..., Any],
    rows_per_step: int,
    bf16: bool,
) -> CrossEncoderTrainer:
    """This project's trainer, without evaluating and saving."""
    return make_trainer(
        model, rows, loss(model), output, steps=config.steps, rows_per_step=rows_per_step, learning_rate=RATE,
        warmup_ratio=0.1, seed=config.seed, bf16=bf16, save_strategy="no",
    )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """0 when all was measured, 2 for bad input."""
    return launch("training_speed", __doc__, run, [SpeedConfig], argv)


if __name__ == "__main__":
    sys.exit(main())

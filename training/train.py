"""The training loop: sentence-transformers' trainer with our loss, our order of examples and our dev measure."""

import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import (
    AutoTokenizer,
    EarlyStoppingCallback,
    PreTrainedModel,
    ProgressCallback,
    TrainerCallback,
    TrainerState,
)

from training.data import InputError, RankingData
from training.dev import MEASURE, DevMeasure, load_student
from training.examples import too_few
from training.processes import is_first, on_processors, process_count, wait_for_all
from training.progress import LOG, TrainingProgress
from training.student import save_checkpoint

# It would have checkpoints' cards show texts that are of no use there, and warns that it can't.
logging.getLogger("sentence_transformers.base.model_card").setLevel(logging.ERROR)
# A SimilarityRanker's gates and weights of dimensions and terms are of size 4 to 20: at the rate of ordinary weights,
# which are of size 0.05, they would stand still.
SCALARS = r"\.(gate|dimension_weight|term_weight|late_scale|exact_scale)$"
SCALAR_RATE = 1e-2
DONE = "training.json"
STATE = "trainer_state.json"  # of a checkpoint
COUNTER = "early_stopping_patience_counter"  # in it, which the trainer does not take up again by itself
# A row of eight pairs keeps about 300 MB for its gradient (6 x 384, 128 tokens); a step of more rows sums up parts.
ROWS_AT_ONCE = 4


@dataclass(frozen=True)
class TrainingResult:
    """The kept checkpoint's folder, what the log says, and its own dev MRR@10.

    `loss`: stage -> (step, loss) points. `dev_quality`: (step, dev MRR@10) points. `read`: stage -> how many queries,
    or texts to imitate, it was trained on.
    """

    checkpoint: Path
    loss: dict[str, list[tuple[int, float]]]
    dev_quality: list[tuple[int, float]]
    quality: float
    read: dict[str, int]


def joined(first: TrainingResult, second: TrainingResult) -> TrainingResult:
    """Two stages as one: the second's checkpoint, and its points behind the first's, whose end was its start."""
    last = max(step for step, _ in [*first.dev_quality, *chain(*first.loss.values())])

    def behind(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
        return [(step + last, value) for step, value in points if step]

    return TrainingResult(
        second.checkpoint,
        first.loss | {stage: behind(points) for stage, points in second.loss.items()},
        first.dev_quality + behind(second.dev_quality),
        second.quality,
        first.read | second.read,
    )


def in_order(dataset: Dataset, **settings: Any) -> DefaultBatchSampler:
    """Batches in the order of the data set, because its order is the curriculum."""
    return DefaultBatchSampler(SequentialSampler(dataset), **settings)


def train(
    student: Path,
    examples: Dataset,
    dev: RankingData,
    dev_candidates: Mapping[str, Sequence[str]],
    output: Path,
    *,
    loss: Callable[[CrossEncoder], nn.Module],
    learning_rate: float,
    rows_per_step: int,
    evaluations: int,
    patience: int,
    max_length: int,
    start_quality: float | None = None,
    keep: Literal["best", "last"] = "best",
    warmup_ratio: float = 0.06,
    bf16: bool = False,
    seed: int = 0,
) -> TrainingResult:
    """Train a student once over `examples`, in their order, and keep the checkpoint that is best on dev, or the last.

    `output` holds the trainer's checkpoints while it runs; a killed run goes on from the last complete one and ends
    with the same weights. When all is done `output/best` holds the result, and a rerun returns it at once.
    `output/log.jsonl` is the trainer's log: see `progress`; `output/tensorboard` has its curves for TensorBoard. The
    folder's name is the stage's.

    Under torchrun or accelerate every process is to call this alike. They share the rows of a step, and the first one
    writes. Raises InputError where the rows can't be shared evenly, or do not fill a step.

    Args:
        student: checkpoint folder to start from; also judged, so the best one is never worse on dev than its start.
        examples: what `loss` takes: `examples.as_dataset` for a `losses.DistillationLoss`,
            `neighbours.neighbourhood_dataset` for a `losses.NeighbourhoodLoss`, `imitation.imitation_dataset` for an
            `imitation.ImitationLoss`.
        dev_candidates: dev query id -> passage ids to rerank.
        loss: makes the loss for a model; `rows_per_step` rows of `examples` are one optimizer step.
        evaluations: how often dev is measured, in equal steps; `patience` of them without progress end the run.
        start_quality: dev MRR@10 of `student` where it is known, which saves measuring it.
        keep: the checkpoint that is best on dev, the start included; or the last, where the loss is to be trusted more.
        bf16: multiply in bfloat16 (see `precision`) in steps; dev is measured in float32, as the model will be used.
    """
    best, record = output / "best", output / DONE
    if record.is_file():
        kept = json.loads(record.read_text(encoding="utf-8"))
        return TrainingResult(
            best, {output.name: _points(kept["loss"])}, _points(kept["dev_quality"]), kept["quality"],
            {output.name: kept["read"]},
        )  # fmt: skip
    if rows_per_step % process_count():
        raise InputError(f"{process_count()} processes can't share {rows_per_step} queries a step: give a multiple")
    steps = len(examples) // rows_per_step
    if not steps:
        raise InputError(too_few(len(examples), rows_per_step))
    interval = max(1, steps // evaluations)
    if keep == "last":
        steps -= steps % interval  # so that dev is measured at the end
    if is_first():
        last_complete_checkpoint(output)  # which removes the incomplete ones
    wait_for_all()
    resumed = last_complete_checkpoint(output)
    reached = TrainerState.load_from_json(os.path.join(resumed, STATE)) if resumed else TrainerState()
    missed = evaluations_without_progress(reached)
    stopping = EarlyStoppingCallback(patience)
    stopping.early_stopping_patience_counter = missed
    model = load_student(student, max_length)
    trainer = make_trainer(
        model, examples, loss(model), output, steps=steps, rows_per_step=rows_per_step, learning_rate=learning_rate,
        warmup_ratio=warmup_ratio, seed=seed, bf16=bf16, evaluator=DevMeasure(dev, dev_candidates),
        callbacks=[stopping] if keep == "best" else [],
        eval_strategy="steps", eval_steps=interval, eval_on_start=start_quality is None and not resumed,
        save_strategy="steps", save_steps=interval, save_total_limit=2,
        load_best_model_at_end=keep == "best", metric_for_best_model=f"eval_{MEASURE}", greater_is_better=True,
        logging_steps=max(1, min(10, interval)), report_to="tensorboard", logging_dir=str(output / "tensorboard"),
    )  # fmt: skip
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(TrainingProgress(output / LOG, *per_step(examples, rows_per_step)))
    if reached.global_step < steps and (keep == "last" or missed < patience):
        trainer.train(resume_from_checkpoint=resumed)
        reached = trainer.state
    else:
        # It was killed behind its last step, of which the trainer would take one more.
        ended = reached.best_model_checkpoint if keep == "best" else resumed
        assert ended is not None
        model = load_student(output / Path(ended).name, max_length)
    history = reached.log_history
    read = reached.global_step * rows_per_step * inputs_of(examples)
    losses = [(int(entry["step"]), entry["loss"]) for entry in history if "loss" in entry]
    quality = [(int(entry["step"]), entry[f"eval_{MEASURE}"]) for entry in history if f"eval_{MEASURE}" in entry]
    if start_quality is not None:
        quality.insert(0, (0, start_quality))
    kept_quality = quality[-1][1] if keep == "last" else max(value for _, value in quality)
    if keep == "best" and quality[0][1] >= kept_quality:
        # The trainer compares saved checkpoints only, and the start is not one of them.
        model = load_student(student, max_length)
    wait_for_all()  # until no process reads checkpoints any more
    if is_first():
        trained: PreTrainedModel = model[0].model  # type: ignore[assignment]
        # Its own tokenizer would keep the length of training for the model's.
        save_checkpoint(trained, AutoTokenizer.from_pretrained(student), best)
        _write_json(record, {"loss": losses, "dev_quality": quality, "quality": kept_quality, "read": read})
        for leftover in output.glob("checkpoint-*"):
            shutil.rmtree(leftover)
    wait_for_all()
    return TrainingResult(best, {output.name: losses}, quality, kept_quality, {output.name: read})


def per_step(examples: Dataset, rows: int) -> tuple[int, str]:
    """What a step of so many rows reads, and its unit: texts to imitate, or pairs of a query or a neighbourhood."""
    row, inputs = examples[0], rows * inputs_of(examples)
    return (inputs, "texts") if "texts" in row else (inputs * len(row["passages"]), "pairs")


def inputs_of(examples: Dataset) -> int:
    """How many texts to imitate, or queries, one of the examples holds."""
    row = examples[0]
    return len(row.get("texts", row.get("queries", [row.get("query")])))


def make_trainer(
    model: CrossEncoder,
    examples: Dataset,
    loss: nn.Module,
    output: Path,
    *,
    steps: int,
    rows_per_step: int,
    learning_rate: float,
    warmup_ratio: float,
    seed: int,
    bf16: bool = False,
    evaluator: BaseEvaluator | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **schedule: Any,
) -> CrossEncoderTrainer:
    """sentence-transformers' trainer for `steps` steps of `rows_per_step` rows, a step's gradient summed up in parts.

    `schedule`: its arguments that say when to evaluate, save and log.
    """
    own_rows = rows_per_step // process_count()
    at_once = math.gcd(own_rows, ROWS_AT_ONCE)
    # accelerate launch, or a trainer before this one, may have left its precision here, which would be taken for ours.
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
    # The trainer refuses a pattern that matches nothing.
    rates = {SCALARS: SCALAR_RATE} if any(re.search(SCALARS, name) for name, _ in model.named_parameters()) else {}
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(output),
        max_steps=steps,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=own_rows // at_once,
        learning_rate=learning_rate,
        learning_rate_mapping=rates,
        warmup_ratio=warmup_ratio,
        weight_decay=0.01,
        seed=seed,
        use_cpu=on_processors(),
        dataloader_pin_memory=torch.cuda.is_available(),  # elsewhere it only brings a warning
        batch_sampler=in_order,
        dataloader_drop_last=True,
        **{"report_to": "none"} | schedule,
    )
    if bf16:
        # The trainer's own way leaves out what a loss does beside calling the model, and measures dev in it too.
        loss.forward = torch.autocast(model.device.type, torch.bfloat16)(loss.forward)
    return CrossEncoderTrainer(
        model=model, args=arguments, train_dataset=examples, loss=loss, evaluator=evaluator, callbacks=list(callbacks)
    )


def last_complete_checkpoint(output: Path) -> str | None:
    """The newest checkpoint that was written to its end; those that were not are removed."""
    complete = []
    for folder in output.glob("checkpoint-*"):
        try:
            # The trainer writes its state last, after weights, optimizer and random generators.
            step = json.loads((folder / STATE).read_text(encoding="utf-8"))["global_step"]
        except (OSError, ValueError, KeyError):
            shutil.rmtree(folder)
            continue
        complete.append((int(step), str(folder)))
    return max(complete)[1] if complete else None


def evaluations_without_progress(state: TrainerState) -> int:
    """How many evaluations in a row had brought no progress when this state of the trainer was saved."""
    saved: Any = state.stateful_callbacks or {}
    return int(saved.get(EarlyStoppingCallback.__name__, {}).get("attributes", {}).get(COUNTER, 0))


def _points(values: list[list[float]]) -> list[tuple[int, float]]:
    return [(int(step), float(value)) for step, value in values]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    os.replace(temporary, path)

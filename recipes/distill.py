"""Distil a small reranker from a teacher, and end with a verified int8 artifact or with the gate that refused it.

python -m recipes.distill                      # small, on the built-in corpus, into artifacts/small
python -m recipes.distill --tier nano
python -m recipes.distill --data FOLDER --eval FOLDER
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from recipes import measure, stages
from recipes.command import launch, plain, say, setting
from recipes.finish import finish
from recipes.hold_out import hold_out
from recipes.lineage import trace
from recipes.search import SearchConfig, first_stage_of
from recipes.settings import MeasuringConfig, StudentConfig, TrainingConfig, check
from training.data import InputError
from training.load import load_sources, with_texts
from training.prepare import Held, teacher_run
from training.processes import is_first
from training.score_file import score_file
from training.teacher import OWN_SCORES
from training.tiers import TIERS


@dataclass(frozen=True)
class DistillConfig:
    """What is measured, and where the result goes."""

    eval: str | None = setting(None, "what to measure on: another source; by default the test split of --data")
    output: Path | None = setting(None, "artifact folder; by default artifacts/TIER")


def run(
    student: StudentConfig,
    config: DistillConfig,
    measuring: MeasuringConfig,
    training: TrainingConfig,
    search: SearchConfig,
    command: str,
) -> None:
    """The story of one distillation. Raises InputError, GateError or ExportError."""
    training = stages.decided(training)
    began, tier = time.monotonic(), TIERS[student.tier]
    output = config.output or Path("artifacts") / student.tier
    max_length = measuring.max_length or tier.max_length
    check(measuring, tier, output, student.base, training, student.teacher, config.eval)
    stages.check_base_size(student.base, student.tier, training)
    if measuring.threads:
        torch.set_num_threads(measuring.threads)
    stage = first_stage_of(search, measuring.cache)

    say(f"1/7 data: {', '.join(student.data)}")
    data = load_sources(student.data, training.drop_leaks, training.keep_missing, measuring.test_share)
    data = with_texts(data, training.texts)
    data, dev, tests = hold_out(measuring, data, config.eval, student.base, max_length, stage, training.drop_leaks)

    say(f"2/7 teacher: {student.teacher}")
    examples = stages.make_taught(student.teacher, measuring, training, tier, data, stage)
    taught = teacher_runs(student.teacher, tests, measuring.cache / "teacher", training.teacher_length)

    say(f"3/7 student: {student.tier} from {student.base}")
    settings = plain(student, config, measuring, training, search)
    with stages.begin(settings, measuring, training, tier, data, dev, examples, output) as (workspace, start):
        for held in (dev, tests):  # the student's words and prompt are not always the base's
            measure.check_queries(held, workspace / "start", max_length)

        say(f"4/7 training in {training.precision}")
        trained = stages.learn(
            training, tier, data, dev, examples, workspace, student.base, student.teacher, measuring.seed, stage
        )
        if not is_first():
            return  # one process is enough from here on

        say("5/7 export: fp32 ONNX, int8 ONNX, calibration")
        exported = measure.export(
            trained.checkpoint, output, workspace, dev,
            tier=student.tier, max_length=max_length, limit_megabytes=tier.limit_megabytes,
            target_tau=measuring.int8_tau, profile=measuring.profile,
        )  # fmt: skip

        say(f"6/7 measuring: {len(tests.candidates)} held-out queries of {tests.data.name}")
        measured = measure.measure(exported, trained, tests, taught, tier.limit_megabytes, measuring.parity_queries)
        say(measure.table(measured))

        say(f"7/7 artifact: {output}")
        lineage = trace(
            data, examples, dev if measuring.dev else None, tests, stage, trained,
            base=student.base, start=start, teacher=student.teacher,
            languages=measuring.languages, precision=training.precision, began=began,
        )  # fmt: skip
        finish(
            exported, measured, trained, output,
            summary=f"A {student.tier} reranker distilled from {student.teacher}.",
            lineage=lineage, settings=settings, seed=measuring.seed, command=command,
            allow_worse=training.gate == "report",
        )  # fmt: skip


def teacher_runs(teacher: str, tests: Held, cache: Path, teacher_length: int) -> dict[str, dict[str, dict[str, float]]]:
    """The teacher's order of the held-out candidates, by name; none where it is scores that leave some of them out."""
    try:
        return {"teacher": teacher_run(tests, teacher, cache, teacher_length)}
    except InputError as error:
        if teacher != OWN_SCORES and not score_file(teacher):
            raise
        say(f"    the teacher itself is not measured: {error}")
        return {}


def main(argv: list[str] | None = None) -> int:
    """0 when an artifact was published, 1 when a gate refused it, 2 for bad input."""
    kinds = [StudentConfig, DistillConfig, MeasuringConfig, TrainingConfig, SearchConfig]
    return launch("distill", __doc__, run, kinds, argv)


if __name__ == "__main__":
    sys.exit(main())

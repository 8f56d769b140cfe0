"""Distil a small reranker from a teacher, and end with a verified int8 artifact or with the gate that refused it.

python -m recipes.distill                      # small, on the built-in corpus, into artifacts/small
python -m recipes.distill --tier nano
python -m recipes.distill --data FOLDER --eval FOLDER
"""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from recipes import measure, stages
from recipes.command import launch, plain, say, setting
from recipes.finish import finish
from recipes.settings import DATA_HELP, MeasuringConfig, SearchConfig, TrainingConfig, check, first_stage_of
from training.prepare import load_sources, make_examples, make_start, teacher_run
from training.processes import is_first
from training.tiers import TIERS


@dataclass(frozen=True)
class DistillConfig:
    """What is distilled, from what, into what."""

    tier: str = setting("small", "size of the student", choices=list(TIERS))
    data: list[str] = field(default_factory=lambda: ["pydocs"], metadata={"help": DATA_HELP})
    eval: str | None = setting(None, "what to measure on: a BEIR folder; by default the test split of --data")
    teacher: str = setting("builtin", "builtin, a model folder, a hub id, or a file of scores (.jsonl, .tsv, .parquet)")
    base: str = setting(
        "builtin",
        "what the student is made of: builtin, a folder, an artifact, a hub id, or scratch (a small T5)",
    )
    output: Path | None = setting(None, "artifact folder; by default artifacts/TIER")


def run(
    config: DistillConfig, measuring: MeasuringConfig, training: TrainingConfig, search: SearchConfig, command: str
) -> None:
    """The story of one distillation. Raises InputError, GateError or ExportError."""
    began, tier = time.monotonic(), TIERS[config.tier]
    output = config.output or Path("artifacts") / config.tier
    max_length = measuring.max_length or tier.max_length
    if measuring.threads:
        torch.set_num_threads(measuring.threads)
    check(measuring, tier, output, config.base, training)
    stage = first_stage_of(search, measuring.cache)

    say(f"1/7 data: {', '.join(config.data)}")
    data = load_sources(config.data, training.drop_leaks, training.keep_missing, measuring.test_share)
    dev, tests = stages.hold_out(measuring, data, config.eval, config.base, max_length, stage)

    say(f"2/7 teacher: {config.teacher}")
    examples = make_examples(
        data, config.teacher, measuring.cache / "teacher",
        queries=training.limit or tier.train_queries, depth=measuring.depth, candidates=training.candidates,
        random_share=training.random_share, teacher_length=training.teacher_length,
        warm_up_queries=tier.warm_up_queries, seed=measuring.seed, stage=stage,
        pool=training.teacher_pool, margin=training.false_negative_margin,
    )  # fmt: skip
    taught = teacher_run(tests, config.teacher, measuring.cache / "teacher", training.teacher_length)

    say(f"3/7 student: {config.tier} from {config.base}")
    workspace = stages.make_workspace(plain(config, measuring, training, search), measuring.cache, data, examples)
    start = make_start(
        config.base, tier, examples.texts, workspace / "start", measuring.seed, training.layers,
        stages.kept_languages(measuring, training),
    )  # fmt: skip
    say(f"    {start}")

    say("4/7 training")
    apart = stages.train_apart(training, tier, data, dev, workspace, measuring.seed, stage)
    trained = stages.train_together(training, tier, examples, dev, workspace, measuring.seed, apart)
    if not is_first():
        return  # one process is enough from here on

    say("5/7 export: fp32 ONNX, int8 ONNX, calibration")
    exported = measure.export(
        trained.checkpoint, output, workspace, dev,
        tier=config.tier, max_length=max_length, limit_megabytes=tier.limit_megabytes,
        target_tau=measuring.int8_tau,
    )  # fmt: skip

    say(f"6/7 measuring: {len(tests.candidates)} held-out queries of {tests.data.name}")
    measured = measure.measure(
        exported, trained, tests, {"teacher": taught}, tier.limit_megabytes, measuring.parity_queries
    )
    say(measure.table(measured))

    say(f"7/7 artifact: {output}")
    lineage = stages.lineage(
        config.base, start, config.teacher, data, examples, tests, measuring.languages, stage, began
    )
    finish(
        exported, measured, trained, output,
        summary=f"A {config.tier} reranker distilled from {config.teacher}.",
        lineage=lineage, settings=plain(config, measuring, training, search), seed=measuring.seed, command=command,
        allow_worse=training.gate == "report",
    )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """0 when an artifact was published, 1 when a gate refused it, 2 for bad input."""
    return launch("distill", __doc__, run, [DistillConfig, MeasuringConfig, TrainingConfig, SearchConfig], argv)


if __name__ == "__main__":
    sys.exit(main())

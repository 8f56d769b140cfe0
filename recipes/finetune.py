"""Fine-tune a reranker on your own data, or on documents alone, and keep the result only where it is no worse.

python -m recipes.finetune --data FOLDER
python -m recipes.finetune --documents FOLDER              # no queries needed: they are made from the documents
python -m recipes.finetune --data FOLDER --base CHECKPOINT
"""

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from recipes import measure, stages
from recipes.command import launch, plain, say, setting
from recipes.finish import finish
from recipes.hold_out import hold_out
from recipes.lineage import made_as, trace
from recipes.search import SearchConfig, first_stage_of
from recipes.settings import DATA_HELP, MeasuringConfig, TrainingConfig, check
from training.data import InputError, RankingData
from training.documents import load_documents
from training.load import finished, load_sources, with_texts
from training.processes import is_first
from training.tiers import TIERS

DEFAULT_TIER = "small"
SYNTHETIC = "synthetic queries, made from the documents themselves, and not on people's."


@dataclass(frozen=True)
class FinetuneConfig:
    """What is fine-tuned, on what, into what."""

    data: list[str] = setting(None, DATA_HELP)
    documents: Path | None = setting(
        None, "instead of --data: a folder of .md, .rst and .txt files, of which queries and passages are made"
    )
    eval: str | None = setting(None, "what to measure on: another source; by default the test split of the data")
    base: str = setting(
        "builtin", "what to start from: builtin, a folder, an artifact, a hub id, or scratch (a small T5)"
    )
    teacher: str | None = setting(
        None,
        "builtin, a model folder, a hub id, a file of scores, or data (the scores that --data brings); by default the "
        "judgments alone teach, and a projected student its backbone too",
    )
    tier: str | None = setting(
        None,
        "defaults of training, and the size that the result may have; by default that of an artifact as --base, or "
        f"{DEFAULT_TIER}",
        choices=list(TIERS),
    )
    output: Path = setting(Path("artifacts/finetuned"), "artifact folder")


def run(
    config: FinetuneConfig, measuring: MeasuringConfig, training: TrainingConfig, search: SearchConfig, command: str
) -> None:
    """The story of one fine-tuning. Raises InputError, GateError or ExportError."""
    if (config.data is None) == (config.documents is None):
        raise InputError("expected either --data or --documents: name one folder to train on")
    training, began = stages.decided(training), time.monotonic()
    name, max_length = as_the_base(config, measuring.max_length)
    config, tier = replace(config, tier=name), TIERS[name]
    check(measuring, tier, config.output, config.base, training, config.teacher, config.eval)
    stages.check_base_size(config.base, name, training)
    if measuring.threads:
        torch.set_num_threads(measuring.threads)
    stage = first_stage_of(search, measuring.cache)

    say(f"1/7 data: {config.documents or ', '.join(config.data or [])}")
    data = with_texts(load_data(config, training, measuring.test_share), training.texts)
    data, dev, tests = hold_out(measuring, data, config.eval, config.base, max_length, stage, training.drop_leaks)

    say(f"2/7 examples: {config.teacher or 'judgments alone'}")
    examples = stages.make_taught(config.teacher, measuring, training, tier, data, stage)

    say(f"3/7 base: {config.base}")
    settings = plain(config, measuring, training, search)
    with stages.begin(settings, measuring, training, tier, data, dev, examples, config.output) as (workspace, start):
        for held in (dev, tests):  # the student's words and prompt are not always the base's
            measure.check_queries(held, workspace / "start", max_length)

        say(f"4/7 training in {training.precision}")
        trained = stages.learn(
            training, tier, data, dev, examples, workspace, config.base, config.teacher, measuring.seed, stage
        )
        if not is_first():
            return  # one process is enough from here on

        say("5/7 export: fp32 ONNX, int8 ONNX, calibration")
        exported = measure.export(
            trained.checkpoint, config.output, workspace, dev,
            tier=name, max_length=max_length, limit_megabytes=tier.limit_megabytes,
            target_tau=measuring.int8_tau, profile=measuring.profile,
        )  # fmt: skip

        say(f"6/7 measuring: {len(tests.candidates)} held-out queries of {tests.data.name}, base and result")
        measured = measure.measure(
            exported, trained, tests, {}, tier.limit_megabytes, measuring.parity_queries, base=workspace / "start"
        )
        say(measure.table(measured))

        say(f"7/7 artifact: {config.output}")
        lineage = trace(
            data, examples, dev if measuring.dev else None, tests, stage, trained,
            base=config.base, start=start, teacher=config.teacher,
            languages=measuring.languages, precision=training.precision, began=began,
        )  # fmt: skip
        finish(
            exported, measured, trained, config.output,
            summary=f"A {name} reranker fine-tuned from {config.base} on {data.name}.",
            lineage=lineage, settings=settings, seed=measuring.seed, command=command,
            allow_worse=training.gate == "report", notices=notices_of(config, measuring),
        )  # fmt: skip


def notices_of(config: FinetuneConfig, measuring: MeasuringConfig) -> list[str]:
    """What the card and the report say first: which of its queries nobody asked."""
    if config.documents is None:
        return []
    *others, last = ["Trained", *(["chosen"] * (not measuring.dev)), *(["measured"] * (not config.eval))]
    return [f"{', '.join(others)} and {last} on {SYNTHETIC}" if others else f"{last} on {SYNTHETIC}"]


def as_the_base(config: FinetuneConfig, max_length: int | None) -> tuple[str, int]:
    """The tier and the length, in tokens, that were asked for, or else those of the artifact that is the base."""
    made = made_as(config.base)
    name = config.tier or (made.tier if made and made.tier in TIERS else DEFAULT_TIER)
    return name, max_length or (made.max_length if made and made.tier == name else TIERS[name].max_length)


def load_data(config: FinetuneConfig, training: TrainingConfig, test_share: float) -> RankingData:
    """The data of --data or --documents. Raises InputError for what the readers refuse."""
    if config.documents is None:
        return load_sources(config.data, training.drop_leaks, training.keep_missing, test_share)
    data = finished(load_documents(config.documents), test_share=test_share)
    say(f"    {len(data.queries)} synthetic queries for {len(data.passages)} passages: training is on {SYNTHETIC}")
    return data


def main(argv: list[str] | None = None) -> int:
    """0 when an artifact was published, 1 when a gate refused it, 2 for bad input."""
    return launch("finetune", __doc__, run, [FinetuneConfig, MeasuringConfig, TrainingConfig, SearchConfig], argv)


if __name__ == "__main__":
    sys.exit(main())

"""What distilling and fine-tuning share: a workspace, the stages of training."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

import training
from export.one_logit import least_bytes
from export.to_onnx import ExportError
from recipes.claim import claimed_run
from recipes.command import say
from recipes.hold_out import fingerprint_of_held
from recipes.settings import IRRELEVANT, MeasuringConfig, TrainingConfig
from training.backbone import builtin_backbone, model_fingerprint, resolve_model
from training.candidates import BM25_OR_OWN, FirstStage
from training.data import RankingData, fingerprint
from training.imitation import SAMPLED_ROWS, TEXTS_A_ROW, ImitationLoss, imitation_dataset, texts_to_imitate
from training.losses import DistillationLoss, NeighbourhoodLoss, gbce_exponent
from training.precision import uses_bfloat16
from training.prepare import (
    Examples,
    Held,
    is_projected,
    make_examples,
    make_neighbourhoods,
    make_start,
    neighbourhood_teacher,
)
from training.processes import process_count
from training.student import SCRATCH, reads_apart
from training.t5_student import CHECKPOINTS
from training.tiers import TIERS, Tier
from training.train import TrainingResult, joined, train


def decided(training: TrainingConfig) -> TrainingConfig:
    """The settings with the precision that `auto` comes to here, so that a run goes on in the one it began in."""
    return replace(training, precision="bf16" if uses_bfloat16(training.precision) else "fp32")


def make_workspace(settings: dict[str, Any], cache: Path, data: RankingData, dev: Held, examples: Examples) -> Path:
    """A folder named by what decides its content, so that another run never takes over its checkpoints.

    That is the settings (with a tier and a base), the data, what dev measures, the examples with their teacher's
    scores, the base's weights, and the code.
    """
    decisive = {name: value for name, value in settings.items() if name not in IRRELEVANT}
    if settings.get("trim_vocabulary"):
        decisive["languages"] = settings["languages"]
    weights = "" if settings["base"] == SCRATCH else model_fingerprint(resolve_model(settings["base"]))
    code = sorted(Path(training.__file__).parent.glob("*.py"))
    content = json.dumps([
        decisive, fingerprint(data), fingerprint_of_held(dev), examples.fingerprint, weights,
        [sha256(file.read_bytes()).hexdigest() for file in code],
    ], sort_keys=True)  # fmt: skip
    workspace = cache / "runs" / f"{settings['tier']}-{sha256(content.encode()).hexdigest()[:12]}"
    workspace.mkdir(parents=True, exist_ok=True)
    return workspace


def kept_languages(measuring: MeasuringConfig, training: TrainingConfig) -> list[str]:
    """The languages that the vocabulary is trimmed to; none where it stays whole."""
    return list(measuring.languages or []) if training.trim_vocabulary else []


def make_taught(
    teacher: str | None,
    measuring: MeasuringConfig,
    training: TrainingConfig,
    tier: Tier,
    data: RankingData,
    stage: FirstStage,
) -> Examples:
    """`prepare.make_examples` by the settings. Raises InputError for less than a step."""
    return make_examples(
        data, teacher, measuring.cache / "teacher",
        queries=training.limit or tier.train_queries, depth=measuring.depth, candidates=training.candidates,
        random_share=training.random_share, teacher_length=training.teacher_length,
        seed=measuring.seed, stage=stage, pool=training.teacher_pool, margin=training.false_negative_margin,
        step=training.queries_per_step,
    )  # fmt: skip


@contextmanager
def begin(
    settings: dict[str, Any],
    measuring: MeasuringConfig,
    training: TrainingConfig,
    tier: Tier,
    data: RankingData,
    dev: Held,
    examples: Examples,
    output: Path | None = None,
) -> Iterator[tuple[Path, str]]:
    """The run's folder with the untrained student, and a sentence on how it was made; see `make_workspace`.

    Until the end no other run may take that folder, or make the artifact `output`. Raises InputError where one does,
    ExportError for a student that no int8 can bring to the tier's size.
    """
    workspace = make_workspace(settings, measuring.cache, data, dev, examples)
    with claimed_run(measuring.cache, workspace, output):
        start = make_start(
            settings["base"], tier, examples.texts, workspace / "start", measuring.seed, training.layers,
            kept_languages(measuring, training),
        )  # fmt: skip
        say(f"    {start}")
        check_size(AutoConfig.from_pretrained(workspace / "start"), settings["base"], settings["tier"])
        yield workspace, start


def check_base_size(base: str, tier: str, training: TrainingConfig) -> None:
    """`check_size` of a base that is taken whole, before any work; what is cut or projected is measured by `begin`."""
    if base == SCRATCH or is_projected(base, TIERS[tier]) or training.layers or training.trim_vocabulary:
        return
    try:
        kind = AutoConfig.from_pretrained(resolve_model(base), trust_remote_code=False, num_labels=1)
        if kind.model_type not in CHECKPOINTS:  # of T5 the encoder is taken
            check_size(kind, base, tier)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # whoever loads the model says more of it


def check_size(kind: PretrainedConfig, model: str, tier: str) -> None:
    """Raises ExportError for a model that no int8 can bring to the tier's size, naming the tiers that have room."""
    least, room = least_bytes(kind) / 1e6, TIERS[tier].limit_megabytes
    if least > room:
        larger = [f"--tier {name}" for name, other in TIERS.items() if least <= other.limit_megabytes]
        remedy = (
            f"choose {' or '.join(larger)}" if larger else "distil a smaller one from it, recipes.distill --teacher"
        )
        raise ExportError(f"{model} takes {least:.0f} MB or more in int8, and --tier {tier} has {room:.0f}: {remedy}")


def learn(
    training: TrainingConfig,
    tier: Tier,
    data: RankingData,
    dev: Held,
    examples: Examples,
    workspace: Path,
    base: str,
    teacher: str | None,
    seed: int,
    stage: FirstStage,
) -> TrainingResult:
    """All stages of training, from the untrained student in `workspace`."""
    imitated = None
    if is_projected(base, tier):
        imitated = train_imitating(training, tier, data, dev, workspace, builtin_backbone(), seed)
    apart_teacher = None
    if training.apart_kl:
        apart_teacher = neighbourhood_teacher(teacher, base, tier, examples.texts, workspace)
    apart = train_apart(training, tier, data, dev, workspace, seed, stage, imitated, apart_teacher)
    return train_together(training, tier, examples, dev, workspace, seed, apart or imitated)


def wanted(config: TrainingConfig, tier: Tier) -> tuple[int, int]:
    """How many texts to imitate and queries to read apart: as asked for, or else the tier's, within --limit."""
    imitated, apart = tier.imitated_texts, tier.apart_queries
    if config.limit is not None:
        imitated, apart = min(imitated, TEXTS_A_ROW * config.limit), min(apart, config.limit)
    return (
        imitated if config.imitated_texts is None else config.imitated_texts,
        apart if config.apart_queries is None else config.apart_queries,
    )


def train_imitating(
    config: TrainingConfig, tier: Tier, data: RankingData, dev: Held, workspace: Path, backbone: Path, seed: int
) -> TrainingResult | None:
    """What a student that was projected from `backbone` learns first; None where there are no texts for it."""
    rows = imitation_dataset(texts_to_imitate(data, wanted(config, tier)[0], seed), seed)
    say(f"    imitating: {len(rows)} x {TEXTS_A_ROW} texts")
    if len(rows) < process_count():
        return None
    return train(
        workspace / "start", rows, dev.data, dev.candidates, workspace / "imitating",
        loss=partial(ImitationLoss, backbone=backbone, sample=rows[:SAMPLED_ROWS]["texts"]),
        rows_per_step=process_count(),
        # Where dev is too easy to tell models apart, imitation still gains elsewhere.
        learning_rate=config.imitation_rate, keep="last", **common(config, tier, seed),
    )  # fmt: skip


def train_apart(
    config: TrainingConfig,
    tier: Tier,
    data: RankingData,
    dev: Held,
    workspace: Path,
    seed: int,
    stage: FirstStage = BM25_OR_OWN,
    before: TrainingResult | None = None,
    teacher: Path | None = None,
) -> TrainingResult | None:
    """The stage of reading apart, from where the one `before` ended, and with it as one result.

    None for a student that can't read query and passage apart, or with no queries.
    """
    queries = wanted(config, tier)[1] if reads_apart(workspace / "start") else 0
    groups = make_neighbourhoods(data, queries=queries, size=config.neighbours, seed=seed, stage=stage)
    taught = f", taught by {teacher}" if teacher else ""
    say(f"    apart: {len(groups)} x {config.neighbours} queries and passages{taught}")
    if len(groups) < process_count():
        return None
    apart = train(
        before.checkpoint if before else workspace / "start", groups, dev.data, dev.candidates, workspace / "apart",
        loss=partial(
            NeighbourhoodLoss, teacher=teacher, gold_weight=config.apart_gold, kl_weight=config.apart_kl
        ) if teacher else NeighbourhoodLoss,
        rows_per_step=process_count(), learning_rate=config.apart_rate or tier.apart_rate,
        start_quality=before.quality if before else None, **common(config, tier, seed),
    )  # fmt: skip
    return joined(before, apart) if before else apart


def train_together(
    config: TrainingConfig,
    tier: Tier,
    examples: Examples,
    dev: Held,
    workspace: Path,
    seed: int,
    before: TrainingResult | None,
) -> TrainingResult:
    """The last stage, from where those `before` ended; all as one result."""
    say(f"    together: {len(examples.dataset)} queries x {config.candidates} passages")
    taught = 1.0 if examples.taught else 0.0
    loss = partial(
        DistillationLoss,
        kl_weight=config.kl * taught, regression_weight=config.regression * taught, gold_weight=config.gold,
        temperature=config.temperature, gbce_weight=config.gbce,
        exponent=gbce_exponent(config.candidates - 1, examples.passages, config.gbce_calibration),
    )  # fmt: skip
    together = train(
        before.checkpoint if before else workspace / "start", examples.dataset, dev.data, dev.candidates,
        workspace / "together", loss=loss, rows_per_step=config.queries_per_step,
        learning_rate=config.learning_rate or tier.learning_rate, start_quality=before.quality if before else None,
        **common(config, tier, seed),
    )  # fmt: skip
    return joined(before, together) if before else together


def common(config: TrainingConfig, tier: Tier, seed: int) -> dict[str, Any]:
    """What all stages pass to `train`."""
    return {
        "evaluations": config.evaluations, "patience": config.patience,
        "max_length": config.train_length or tier.train_length, "seed": seed,
        "bf16": uses_bfloat16(config.precision),
    }  # fmt: skip

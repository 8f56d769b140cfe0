"""Distil a small reranker from a teacher, and end with a verified int8 artifact or with the gate that refused it.

python -m recipes.distill                      # small, on the built-in corpus, into artifacts/small
python -m recipes.distill --tier nano
python -m recipes.distill --data FOLDER --eval FOLDER
"""

import json
import resource
import sys
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import flashranker
import torch
from datasets import Dataset
from flashranker.artifact import SHORTEST_LENGTH, replaceable
from transformers import HfArgumentParser

import training
from export.artifact import GateError
from export.to_onnx import ExportError
from recipes import measure
from training.backbone import BUILTIN, model_fingerprint, resolve_model
from training.data import InputError, RankingData, fingerprint
from training.losses import DistillationLoss, NeighbourhoodLoss
from training.prepare import (
    DEV_DEPTH,
    Examples,
    held_out,
    load_source,
    make_examples,
    make_neighbourhoods,
    make_start,
    missing_judgments,
    teacher_run,
)
from training.student import reads_apart
from training.tiers import TIERS
from training.train import joined, train

say = partial(print, flush=True)  # or a pipe would show the stages when all is over


def setting(default: Any, explanation: str, **extra: Any) -> Any:
    """A dataclass field with the text that --help shows."""
    return field(default=default, metadata={"help": explanation} | extra)


@dataclass(frozen=True)
class DistillConfig:
    """Settings of one run. Where a tier has its own value, None takes it."""

    tier: str = setting("small", "size of the student", choices=list(TIERS))
    data: str = setting("pydocs", "what to train on: pydocs (built in) or a BEIR folder")
    eval: str | None = setting(None, "what to measure on: a BEIR folder; by default the test split of --data")
    teacher: str = setting("builtin", "builtin, a model folder, a hub id, or a file of scores (.jsonl, .tsv, .parquet)")
    base: str = setting("builtin", "what the student is made of: builtin, a model folder or a hub id")
    output: Path | None = setting(None, "artifact folder; by default artifacts/TIER")
    cache: Path = setting(Path("cache"), "folder of teacher scores, checkpoints and unfinished artifacts")
    languages: list[str] = setting(None, "languages of the data, for the model card: codes such as en", nargs="+")
    gate: str = setting(
        "refuse",
        "what a failed quality gate does: refuse (exit 1), or report (publish, and say so in card and manifest)",
        choices=["refuse", "report"],
    )
    limit: int | None = setting(None, "training queries; by default the tier's")
    dev_queries: int = setting(100, "dev queries that choose the checkpoint, calibrate and quantize")
    test_queries: int = setting(400, "held-out queries to measure on")
    parity_queries: int = setting(50, "how many of them fp32 ONNX scores too, to be compared with PyTorch")
    depth: int = setting(50, "candidates of the first stage that are reranked, passages per query")
    test_depth: int | None = setting(None, "the same for held-out queries; by default --depth")
    candidates: int = setting(8, "passages per query in training: one relevant, the others negatives")
    random_share: float = setting(0.25, "share of the negatives drawn from any passage, not from the first stage")
    apart_queries: int | None = setting(
        None,
        "queries trained first, read apart from the passages of their neighbours; 0 for none, by default the tier's",
    )
    neighbours: int = setting(32, "queries, and as many passages, of an optimizer step when they are read apart")
    queries_per_step: int = setting(8, "queries per optimizer step when each is read together with its candidates")
    apart_rate: float | None = setting(None, "peak learning rate of training apart; by default the tier's")
    learning_rate: float | None = setting(None, "peak learning rate of training together; by default the tier's")
    max_length: int | None = setting(None, "tokens of a pair that the artifact reads; by default the tier's")
    train_length: int | None = setting(None, "tokens of a pair in training; by default the tier's")
    teacher_length: int = setting(128, "tokens of a text (bi-encoder) or a pair (cross-encoder) that the teacher reads")
    kl: float = setting(0.5, "weight of the listwise KL divergence to the teacher")
    regression: float = setting(0.0, "weight of the squared error to the teacher's raw logits")
    gold: float = setting(1.0, "weight of the cross entropy to the judgments")
    temperature: float = setting(1.0, "temperature of the KL term")
    evaluations: int = setting(2, "how often dev is measured in each of the two stages of training")
    patience: int = setting(3, "evaluations without progress that end training")
    int8_tau: float = setting(
        0.985, "Kendall's tau to fp32, on dev, that quantization climbs to; the gate asks for 0.98 on other queries"
    )
    threads: int = setting(0, "threads for PyTorch; 0 leaves the choice to it")
    drop_leaks: bool = setting(False, "drop train queries that leak into dev or test, instead of refusing them")
    keep_missing: bool = setting(False, "keep judgments of passages that the corpus lacks, instead of refusing them")
    seed: int = setting(0, "seed of every random choice")


def run(config: DistillConfig, command: str) -> None:
    """The story of one distillation. Raises InputError, GateError or ExportError."""
    began, tier = time.monotonic(), TIERS[config.tier]
    output = config.output or Path("artifacts") / config.tier
    max_length = config.max_length or tier.max_length
    check(config, output)

    say(f"1/8 data: {config.data}")
    data = load_source(config.data, config.drop_leaks, config.keep_missing)
    dev = held_out(data, "dev", config.dev_queries, DEV_DEPTH, config.seed)
    other = data
    if config.eval:
        # Official pools judge passages that a folder of candidates need not hold.
        other = load_source(config.eval, drop_leaks=True, keep_missing=True)
        say(f"    {missing_judgments(other)} judged passages are not in {other.name}: ideal rankings count them")
    tests = held_out(other, "test", config.test_queries, config.test_depth or config.depth, config.seed)
    for held in (dev, tests):
        measure.check_queries(held, resolve_model(config.base), max_length)

    say(f"2/8 teacher: {config.teacher}")
    examples = make_examples(
        data, config.teacher, config.cache / "teacher",
        queries=tier.train_queries if config.limit is None else config.limit, depth=config.depth,
        candidates=config.candidates, random_share=config.random_share, teacher_length=config.teacher_length,
        warm_up_queries=tier.warm_up_queries, seed=config.seed,
    )  # fmt: skip
    taught = teacher_run(tests, config.teacher, config.cache / "teacher", config.teacher_length)

    say(f"3/8 student: {config.tier} from {config.base}")
    workspace = config.cache / "runs" / run_name(config, data, examples)
    workspace.mkdir(parents=True, exist_ok=True)
    start = make_start(config.base, tier, examples, workspace / "start", config.seed)
    say(f"    {start}")

    settings: dict[str, Any] = {
        "evaluations": config.evaluations, "patience": config.patience,
        "max_length": config.train_length or tier.train_length, "seed": config.seed,
    }  # fmt: skip
    apart = None
    groups = neighbourhoods(config, data, workspace / "start")
    say(f"4/8 training apart: {len(groups)} x {config.neighbours} queries and passages")
    if groups:
        apart = train(
            workspace / "start", groups, dev.data, dev.candidates, workspace / "apart",
            loss=NeighbourhoodLoss, rows_per_step=1, learning_rate=config.apart_rate or tier.apart_rate, **settings,
        )  # fmt: skip

    say(f"5/8 training together: {len(examples.dataset)} queries x {config.candidates} passages")
    loss = partial(
        DistillationLoss,
        kl_weight=config.kl, regression_weight=config.regression, gold_weight=config.gold,
        temperature=config.temperature,
    )  # fmt: skip
    together = train(
        apart.checkpoint if apart else workspace / "start", examples.dataset, dev.data, dev.candidates,
        workspace / "together", loss=loss, rows_per_step=config.queries_per_step,
        learning_rate=config.learning_rate or tier.learning_rate, start_quality=apart.best if apart else None,
        **settings,
    )  # fmt: skip
    trained = joined(apart, together) if apart else together

    say("6/8 export: fp32 ONNX, int8 ONNX, calibration")
    exported = measure.export(
        trained.checkpoint, output, workspace, dev,
        tier=config.tier, max_length=max_length, limit_megabytes=tier.limit_megabytes,
        target_tau=config.int8_tau,
    )  # fmt: skip

    say(f"7/8 measuring: {len(tests.candidates)} held-out queries of {tests.data.name}")
    measured = measure.measure(exported, trained, tests, taught, tier.limit_megabytes, config.parity_queries)
    say(measure.table(measured))

    say(f"8/8 artifact: {output}")
    lineage = {
        "base": {"name": config.base, "licence": licence(config.base), "start": start},
        "teacher": {"name": config.teacher, "licence": licence(config.teacher)},
        "data": {"name": data.name, "licence": data.licence, "queries": len(examples.dataset)},
        "measured on": {"name": other.name, "licence": other.licence},
        "languages": config.languages or ["en"],
        "run": {"seconds": round(time.monotonic() - began, 1), "peak memory in MB": peak_megabytes()},
    }
    measure.finish(
        exported, measured, trained, output,
        lineage=lineage, settings=plain(config), seed=config.seed, command=command,
        allow_worse=config.gate == "report",
    )  # fmt: skip


def neighbourhoods(config: DistillConfig, data: RankingData, start: Path) -> Dataset:
    """The rows of the first stage of training; none for a student that can't read query and passage apart."""
    wanted = TIERS[config.tier].apart_queries if config.apart_queries is None else config.apart_queries
    queries = wanted if config.limit is None else min(wanted, config.limit)
    if not reads_apart(start):
        queries = 0
    return make_neighbourhoods(data, queries=queries, size=config.neighbours, seed=config.seed)


# The least that makes sense; None is left to the tier. Kendall's tau needs two candidates.
LEAST = {
    "limit": 1, "dev_queries": 1, "test_queries": 1, "parity_queries": 1, "depth": 2, "test_depth": 2,
    "candidates": 2, "neighbours": 2,
    "apart_queries": 0, "queries_per_step": 1, "max_length": SHORTEST_LENGTH, "train_length": SHORTEST_LENGTH,
    "teacher_length": 4, "evaluations": 1, "patience": 1, "threads": 0, "seed": 0, "kl": 0, "regression": 0, "gold": 0,
    "random_share": 0, "int8_tau": 0,
}  # fmt: skip
ABOVE_ZERO = ("apart_rate", "learning_rate", "temperature")


def check(config: DistillConfig, output: Path) -> None:
    """Raises InputError for a setting that makes no sense, or an output that is there and no artifact."""
    for name, value in asdict(config).items():
        least = LEAST.get(name)
        if value is not None and least is not None and not value >= least:
            raise InputError(f"--{name} is {value}: expected {least} or more")
        if value is not None and name in ABOVE_ZERO and not value > 0:
            raise InputError(f"--{name} is {value}: expected more than 0")
        if name in ("random_share", "int8_tau") and not value <= 1:
            raise InputError(f"--{name} is {value}: expected 0 to 1")
    if not replaceable(output):
        raise InputError(f"--output {output} exists and is no artifact, so it is not replaced: choose another folder")


def peak_megabytes() -> int:
    """The most memory that this process had so far, in MB of 10^6 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in units of 1,024 bytes, on macOS in bytes
    return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6)


def licence(model: str) -> str:
    """The built-in backbone's licence; of any other model the user has to look."""
    return "Apache-2.0" if model == BUILTIN else "see the model's own card"


def run_name(config: DistillConfig, data: RankingData, examples: Examples) -> str:
    """Names a workspace by what decides its content, so another run never takes over its checkpoints.

    That is the settings, the data, the examples with their teacher's scores, the base's weights, and the code.
    """
    irrelevant = {
        "output", "cache", "gate", "eval", "test_queries", "test_depth", "parity_queries", "languages", "max_length",
        "int8_tau", "threads", "keep_missing",
    }  # fmt: skip
    decisive = {name: value for name, value in plain(config).items() if name not in irrelevant}
    code = sorted(Path(training.__file__).parent.glob("*.py"))
    content = json.dumps([
        decisive, fingerprint(data), examples.fingerprint, model_fingerprint(resolve_model(config.base)),
        [sha256(file.read_bytes()).hexdigest() for file in code],
    ], sort_keys=True)  # fmt: skip
    return f"{config.tier}-{sha256(content.encode()).hexdigest()[:12]}"


def plain(config: DistillConfig) -> dict[str, Any]:
    """The settings as plain JSON values."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}


def main(argv: list[str] | None = None) -> int:
    """Run; 0 when an artifact was published, 1 when a gate refused it, 2 for bad input (argparse exits with 2 too)."""
    arguments = sys.argv[1:] if argv is None else argv
    settings: Any = DistillConfig
    parser = HfArgumentParser(settings, prog="python -m recipes.distill", description=__doc__)
    (config,) = parser.parse_args_into_dataclasses(arguments)
    if config.threads:
        torch.set_num_threads(config.threads)
    try:
        run(config, " ".join(["python -m recipes.distill", *arguments]))
    except (InputError, flashranker.FlashRankerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.strerror or error}: {error.filename or config.cache}: free space or pass another "
              "--cache or --output", file=sys.stderr)  # fmt: skip
        return 2
    except (GateError, ExportError) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

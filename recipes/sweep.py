"""Try settings of training on a part of the data, and say which ranks dev queries best; test is never touched.

python -m recipes.sweep --attempts apart_rate=2e-5,5e-5,1e-4                          # read apart, small's first stage
python -m recipes.sweep --attempts learning_rate=1e-5,5e-6 kl=0,0.5 --limit 4000      # read together: all four

Every other option is that of recipes.distill. A combination that was trained before is not trained again.
"""

import sys
import time
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import torch

from export.artifact import write_json, write_text
from recipes import stages
from recipes.command import launch, plain, say, setting
from recipes.evaluate_report import markdown
from recipes.hold_out import choosing
from recipes.search import SearchConfig, first_stage_of
from recipes.settings import MeasuringConfig, StudentConfig, TrainingConfig, check
from training.data import InputError, limit_queries
from training.dev import MEASURE, load_student, score_candidates
from training.load import load_sources, with_texts
from training.metrics import evaluate, paired_bootstrap, run_from_scores
from training.prepare import DEV_DEPTH, Held, held_out
from training.processes import is_first
from training.tiers import TIERS, Tier


@dataclass(frozen=True)
class SweepConfig:
    """What is tried."""

    attempts: list[str] = setting(None, "NAME=VALUE,VALUE,... of a setting of training; several make a grid", nargs="+")
    share: float = setting(0.15, "share of the training queries, and of each stage's number of them, to train on")
    output: Path = setting(Path("sweeps"), "folder for sweep.json and sweep.md")


def run(
    student: StudentConfig,
    config: SweepConfig,
    measuring: MeasuringConfig,
    training: TrainingConfig,
    search: SearchConfig,
    command: str,
) -> None:
    """The story of one sweep. Raises InputError."""
    tier = TIERS[student.tier]
    if not 0 < config.share <= 1:
        raise InputError(f"--share is {config.share}: expected above 0 to 1")
    tries = grid(config.attempts or [])
    for one in tries:
        check(measuring, tier, config.output / "artifact", student.base, replace(training, **one), student.teacher)
    if measuring.threads:
        torch.set_num_threads(measuring.threads)
    stage = first_stage_of(search, measuring.cache)

    training = stages.decided(training)
    say(f"1/3 data: {', '.join(student.data)}")
    data = load_sources(student.data, training.drop_leaks, training.keep_missing, measuring.test_share)
    data = with_texts(data, training.texts)
    data, chosen_by = choosing(measuring, data, data, training.drop_leaks)
    dev = held_out(chosen_by, "dev", measuring.dev_queries, DEV_DEPTH, measuring.seed, stage)
    data = limit_queries(data, "train", max(1, round(config.share * len(data.splits["train"]))), measuring.seed)

    rows: list[dict[str, Any]] = []
    for number, one in enumerate(tries, start=1):
        say(f"2/3 {number} of {len(tries)}: {named(one)}")
        began = time.monotonic()
        chosen, part = smaller(replace(training, **one), tier, config.share)
        examples = stages.make_taught(student.teacher, measuring, chosen, part, data, stage)
        # The queries of each stage are the part's, and no settings any more.
        settings = plain(student, measuring, chosen, search) | {"share": config.share, "part": asdict(part)}
        with stages.begin(settings, measuring, chosen, part, data, dev, examples) as (workspace, _):
            trained = stages.learn(
                chosen, part, data, dev, examples, workspace, student.base, student.teacher, measuring.seed, stage
            )
        values = dev_values(trained.checkpoint, dev, chosen.train_length or part.train_length)
        rows.append({"settings": one, "seconds": round(time.monotonic() - began, 1), "by query": values})

    if not is_first():
        return
    say(f"3/3 {MEASURE} of {len(dev.candidates)} dev queries")
    compared = [compare(row, rows[0]) for row in rows]
    table = "\n".join(markdown(table_of(compared)))
    config.output.mkdir(parents=True, exist_ok=True)
    write_json(
        config.output / "sweep.json",
        {
            "command": command,
            "data": data.name,
            "queries": len(dev.candidates),
            "share": config.share,
            "tried": compared,
        },
    )
    write_text(config.output / "sweep.md", f"`{command}`\n\n{table}\n")
    say(table)


def grid(attempts: list[str]) -> list[dict[str, Any]]:
    """All combinations of the values, the first of each first; each a mapping of settings. Raises InputError."""
    hints, parts = get_type_hints(TrainingConfig), []
    for one in attempts:
        name, found, values = one.partition("=")
        kinds = number_kinds(hints[name]) if name in hints else set()
        if not found or not kinds:
            numbers = sorted(key for key, hint in hints.items() if number_kinds(hint))
            raise InputError(f"--attempts {one}: expected NAME=VALUE,VALUE,... with one of {', '.join(numbers)}")
        kind = float if float in kinds else int
        try:
            parts.append([(name, kind(value)) for value in values.split(",")])
        except ValueError:
            raise InputError(f"--attempts {one}: expected {kind.__name__} values between commas") from None
    names = [part[0][0] for part in parts]
    if not parts:
        raise InputError("--attempts is missing: expected settings with the values to try, such as kl=0,0.5")
    if len(set(names)) < len(names):
        raise InputError(f"--attempts {' '.join(attempts)}: expected each setting once, such as kl=0,0.5")
    return [dict(combination) for combination in product(*parts)]


def number_kinds(hint: Any) -> set[type]:
    """Which of int and float a setting may be; a list of them is neither."""
    return set() if get_origin(hint) is list else {int, float} & {hint, *get_args(hint)}


def smaller(training: TrainingConfig, tier: Tier, share: float) -> tuple[TrainingConfig, Tier]:
    """The same training on this share of each stage's queries, which the tier's numbers stand for."""
    imitated, apart = stages.wanted(training, tier)
    part = replace(
        tier, imitated_texts=round(share * imitated), apart_queries=round(share * apart),
        train_queries=max(1, round(share * (training.limit or tier.train_queries))),
    )  # fmt: skip
    return replace(training, limit=None, imitated_texts=None, apart_queries=None), part


def dev_values(checkpoint: Path, dev: Held, max_length: int) -> dict[str, float]:
    """The measure of each dev query, by PyTorch."""
    scores = score_candidates(load_student(checkpoint, max_length), dev.data, dev.candidates)
    judgments = {query: dev.data.judgments[query] for query in dev.candidates}
    return evaluate(run_from_scores(dev.candidates, scores), judgments, (MEASURE,))[MEASURE]


def compare(row: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
    """The row with its mean, and with the paired difference to the first combination."""
    values = row["by query"]
    difference = paired_bootstrap(values, first["by query"])
    return {
        "settings": row["settings"], "seconds": row["seconds"], MEASURE: sum(values.values()) / len(values),
        "less the first": {"mean": difference.difference, "low": difference.low, "high": difference.high},
    }  # fmt: skip


def named(settings: dict[str, Any]) -> str:
    """Settings as they are asked for."""
    return " ".join(f"{name}={value}" for name, value in settings.items())


def table_of(compared: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of the table, best first."""
    rows = [["settings", MEASURE, "less the first (95 % interval)", "seconds"]]
    for row in sorted(compared, key=lambda one: -one[MEASURE]):
        gap = row["less the first"]
        interval = f"{gap['mean']:+.4f} ({gap['low']:+.4f} to {gap['high']:+.4f})"
        rows.append([named(row["settings"]), f"{row[MEASURE]:.4f}", interval, f"{row['seconds']:.0f}"])
    return rows


def main(argv: list[str] | None = None) -> int:
    """0 when all combinations were measured, 2 for bad input."""
    kinds = [StudentConfig, SweepConfig, MeasuringConfig, TrainingConfig, SearchConfig]
    return launch("sweep", __doc__, run, kinds, argv)


if __name__ == "__main__":
    sys.exit(main())

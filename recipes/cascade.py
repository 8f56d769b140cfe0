"""Measure a cascade: how good the order is, and how long a query takes, for each number of passages kept.

python -m recipes.cascade                                    # artifacts/nano, then artifacts/small
python -m recipes.cascade --fast artifacts/nano --good artifacts/small --data FOLDER --keep 5 20
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flashranker import Cascade, Reranker
from tqdm import tqdm

from export.artifact import write_json, write_text
from export.figures import standalone, tradeoff_figure
from recipes.command import launch, plain, say, setting
from training.data import InputError
from training.load import load_source
from training.metrics import MEASURES, summarise
from training.prepare import Held, first_stage_run, held_out


@dataclass(frozen=True)
class CascadeConfig:
    """Settings of one measurement."""

    fast: Path = setting(Path("artifacts/nano"), "the model folder that orders all candidates")
    good: Path = setting(Path("artifacts/small"), "the model folder that orders the best of them anew")
    keep: list[int] = setting(None, "passages kept for the good one; by default 5 10 20 30", nargs="+")
    data: str = setting("pydocs", "what to measure on: pydocs, a BEIR folder, or a .jsonl or .parquet file")
    queries: int = setting(100, "test queries")
    depth: int = setting(50, "candidates of the first stage, passages per query")
    threads: int = setting(0, "cores; 0 for all that this process may use")
    seed: int = setting(0, "seed of the choice of queries")
    output: Path = setting(Path("recipes/results/cascade.json"), "where the numbers go")
    picture: Path = setting(Path("docs/cascade.svg"), "where the picture goes")


def run(config: CascadeConfig, command: str) -> None:
    """The story of one measurement. Raises InputError, or the runtime's errors."""
    say(f"1/3 data: {config.data}")
    tests = held_out(load_source(config.data, True, True), "test", config.queries, config.depth, config.seed)

    say(f"2/3 models: {config.fast}, {config.good}")
    systems = make_systems(config)

    say(f"3/3 {len(tests.candidates)} queries x {config.depth} passages, {len(systems)} systems in turns")
    points = measure(systems, tests)
    results = {"command": command, "settings": plain(config),
               "queries": len(tests.candidates), "points": points}  # fmt: skip
    write_json(config.output, results)
    write_text(config.picture, standalone(tradeoff_figure("MRR@10", drawn(points))))
    say(table(points))


def make_systems(config: CascadeConfig) -> dict[str, Reranker | Cascade]:
    """Each model alone, and the cascade for each number kept. Raises InputError for one that is not below the depth."""
    keep = config.keep or [5, 10, 20, 30]
    if config.queries < 1 or config.depth < 2 or not all(0 < count < config.depth for count in keep):
        raise InputError(f"--keep {keep}, --depth {config.depth}: expected numbers from 1 to below the depth")
    fast, good = (Reranker(folder, threads=config.threads or None) for folder in (config.fast, config.good))
    cascades = {f"keep {count}": Cascade([fast, good], keep=count) for count in sorted(keep)}
    names = [fast.manifest.name, good.manifest.name]
    if names[0] == names[1]:
        names = [f"{names[0]}, fast", f"{names[1]}, good"]
    return {names[0]: fast, **cascades, names[1]: good}


def measure(systems: Mapping[str, Reranker | Cascade], tests: Held) -> dict[str, dict[str, Any]]:
    """System -> ms a query (median and quartiles) and the measures' means with intervals; the first stage at 0 ms.

    The systems take turns query by query, so that what the machine does meanwhile meets all alike.
    """
    runs: dict[str, dict[str, dict[str, float]]] = {name: {} for name in systems}
    spent: dict[str, list[float]] = {name: [] for name in systems}
    for query, ids in tqdm(tests.candidates.items(), desc="measuring", unit="query"):
        passages = [tests.data.passages[i] for i in ids]
        for name, system in systems.items():
            start = time.perf_counter()
            hits = system.rerank(tests.data.queries[query], passages)
            spent[name].append(1000 * (time.perf_counter() - start))
            # Ranks, because a cascade's logits are of two models.
            runs[name][query] = {ids[hit.index]: -float(rank) for rank, hit in enumerate(hits)}
    judgments = {query: tests.data.judgments[query] for query in tests.candidates}
    points: dict[str, dict[str, Any]] = {"first stage": {"ms": {"median": 0.0, "low": 0.0, "high": 0.0}}}
    points["first stage"] |= summarise(first_stage_run(tests.candidates), judgments)
    for name in systems:
        low, median, high = np.quantile(spent[name], [0.25, 0.5, 0.75])
        points[name] = {"ms": {"median": median, "low": low, "high": high}, **summarise(runs[name], judgments)}
    return points


def drawn(points: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[float, float, float, float]]:
    """What the picture shows: name -> ms, MRR@10 and the ends of its interval."""
    return {
        name: (point["ms"]["median"], *(point["MRR@10"][part] for part in ("mean", "low", "high")))
        for name, point in points.items()
    }


def table(points: Mapping[str, Mapping[str, Any]]) -> str:
    """What a person reads at the end."""
    lines = [f"{'':<14} {'ms a query: median (quartiles)':<32} " + " ".join(f"{name:>26}" for name in MEASURES)]
    for name, point in points.items():
        spent = f"{point['ms']['median']:8.1f} ({point['ms']['low']:.1f} to {point['ms']['high']:.1f})"
        cells = [f"{point[m]['mean']:.4f} [{point[m]['low']:.4f}, {point[m]['high']:.4f}]" for m in MEASURES]
        lines.append(f"{name:<14} {spent:<32} " + " ".join(f"{cell:>26}" for cell in cells))
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """0 when all was measured, 2 for bad input."""
    return launch("cascade", __doc__, run, [CascadeConfig], argv)


if __name__ == "__main__":
    sys.exit(main())

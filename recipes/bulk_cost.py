"""What a million pairs cost: recipes.bulk on each engine with one worker and with two, of one thread each.

python -m recipes.bulk_cost                    # recipes/results/bulk.json
python -m recipes.bulk_cost --turns 1 --seconds 5 --engines local

Every run is the real command in a process of its own, on untrained models of the tiers' shapes and texts of the
built-in corpus, about 100 tokens a pair; the engines take turns. How many pairs are enough to keep one core busy for
--seconds is tried first.
"""

import json
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from flashranker import Reranker
from tqdm import tqdm

from export.artifact import write_json
from recipes.benchmark import instructions
from recipes.bulk import ENGINES, SUMMARY
from recipes.bulk_engines import check_engine
from recipes.bulk_rank import rank_pairs
from recipes.command import launch, plain, say, setting
from recipes.speed_models import SHAPES, make_model
from recipes.starts import finished, spread
from training.data import InputError
from training.load import load

WORKERS = (1, 2)
QUERY_WORDS, PASSAGE_WORDS = 20, 60  # about 100 tokens in all
PASSAGES = 100  # a query
TRIAL = 200  # pairs
PARTS = SPEED, COST, START = "pairs per second", "core-hours per million pairs", "seconds of start and end"


@dataclass(frozen=True)
class CostConfig:
    """Settings of one measurement."""

    models: list[str] = setting(None, f"which shapes, of {', '.join(SHAPES)}; nano and six by default", nargs="+")
    engines: list[str] = setting(None, f"which of {', '.join(ENGINES)}; all by default", nargs="+")
    seconds: float = setting(20.0, "how long one core should be busy in a run, in seconds")
    turns: int = setting(3, "turns counted, after one that is not")
    cache: Path = setting(Path("cache"), "folder where the models to be timed are kept")
    output: Path = setting(Path("recipes/results/bulk.json"), "where the numbers go")


def run(config: CostConfig, command: str) -> None:
    """The story of one measurement. Raises InputError."""
    models, engines = config.models or ["nano", "six"], config.engines or ENGINES
    check(config, models, engines)
    say(f"1/3 models: {', '.join(models)}")
    folders = {name: make_model(name, config.cache / "benchmark").folder for name in models}

    say("2/3 pairs: of the built-in corpus")
    texts = make_pairs()
    counts = {name: enough(folder, texts, config.seconds) for name, folder in folders.items()}
    say(f"    {', '.join(f'{name} {count:,}' for name, count in counts.items())}")

    say(f"3/3 cost: {', '.join(engines)}, {config.turns} turns")
    cases = [(name, engine, workers) for name in models for engine in engines for workers in WORKERS]
    found: dict[tuple[str, str, int], list[dict[str, float]]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as place:
        for name, count in counts.items():
            repeated = texts.take(pa.array(np.arange(count) % len(texts)))
            # The same texts again are other pairs when a number stands before each.
            numbered = [f"{row} {text}" for row, text in enumerate(repeated["passage"].to_pylist())]
            pq.write_table(repeated.set_column(1, "passage", pa.array(numbered)), Path(place, f"{name}.parquet"))
        for turn in tqdm(range(config.turns + 1), unit="turn"):
            for name, engine, workers in cases:
                output = Path(place, f"{turn}-{name}-{engine}-{workers}")
                one = measure(Path(place, f"{name}.parquet"), output, folders[name], engine, workers)
                if turn:
                    found[name, engine, workers].append(one)
    results = {
        "command": command, "settings": plain(config), "machine": {"instructions": instructions()}, "pairs": counts,
        "models": {name: {engine: engine_result(found, name, engine) for engine in engines} for name in models},
    }  # fmt: skip
    write_json(config.output, results)
    say("\n".join(rows(results)))


def check(config: CostConfig, models: list[str], engines: list[str]) -> None:
    """Raises InputError for an unknown name, a count below 1, or an engine that is not installed."""
    for option, given, known in (("models", models, list(SHAPES)), ("engines", engines, ENGINES)):
        if unknown := [name for name in given if name not in known]:
            raise InputError(f"--{option} {unknown[0]}: expected some of {', '.join(known)}")
    if config.turns < 1 or config.seconds <= 0:
        raise InputError("--turns must be 1 or more, --seconds above 0")
    for engine in engines:
        check_engine(engine)


def make_pairs() -> pa.Table:
    """Queries of the built-in corpus, each with 100 passages drawn from all of it, cut to about 100 tokens together."""
    data, draw = load("pydocs"), np.random.default_rng(0)
    passages = [" ".join(text.split()[:PASSAGE_WORDS]) for text in data.passages.values()]
    queries = [" ".join(text.split()[:QUERY_WORDS]) for text in list(data.queries.values())[:200]]
    drawn = draw.integers(0, len(passages), len(queries) * PASSAGES)
    return pa.table({
        "query": np.repeat(np.array(queries, object), PASSAGES), "passage": [passages[number] for number in drawn],
    })  # fmt: skip


def enough(folder: Path, texts: pa.Table, seconds: float) -> int:
    """How many pairs keep one core busy for about that long, in hundreds."""
    ranker, trial = Reranker(folder, threads=1), texts.slice(0, TRIAL).to_pydict()
    start = time.perf_counter()
    rank_pairs(ranker, trial["query"], trial["passage"])
    return max(1, round(seconds * TRIAL / (time.perf_counter() - start) / 100)) * 100


def measure(given: Path, output: Path, model: Path, engine: str, workers: int) -> dict[str, float]:
    """What one run of the command says of itself, and how long it took beside scoring. Raises InputError."""
    # A few shards a worker, so that none waits long for the last one of another.
    options = ["--model", model, "--engine", engine, "--workers", workers, "--threads_per_worker", 1, "--shards", 16]
    start = time.perf_counter()
    try:
        finished([sys.executable, "-m", "recipes.bulk", str(given), str(output), *map(str, options)])
    except RuntimeError as error:
        raise InputError(f"--engine {engine}: {error}") from None
    taken = time.perf_counter() - start
    found = json.loads((output / SUMMARY).read_text(encoding="utf-8"))
    hours = workers * found["scoring seconds"] / 3600
    return {
        SPEED: found[SPEED], COST: 1e6 * hours / found["pairs scored"], START: taken - found["scoring seconds"]
    }  # fmt: skip


def engine_result(found: Mapping[tuple[str, str, int], list[dict[str, float]]], name: str, engine: str) -> dict:
    """Spreads by number of workers, and which share of twice one worker's speed two reached, by their medians."""
    by_workers = {
        str(workers): {part: spread([turn[part] for turn in found[name, engine, workers]]) for part in PARTS}
        for workers in WORKERS
    }
    one, two = (by_workers[str(workers)][SPEED]["median"] for workers in WORKERS)
    return {"workers": by_workers, "share of ideal": two / (2 * one)}


def rows(result: Mapping[str, Any]) -> list[str]:
    """The table of a result, in Markdown."""
    lines = [
        "| model | engine | one worker, pairs/s | two workers, pairs/s | of twice one | core-hours per million pairs "
        "| s beside scoring |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, engines in result["models"].items():
        for engine, one in engines.items():
            first, second = (one["workers"][str(workers)] for workers in WORKERS)
            cells = [span(first[SPEED], 0), span(second[SPEED], 0), f"{one['share of ideal']:.0%}"]
            cells += [span(second[COST], 2), span(second[START], 0)]
            lines.append(f"| {name} | {engine} | {' | '.join(cells)} |")
    return lines


def span(found: Mapping[str, float], digits: int) -> str:
    """Median (least to most)."""
    return f"{found['median']:,.{digits}f} ({found['low']:,.{digits}f} to {found['high']:,.{digits}f})"


def cost_section(result: Mapping[str, Any]) -> str:
    """The section of docs/numbers.md."""
    lines = [
        f"Untrained int8 models, pairs of about 100 tokens, {result['settings']['turns']} turns; a worker has one "
        "thread, and `local` is one process of so many threads. Medians (least to most); cost, and the seconds of "
        "start, dealing out and check, are those of two workers.",
        "",
        *rows(result),
        "",
        "Extrapolated, not measured, from two workers' cost, as if a thousand were as busy as two: a billion pairs "
        f"take {extrapolated(result['models'])}.",
    ]
    return "\n".join(lines)


def extrapolated(models: Mapping[str, Any]) -> str:
    """Hours that a billion pairs take on 1,000 cores, by model, from the least to the most costly engine."""
    told = []
    for name, engines in models.items():
        hours = [one["workers"]["2"][COST]["median"] for one in engines.values()]
        told.append(f"{min(hours):.1f} to {max(hours):.1f} hours on 1,000 cores with `{name}`")
    return ", ".join(told)


def main(argv: list[str] | None = None) -> int:
    """0 when all was measured, 2 for bad input."""
    return launch("bulk_cost", __doc__, run, [CostConfig], argv)


if __name__ == "__main__":
    sys.exit(main())

"""Time this runtime against what people use today: same weights, texts and cores, turn by turn, in one run.

python -m recipes.benchmark                                  # three shapes of model on the built-in corpus
python -m recipes.benchmark --data FOLDER --turns 9
"""

import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flashranker.pairs import load_tokenizer
from flashranker.threads import available_threads
from scipy.stats import spearmanr
from tqdm import tqdm

from export.artifact import write_json, write_text
from export.figures import speed_figure, standalone
from recipes.command import launch, plain, say, setting
from recipes.rivals import SYSTEMS, Model, Request, Worker
from recipes.speed_models import SHAPES, make_model
from recipes.starts import cold_starts, spread
from training.data import InputError, RankingData
from training.load import load

OURS = "flashranker"
# What decides how fast int8 products are, on x86 and on ARM, by the names that Linux gives.
INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
PACKAGES = ("flashrank", "sentence-transformers", "fastembed", "onnxruntime", "torch", "tokenizers")


@dataclass(frozen=True)
class BenchmarkConfig:
    """Settings of one run."""

    data: str = setting("pydocs", "where queries and passages come from: pydocs (built in) or a BEIR folder")
    models: list[str] = setting(None, f"which shapes to time, of {', '.join(SHAPES)}; all by default", nargs="+")
    threads: int = setting(0, "cores for each system; 0 for all that this process may use")
    turns: int = setting(7, "turns counted, after one that is not")
    starts: int = setting(5, "process starts timed for each system")
    cache: Path = setting(Path("cache"), "folder where the models to be timed are kept")
    output: Path = setting(Path("recipes/results/benchmark.json"), "where the numbers go")
    picture: Path = setting(Path("docs/benchmark.svg"), "where the picture goes")


def run(config: BenchmarkConfig, command: str) -> None:
    """The story of one benchmark. Raises InputError for a system that is not installed, or data without queries."""
    threads = config.threads or available_threads()
    names = config.models or list(SHAPES)
    check(config, names)

    say(f"1/5 models: {', '.join(names)}, {threads} cores")
    models = [make_model(name, config.cache / "benchmark") for name in names]

    say(f"2/5 texts: {config.data}")
    workloads = make_workloads(load(config.data, keep_missing=True))

    say(f"3/5 speed: {len(SYSTEMS)} systems, {config.turns} turns")
    speed = {model.name: time_model(model, workloads, threads, config.turns) for model in models}

    say("4/5 the machine's own rate of multiply-adds")
    rate = matrix_rate(threads)
    ideal = {model.name: ideal_ms(model, *workloads["mixed"][0], rate) for model in models}

    say(f"5/5 process starts: {config.starts} of each system")
    starts = cold_starts(models[0], threads, config.starts)

    results = {
        "command": command, "settings": plain(config),
        "machine": {"processor": platform.processor() or platform.machine(), "instructions": instructions(),
                    "threads": threads, "fp32 multiply-adds per second": rate},
        "versions": {name: version(name) for name in PACKAGES},
        "speed": speed, "ideal ms, mixed": ideal, "starts": starts,
    }  # fmt: skip
    write_json(config.output, results)
    write_text(config.picture, standalone(speed_figure(ratios(speed, "mixed"))))
    say(table(results))


def check(config: BenchmarkConfig, names: Sequence[str]) -> None:
    """Raises InputError for an unknown shape, a count below 1, or a system that is not installed."""
    for name in names:
        if name not in SHAPES:
            raise InputError(f"--models {name}: expected some of {', '.join(SHAPES)}")
    if config.turns < 1 or config.starts < 1 or config.threads < 0:
        raise InputError("--turns and --starts must be 1 or more, --threads 0 or more")
    for package in PACKAGES:
        try:
            version(package)
        except PackageNotFoundError:
            raise InputError(f"{package} is not installed: run `make bench`, which installs it") from None


def make_workloads(data: RankingData) -> dict[str, list[Request]]:
    """Requests by name: 100 passages of mixed length, 10 short ones, and eight callers with 10 each.

    Passages are a query's candidates where the data bring some, and drawn from the whole corpus otherwise: what BM25
    finds in `pydocs` are mostly passages longer than a model reads, of one length therefore.
    """
    queries = [query for query in data.splits.get("test") or data.queries if data.judgments.get(query)]
    draw = np.random.default_rng(0)
    ids = np.array(list(data.passages), dtype=object)
    if data.candidates:
        lists = {query: data.candidates.get(query, [])[:100] for query in queries}
        lists = {query: found for query, found in lists.items() if len(found) == 100}
    else:
        lists = {query: list(draw.choice(ids, 100, replace=False)) for query in queries[:8] if len(ids) >= 100}
    if len(lists) < 8:
        raise InputError(f"{data.name}: {len(lists)} queries have 100 candidates, expected 8: use a larger corpus")
    requests: list[Request] = [
        (data.queries[query], [data.passages[i] for i in found]) for query, found in lists.items()
    ]
    query, passages = requests[0]
    return {
        "mixed": [(query, passages)],
        "short": [(query, [" ".join(passage.split()[:15]) for passage in passages[:10]])],
        "callers": [(query, passages[:10]) for query, passages in requests[:8]],
    }


def time_model(
    model: Model, workloads: Mapping[str, Sequence[Request]], threads: int, turns: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Workload -> system -> {"median", "low", "high"} in ms, and "rank agreement" of its scores with ours.

    The systems are open at once and take turns, so that what the machine does meanwhile meets all alike.
    """
    workers = {system: Worker(system, model, threads) for system in SYSTEMS}
    seconds: dict[tuple[str, str], list[float]] = {}
    scores: dict[tuple[str, str], np.ndarray] = {}
    try:
        for turn in tqdm(range(turns + 1), desc=model.name, unit="turn"):
            for workload, requests in workloads.items():
                for system, worker in workers.items():
                    answer = worker.run(requests, callers=len(requests))
                    scores[workload, system] = np.concatenate(answer["scores"])
                    if turn:
                        seconds.setdefault((workload, system), []).append(1000 * answer["seconds"])
    finally:
        for worker in workers.values():
            worker.close()
    return {
        workload: {
            system: spread(seconds[workload, system])
            | {"rank agreement": agreement(scores[workload, OURS], scores[workload, system])}
            for system in SYSTEMS
        }
        for workload in workloads
    }


def agreement(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Spearman's correlation: FlashRank gives probabilities where the others give logits."""
    return float(spearmanr(ours, theirs).statistic)


def matrix_rate(threads: int, turns: int = 15) -> float:
    """fp32 multiply-adds per second of PyTorch's matrix product, (2048, 384) by (384, 1536): the best turn."""
    torch.set_num_threads(threads)
    left, right = torch.randn(2048, 384), torch.randn(384, 1536)
    times = []
    for _ in range(turns):
        start = time.perf_counter()
        for _ in range(4):
            left @ right
        times.append(time.perf_counter() - start)
    return 4 * 2048 * 384 * 1536 / min(times)


def instructions(description: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Which of INSTRUCTIONS this processor has; none where the system does not describe it in such a file."""
    if not description.is_file():
        return []
    named = set(description.read_text(encoding="utf-8").split())
    return [name for name in INSTRUCTIONS if name in named]


def ideal_ms(model: Model, query: str, passages: Sequence[str], rate: float) -> float:
    """Milliseconds for all multiply-adds of the whole model on these pairs, unpadded, at the machine's fp32 rate."""
    shape, tokenizer = SHAPES[model.name], load_tokenizer(model.folder / "tokenizer.json")
    pairs = tokenizer.encode_batch([(query, passage) for passage in passages])
    lengths = np.minimum([len(pair) for pair in pairs], model.max_length).astype(np.float64)
    per_token = 4 * shape.width**2 + 2 * shape.width * shape.intermediate
    total = shape.layers * (lengths * per_token + 2 * lengths**2 * shape.width).sum()
    return float(1000 * total / rate)


def ratios(speed: Mapping[str, Any], workload: str) -> dict[str, dict[str, float]]:
    """Model -> system -> how many times our median it takes."""
    return {
        model: {
            system: one["median"] / workloads[workload][OURS]["median"] for system, one in workloads[workload].items()
        }
        for model, workloads in speed.items()
    }


def table(results: Mapping[str, Any]) -> str:
    """What a person reads at the end."""
    lines = []
    for model, workloads in results["speed"].items():
        for workload, systems in workloads.items():
            lines.append(f"{model}, {workload}: ms, median (low to high), times ours, rank agreement")
            ours = systems[OURS]["median"]
            for system, one in systems.items():
                span = f"({one['low']:.1f} to {one['high']:.1f})"
                lines.append(
                    f"  {system:<30} {one['median']:>9.1f} {span:<22} {one['median'] / ours:>6.2f}x "
                    f"{one['rank agreement']:>7.3f}"
                )
        share = workloads["mixed"][OURS]["median"] / results["ideal ms, mixed"][model]
        lines.append(f"  ours over the ideal at this machine's fp32 rate: {share:.2f}")
    for system, one in results["starts"].items():
        found = ", ".join(f"{part} {value['median']:.0f}" for part, value in one.items())
        lines.append(f"start, {system}: {found}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """0 when all was measured, 2 for bad input."""
    return launch("benchmark", __doc__, run, [BenchmarkConfig], argv)


if __name__ == "__main__":
    sys.exit(main())

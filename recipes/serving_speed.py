"""Requests a second through `flashranker serve`, beside the library called in a loop.

python -m recipes.serving_speed                # nano and six, 8 clients with 50 passages each
"""

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashranker import Reranker
from flashranker.threads import available_threads
from tqdm import tqdm

from export.artifact import write_json
from recipes.benchmark import make_workloads
from recipes.command import launch, plain, say, setting
from recipes.rivals import Model
from recipes.speed_models import SHAPES, make_model
from recipes.starts import spread
from training.data import InputError
from training.load import load

Request = tuple[str, list[str]]


@dataclass(frozen=True)
class ServingConfig:
    """Settings of one measurement."""

    models: list[str] = setting(
        None, f"which shapes to serve, of {', '.join(SHAPES)}; nano and six by default", nargs="+"
    )
    clients: int = setting(8, "clients that ask at the same time, each one request after another, at most 8")
    passages: int = setting(50, "passages of a request, at most 100")
    requests: int = setting(5, "requests of each client in a turn")
    turns: int = setting(7, "turns, each once through the server and once through the library")
    threads: int = setting(0, "threads that rank; 0 for all that this process may use")
    data: str = setting("pydocs", "where the texts come from: pydocs or a BEIR folder")
    cache: Path = setting(Path("cache"), "folder where the models to be measured are kept")
    output: Path = setting(Path("recipes/results/serving_speed.json"), "where the numbers go")


def run(config: ServingConfig, command: str) -> None:
    """The story of one measurement. Raises InputError."""
    names = config.models or ["nano", "six"]
    check(config, names)
    threads = config.threads or available_threads()
    say(f"1/2 texts: {config.data}")
    lists = make_workloads(load(config.data, keep_missing=True))["callers"]
    pool = [passage for _, passages in lists for passage in passages]
    asked = [(query, pool[i:] + pool[:i]) for i, (query, _) in enumerate(lists[: config.clients])]
    requests = [(query, (passages * config.passages)[: config.passages]) for query, passages in asked]

    say(f"2/2 speed: {config.turns} turns of {config.clients} x {config.requests} requests")
    found = {}
    for name in names:
        found[name] = measure(make_model(name, config.cache / "benchmark"), requests, threads, config)
    results = {
        "command": command, "settings": plain(config), "machine": {"threads": threads}, "requests per second": found,
    }  # fmt: skip
    write_json(config.output, results)
    for name, speeds in found.items():
        rates = ", ".join(f"{way} {speeds[way]['median']:.1f}/s" for way in ("server", "library"))
        say(f"{name:<7} {rates}, share {speeds['share']['median']:.3f}")


def check(config: ServingConfig, names: Sequence[str]) -> None:
    """Raises InputError for an unknown shape or a count that can't be."""
    unknown = [name for name in names if name not in SHAPES]
    if unknown:
        raise InputError(f"--models {unknown[0]}: expected some of {', '.join(SHAPES)}")
    if not 1 <= config.clients <= 8 or not 1 <= config.passages <= 100:
        raise InputError("--clients must be 1 to 8, --passages 1 to 100")
    if config.requests < 1 or config.turns < 1 or config.threads < 0:
        raise InputError("--requests and --turns must be 1 or more, --threads 0 or more")


def measure(
    model: Model, requests: Sequence[Request], threads: int, config: ServingConfig
) -> dict[str, dict[str, float]]:
    """Requests a second through server and library, and the share of it that the server reaches, turn by turn.

    The clients share the cores with the server, as they would on one machine.
    """
    ranker, count = Reranker(model.folder, threads=threads), len(requests) * config.requests
    speeds: dict[str, list[float]] = {"server": [], "library": []}
    with served(model.folder, threads) as port, ThreadPoolExecutor(len(requests)) as clients:
        for turn in tqdm(range(config.turns + 1), desc=model.name, unit="turn"):
            began = time.perf_counter()
            asked = list(clients.map(lambda request: ask(port, request, config.requests), requests))
            served_at = time.perf_counter()
            called = [[ranker.rerank(*request) for request in requests] for _ in range(config.requests)][-1]
            ended = time.perf_counter()
            if [[hit.logit for hit in hits] for hits in called] != asked:
                raise InputError(f"the server's logits of {model.name} are not the library's: nothing to compare")
            if turn:  # the first one warms up
                speeds["server"].append(count / (served_at - began))
                speeds["library"].append(count / (ended - served_at))
    shares = [ours / theirs for ours, theirs in zip(speeds["server"], speeds["library"], strict=True)]
    return {name: spread(values) for name, values in speeds.items()} | {"share": spread(shares)}


def ask(port: int, request: Request, count: int) -> list[float]:
    """The logits, best first, of the last of `count` requests over one connection."""
    query, passages = request
    body = json.dumps({"query": query, "texts": passages, "raw_scores": True})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    for _ in range(count):
        connection.request("POST", "/rerank", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = json.loads(answer.read())
        if answer.status != 200:
            raise InputError(f"the server answers {answer.status}: {content['message']}")
    connection.close()
    return [one["score"] for one in content]


@contextmanager
def served(folder: Path, threads: int) -> Iterator[int]:
    """The port of a server in a process of its own, which ends with the block."""
    command = [sys.executable, "-m", "flashranker", "serve", str(folder), "--port", "0", "--threads", str(threads)]
    process: Any = subprocess.Popen(
        [*command, "--timeout", "300"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        line = process.stdout.readline()
        if not line:
            raise InputError(f"`{' '.join(command)}` did not start: run it by hand to see why")
        yield int(line.split(";")[0].rsplit(":", 1)[1])
    finally:
        process.terminate()
        process.wait()


def serving_section(result: Mapping[str, Any]) -> str:
    """The section of docs/numbers.md."""
    settings = result["settings"]
    lines = [
        f"Requests a second of {settings['clients']} clients with {settings['passages']} passages each, which share "
        f"{result['machine']['threads']} cores with the server; {settings['turns']} turns, each through the server and "
        "then through the library, called for one request after another. `share` is one over the other, turn by turn.",
        "",
        "| model | through the server: median (least to most) | library in a loop | share |",
        "|---|---|---|---|",
    ]
    for name, speeds in result["requests per second"].items():
        rates = (f"{one['median']:.1f} ({one['low']:.1f} to {one['high']:.1f})" for one in list(speeds.values())[:2])
        share = speeds["share"]
        shares = f"{share['median']:.3f} ({share['low']:.3f} to {share['high']:.3f})"
        lines.append(f"| {name} | {' | '.join(rates)} | {shares} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """0 when all was measured, 2 for bad input."""
    return launch("serving_speed", __doc__, run, [ServingConfig], argv)


if __name__ == "__main__":
    sys.exit(main())

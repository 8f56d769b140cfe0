"""How much faster int8 artifacts are than PyTorch on the weights they were made of.

python -m recipes.against_torch artifacts/small artifacts/large --data FOLDER

The checkpoint lies beside an artifact, as every recipe leaves it. Both read the same candidates of the first stage, in
turn, on as many cores; tokenizing the passages is part of neither time.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from flashranker.artifact import read_manifest
from flashranker.threads import available_threads

from export.artifact import write_json
from export.parity import measure_latency
from recipes.command import launch, plain, say, setting
from recipes.measure import requests_of
from recipes.starts import spread
from training.backbone import checkpoint_of
from training.data import InputError
from training.load import load_source
from training.prepare import held_out

PASSAGES = 100


@dataclass(frozen=True)
class AgainstTorchConfig:
    """Settings of one measurement."""

    data: str = setting("pydocs", "whose held-out queries and candidates are read: as --data of recipes.export")
    queries: int = setting(3, f"queries, drawn from the held-out ones, each with up to {PASSAGES} candidates")
    turns: int = setting(5, "turns of each query")
    threads: int = setting(0, "cores for either; 0 for all that this process may use")
    output: Path = setting(Path("recipes/results/against_torch.json"), "where the numbers go")


def run(config: AgainstTorchConfig, artifacts: Sequence[str], command: str) -> None:
    """The story of one measurement. Raises InputError or FlashRankerError."""
    if config.queries < 1 or config.turns < 1 or config.threads < 0:
        raise InputError("--queries and --turns must be 1 or more, --threads 0 or more")
    threads = config.threads or available_threads()
    torch.set_num_threads(threads)
    folders = [Path(one) for one in artifacts]
    if len({folder.name for folder in folders}) < len(folders):
        raise InputError(f"two of {', '.join(artifacts)} have one name: expected folders of different names")
    manifests = [read_manifest(folder) for folder in folders]
    for folder in folders:
        if not checkpoint_of(folder).is_dir():
            raise InputError(f"{folder} has no PyTorch weights beside it: expected {checkpoint_of(folder)}")
    say(f"1/2 data: {config.data}")
    data = load_source(config.data, drop_leaks=True, keep_missing=True)
    requests = requests_of(held_out(data, "test", config.queries, PASSAGES, seed=0))
    if not requests:
        raise InputError(f"{config.data}: the first stage finds nothing for its held-out queries")
    found = {}
    for folder, manifest in zip(folders, manifests, strict=True):
        say(f"2/2 {folder}: {len(requests)} queries, {config.turns} turns")
        found[folder.name] = timed(folder, requests, manifest.max_length, config.turns, threads) | {
            "tier": manifest.tier,
            "max_length": manifest.max_length,
            "MB": manifest.files["onnx/model.onnx"].bytes / 1e6,
            "rung": manifest.quantization.get("rung", "not quantized here"),
        }
        say(f"    {found[folder.name]['times']}")
    read = {"queries": len(requests), "passages": sum(len(passages) for _, passages in requests)}
    machine = {"threads": threads}
    content = {"command": command, "settings": plain(config), "machine": machine, "read": read, "artifacts": found}
    write_json(config.output, content)


def timed(
    folder: Path, requests: Sequence[tuple[str, Sequence[str]]], max_length: int, turns: int, threads: int
) -> dict[str, dict[str, float]]:
    """Milliseconds for 100 passages of both, and PyTorch's as multiples of int8's: median, least and most of queries.

    What is spread are the queries' medians.
    """
    medians = []
    for query, passages in requests:
        latency = measure_latency(checkpoint_of(folder), {"int8": folder}, query, passages, max_length, turns, threads)
        medians.append({name: times["median"] for name, times in latency.items()})
    return {name: spread([one[name] for one in medians]) for name in ("int8", "torch")} | {
        "times": spread([one["torch"] / one["int8"] for one in medians])
    }


def against_torch_section(result: dict[str, Any]) -> str:
    """Milliseconds and multiples by artifact, in Markdown."""
    read = result["read"]
    lines = [
        f"Milliseconds for 100 passages of `{Path(result['settings']['data']).name}`, {read['passages']} read, "
        f"{result['machine']['threads']} cores for either, in turn, without tokenizing the passages; median "
        f"(least to most) of {read['queries']} queries' medians of {result['settings']['turns']} turns.",
        "",
        "| artifact | tier | MB | rung of the ladder | int8 ms | PyTorch fp32 ms | times int8 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in result["artifacts"].items():
        int8, torched = (
            f"{found[one]['median']:.0f} ({found[one]['low']:.0f} to {found[one]['high']:.0f})"
            for one in ("int8", "torch")
        )
        times = f"{found['times']['median']:.2f} ({found['times']['low']:.2f} to {found['times']['high']:.2f})"
        lines.append(
            f"| {name} | {found['tier']} | {found['MB']:.1f} | {found['rung']} | {int8} | {torched} | {times} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """0 when all was measured, 2 for bad input."""
    positional = {"artifacts": {"help": "artifact folders", "metavar": "ARTIFACT", "nargs": "+"}}
    return launch("against_torch", __doc__, run, [AgainstTorchConfig], argv, positional=positional)


if __name__ == "__main__":
    sys.exit(main())

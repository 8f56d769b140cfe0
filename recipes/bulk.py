"""Score any number of (query, passage) pairs, on one machine or a cluster; a run that was stopped goes on.

python -m recipes.bulk pairs.parquet scored                                  # this machine, all cores
python -m recipes.bulk pairs/ scored --engine ray --address auto             # a Ray cluster
python -m recipes.bulk pairs/ scored --engine spark --address spark://host:7077

INPUT is a Parquet file or a folder of them with the columns query and passage; all other columns survive. OUTPUT is a
folder of Parquet files with the same rows and the columns input_row (position in the input), key, logit, score
(calibrated probability) and truncated. Each distinct pair is scored once. On a cluster all paths must be the same on
every node, this checkout's included: a shared folder, or a bucket mounted as one.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from shutil import rmtree
from typing import Any

from flashranker.artifact import hash_file, read_manifest
from flashranker.reranker import LONG
from flashranker.threads import available_threads
from tqdm import tqdm

from export.artifact import write_json
from recipes.bulk_engines import Each, check_engine, open_engine
from recipes.bulk_rank import RANKED, RankBatch, manifest_hash, open_ranker, rank_in_pandas
from recipes.bulk_shards import PIECES, Job, Piece, check_shards, cut, find_files
from recipes.claim import claimed
from recipes.command import launch, plain, say, setting
from training.data import InputError

__all__ = ["RANKED", "RankBatch", "main", "rank_in_pandas"]  # the first three for pipelines of your own
PLAN, SUMMARY = "_plan.json", "_summary.json"
ENGINES = ["local", "ray", "spark"]
FORMAT = 1  # of a run's folder
SHARD_ROWS, FEWEST_SHARDS, MOST_SHARDS = 5_000, 16, 10_000


@dataclass(frozen=True)
class BulkConfig:
    """Settings of one run."""

    model: Path = setting(Path("artifacts/small"), "artifact folder")
    engine: str = setting("local", "who does the work: this process, Ray Data or Spark", choices=ENGINES)
    address: str = setting("", "cluster to join: Ray's (or auto), or Spark's master; a local one is started without")
    workers: int = setting(0, "tasks at a time; 0 for as many as there are cores, of this process or of the cluster")
    threads_per_worker: int = setting(1, "cores of a task; one is best unless memory is short")
    shards: int = setting(
        0,
        f"files of the output, one a task; 0 for one to {SHARD_ROWS:,} rows, {FEWEST_SHARDS} to {MOST_SHARDS:,} in all",
    )
    max_length: int = setting(0, "tokens of query and passage together; 0 for the model's own")
    long: str = setting("cut", "long passages: read the beginning, or windows of which the best counts", choices=LONG)


def run(config: BulkConfig, given: Path, output: Path, command: str) -> None:
    """The story of one run. Raises InputError or FlashRankerError."""
    check(config, given, output)
    threads = config.threads_per_worker
    workers = config.workers or (0 if config.address else max(1, available_threads() // threads))
    if config.engine == "local":  # one process, whose threads share a model
        workers, threads = 1, workers * threads
    say(f"1/4 plan: {given}")
    files = find_files(given)
    pieces, columns = cut(files)
    begun, rows = time.time(), sum(piece.rows for piece in pieces)
    if not rows:
        raise InputError(f"{given} has no rows, expected some: check the path")
    plan = describe(config, files, rows, threads) | {"columns": columns.names}
    output.mkdir(parents=True, exist_ok=True)
    with alone(output):
        job = settle(config, plan, pieces, output, threads)
        missing, done = job.missing("shard"), []
        say(f"    {rows:,} rows, {job.shards:,} shards, {len(missing):,} of them missing")
        if missing:
            with open_engine(config.engine, workers, threads, config.address) as each:
                say(f"2/4 pieces: {len(pieces):,}, dealt out to the shards")
                (output / PIECES).mkdir(exist_ok=True)
                perform_all(each, job, "piece")
                say(f"3/4 scores: {config.engine}")
                done = perform_all(each, job, "shard")

        say("4/4 check: each row of the input once, each pair with one logit")
        counts = check_shards(job, rows)
        rmtree(output / PIECES, ignore_errors=True)
        found = summary(counts, done, threads) | {"seconds": time.time() - begun, "shards kept": job.shards - len(done)}
        write_json(output / SUMMARY, {"command": command, "settings": plain(config), **found})
    say(report(found))


def check(config: BulkConfig, given: Path, output: Path) -> None:
    """Raises InputError for a setting that makes no sense, or an engine that is not installed."""
    for name, least in {"workers": 0, "threads_per_worker": 1, "shards": 0, "max_length": 0}.items():
        if getattr(config, name) < least:
            raise InputError(f"--{name} is {getattr(config, name)}: expected {least} or more")
    if config.address and config.engine == "local":
        raise InputError(f"--address is {config.address}: expected none with --engine local; pass ray or spark")
    if output.resolve().is_relative_to(given.resolve()):
        raise InputError(f"OUTPUT {output} lies in INPUT {given}, which would then be read: choose a folder outside")
    if output.is_file():
        raise InputError(f"OUTPUT {output} is a file, expected a folder or nothing: choose another")
    check_engine(config.engine)


def describe(config: BulkConfig, files: Sequence[Path], rows: int, threads: int) -> dict[str, Any]:
    """What decides the output: of a run that goes on, none of it may be another. Raises what Reranker raises."""
    max_length, model = config.max_length or read_manifest(config.model).max_length, str(config.model.absolute())
    open_ranker(model, threads, max_length=max_length, long=config.long)  # before a worker finds what is wrong with it
    digests = [hash_file(path).sha256 for path in tqdm(files, desc="input", unit="file", disable=len(files) == 1)]
    return {
        "format": FORMAT, "input": sha256("".join(digests).encode()).hexdigest(), "rows": rows,
        "model": manifest_hash(model), "max_length": max_length,
        "long": config.long, "onnxruntime": version("onnxruntime"),
        "shards": config.shards or min(MOST_SHARDS, max(FEWEST_SHARDS, -(-rows // SHARD_ROWS))),
    }  # fmt: skip


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """Hold the folder against other runs. Raises InputError where one is at work, or what lies there is no run's."""
    with claimed(output / ".lock", f"another process fills {output}: wait for it, or choose another folder"):
        if not (output / PLAN).is_file() and any(path.name[0] != "." for path in output.iterdir()):
            raise InputError(f"{output} holds other files, expected a run's folder or an empty one: choose another")
        for stale in output.rglob(".*.tmp"):  # left by a killed run: the lock is ours
            stale.unlink(missing_ok=True)
        yield


def settle(config: BulkConfig, plan: Mapping[str, Any], pieces: tuple[Piece, ...], output: Path, threads: int) -> Job:
    """Write the plan, or go on with the one that is there. Raises InputError where that is of another run."""
    if (output / PLAN).is_file():
        kept = json.loads((output / PLAN).read_text(encoding="utf-8"))
        wanted = dict(plan) if config.shards else {**plan, "shards": kept.get("shards")}
        if differing := sorted(name for name in wanted | kept if wanted.get(name) != kept.get(name)):
            name = differing[0]
            raise InputError(
                f"{output} holds a run with {name} {kept.get(name)}, this one has {wanted.get(name)}: pass what it was "
                "begun with, or another OUTPUT"
            )
        plan = kept
    else:
        write_json(output / PLAN, plan)
    return Job(
        output=str(output.absolute()), model=str(config.model.absolute()), model_sha256=plan["model"], threads=threads,
        max_length=plan["max_length"], long=plan["long"], shards=plan["shards"], pieces=pieces,
    )  # fmt: skip


def perform_all(each: Each, job: Job, stage: str) -> list[dict[str, Any]]:
    """Do the tasks of a stage whose file is missing. Raises InputError at the first that fails."""
    results = []
    if numbers := job.missing(stage):
        for result in tqdm(each(job, stage, numbers), total=len(numbers), unit=stage):
            if result["error"]:
                raise InputError(result["error"])
            results.append(result)
    return results


def summary(counts: Mapping[str, int], done: Sequence[Mapping[str, Any]], threads: int) -> dict[str, Any]:
    """Counts of the whole output; speed and cost of the shards scored in this run, the start of workers left out."""
    found = {"rows": counts["rows"], "distinct pairs": counts["pairs"], "truncated rows": counts["truncated"]}
    if pairs := sum(result["pairs"] for result in done):
        span = max(result["ended"] for result in done) - min(result["begun"] for result in done)
        busy = sum(result["ended"] - result["begun"] for result in done)
        return found | {
            "pairs scored": pairs, "scoring seconds": span, "pairs per second": pairs / span,
            "core-hours per million pairs": busy * threads / 3600 * 1e6 / pairs,
        }  # fmt: skip
    return found | {"pairs scored": 0}


def report(found: Mapping[str, Any]) -> str:
    """What a person reads at the end."""
    text = f"{found['rows']:,} rows, {found['distinct pairs']:,} distinct pairs, {found['pairs scored']:,} scored now"
    if found["pairs scored"]:
        text += f": {found['pairs per second']:.1f} pairs/s, "
        text += f"{found['core-hours per million pairs']:.3g} core-hours per million pairs"
    return text


def main(argv: list[str] | None = None) -> int:
    """0 when OUTPUT is whole and checked, 2 for bad input or an engine that failed."""
    paths = {
        "input": {"type": Path, "metavar": "INPUT", "help": "Parquet file, or folder of them"},
        "output": {"type": Path, "metavar": "OUTPUT", "help": "folder to be written, or to go on with"},
    }
    return launch("bulk", __doc__, run, [BulkConfig], argv, positional=paths)


if __name__ == "__main__":
    sys.exit(main())

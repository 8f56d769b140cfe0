"""Who does the tasks of a bulk run: this process, Ray Data or Spark. Each does what `perform` says, in any order."""

import importlib.util
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from flashranker import FlashRankerError, InputError

from recipes.bulk_rank import open_ranker
from recipes.bulk_shards import RESULT, Job, perform

if TYPE_CHECKING:
    from pandas import DataFrame

ROOT = Path(__file__).parent.parent
INSTALL = "run `make .venv/.installed-bulk`, or `pip install -r requirements-bulk.lock`"
SMALLEST_STORE = 100_000_000  # bytes of Ray's object store: only the numbers of tasks pass through it
SPARK_TYPES = {"int64": "long", "double": "double", "string": "string"}
# Given a job, a stage and the numbers of its tasks: yields what `perform` returns, as the tasks end.
Each = Callable[[Job, str, Sequence[int]], Iterator[dict[str, Any]]]


class EngineError(FlashRankerError):
    """The engine could not be started, or failed in a way that is not the input's."""


def check_engine(engine: str) -> None:
    """Raises InputError when the engine's package, or Spark's Java, is not there."""
    package = {"ray": "ray", "spark": "pyspark"}.get(engine)
    if package and importlib.util.find_spec(package) is None:
        raise InputError(f"{package} is not installed, expected it for --engine {engine}: {INSTALL}")
    if engine == "spark" and not (os.environ.get("JAVA_HOME") or shutil.which("java")):
        raise InputError("there is no `java`, expected one for --engine spark: install Java 17 or set JAVA_HOME")


def open_engine(engine: str, workers: int, threads: int, address: str) -> AbstractContextManager[Each]:
    """A context in which tasks are done, `workers` at a time (0: all cores of the cluster), with `threads` each.

    Without an `address` a local cluster is started and, at the end, stopped; one that this process has open already
    is used and left open. Raises EngineError when there is no cluster to be had.
    """
    return {"local": _local, "ray": _ray, "spark": _spark}[engine](workers, threads, address)


@contextmanager
def _local(workers: int, threads: int, address: str) -> Iterator[Each]:
    def each(job: Job, stage: str, numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
        return (perform(job, stage, number) for number in numbers)

    yield each


class TaskActor:
    """A Ray Data actor: the model is loaded once, then it does the tasks whose numbers come in batches."""

    def __init__(self, job: Job, stage: str) -> None:
        self.job, self.stage = job, stage
        open_ranker(job.model, job.threads, max_length=job.max_length, long=job.long)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """A row of RESULT for each number."""
        numbers = batch["number"].to_pylist()
        return pa.Table.from_pylist([perform(self.job, self.stage, number) for number in numbers], RESULT)


@contextmanager
def _ray(workers: int, threads: int, address: str) -> Iterator[Each]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    started = not ray.is_initialized()
    if started:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
        local: dict[str, Any] = {"num_cpus": workers * threads, "object_store_memory": SMALLEST_STORE}
        try:
            ray.init(address or "local", **quiet, **({} if address else local))
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise EngineError(f"no Ray cluster at {address or 'this machine'!r} ({_first(error)}): check it") from None
    DataContext.get_current().enable_progress_bars = False  # the bar is ours
    logging.getLogger("ray.data").setLevel(logging.ERROR)

    def each(job: Job, stage: str, numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
        size = min(len(numbers), workers or max(1, int(ray.cluster_resources().get("CPU", 1)) // threads))
        tasks = ray.data.from_items([{"number": number} for number in numbers], override_num_blocks=len(numbers))
        done = tasks.map_batches(
            TaskActor, fn_constructor_kwargs={"job": job, "stage": stage}, batch_format="pyarrow", batch_size=None,
            compute=ActorPoolStrategy(size=size), num_cpus=threads,
            runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
        )  # fmt: skip
        try:
            yield from done.iter_rows()
        except (ray.exceptions.RayError, OSError) as error:
            raise EngineError(_failed("Ray", error)) from None

    try:
        yield each
    finally:
        if started:
            ray.shutdown()


@contextmanager
def _spark(workers: int, threads: int, address: str) -> Iterator[Each]:
    # Both are read when the JVM and its Python workers start.
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    open_before = SparkSession.getActiveSession()
    settings: dict[str, Any] = {
        "spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "true", "spark.task.cpus": str(threads),
        "spark.executorEnv.PYTHONPATH": str(ROOT),
    }  # fmt: skip
    if not address:
        settings |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    elif workers:
        settings["spark.cores.max"] = str(workers * threads)
    builder = SparkSession.builder.appName("flashranker bulk").master(address or f"local[{workers * threads}]")
    try:
        session = open_before or builder.config(map=settings).getOrCreate()
    except Exception as error:  # py4j's errors are of its own kind, and a JVM that does not start gives another
        raise EngineError(f"no Spark at {address or 'this machine'!r} ({_first(error)}): check it and Java") from None
    session.sparkContext.setLogLevel("ERROR")

    def each(job: Job, stage: str, numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
        schema = ", ".join(f"{field.name} {SPARK_TYPES[str(field.type)]}" for field in RESULT)
        tasks = session.range(0, len(numbers), 1, numPartitions=len(numbers))  # one to a partition
        try:
            rows = tasks.mapInPandas(task_function(job, stage, numbers), schema).collect()
        except PySparkException as error:
            raise EngineError(_failed("Spark", error)) from None
        yield from (row.asDict() for row in rows)

    try:
        yield each
    finally:
        if open_before is None:
            session.stop()


def task_function(
    job: Job, stage: str, numbers: Sequence[int]
) -> Callable[[Iterator["DataFrame"]], Iterator["DataFrame"]]:
    """A function for Spark's mapInPandas: positions in `numbers` to rows of RESULT. A Python worker keeps its model."""

    def do(frames: Iterator["DataFrame"]) -> Iterator["DataFrame"]:
        for frame in frames:
            found = [perform(job, stage, numbers[position]) for position in frame["id"]]
            yield pa.Table.from_pylist(found, RESULT).to_pandas()

    return do


def _failed(engine: str, error: Exception) -> str:
    return f"{engine} failed ({_first(error)}): shards that are done are kept; run the same command again"


def _first(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Both engines end with the worker's own traceback.
    named = [line for line in lines if line.split(":")[0].endswith("Error")]
    return (named[-1:] or lines[:1] or [type(error).__name__])[0][:200]

"""Ray and Spark on this machine: the same bits from each, for recipes.bulk and for pipelines of one's own; the cost."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import pyarrow as pa
import pytest
from flashranker import InputError
from test_bulk import ROOT, Expected, check_output, expect, run, summary

from recipes import bulk_cost, bulk_engines
from recipes.bulk import RANKED, RankBatch, rank_in_pandas
from recipes.bulk_rank import pair_keys

ray = pytest.importorskip("ray", reason="`make .venv/.installed-bulk` installs it")
pytest.importorskip("pyspark", reason="`make .venv/.installed-bulk` installs it")


@pytest.fixture(scope="module")
def expected(rows: dict[str, list[Any]], tiny_artifact: Path) -> Expected:
    return expect(rows, tiny_artifact)


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
             object_store_memory=100_000_000)  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def spark_session() -> Iterator[Any]:
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["PYTHONPATH"] = str(ROOT)
    from pyspark.sql import SparkSession

    settings = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", "spark.ui.enabled": "false"}
    session = SparkSession.builder.master("local[2]").config(map=settings).getOrCreate()
    yield session
    session.stop()


@pytest.mark.parametrize(("engine", "cluster"), [("ray", "ray_cluster"), ("spark", "spark_session")])
def test_every_engine_gives_the_bits_of_one_call_a_pair(
    engine: str, cluster: str, pairs: Path, rows: dict, expected: Expected, tiny_artifact: Path, tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    request.getfixturevalue(cluster)
    assert run(pairs, tmp_path / "scored", tiny_artifact, "--engine", engine, "--shards", 6) == 0
    check_output(tmp_path / "scored", rows, expected, 6)


def test_ray_pipelines_of_ones_own(pairs: Path, rows: dict, expected: Expected, tiny_artifact: Path, ray_cluster: None):
    import ray.data

    ranked = ray.data.read_parquet(str(pairs)).map_batches(
        RankBatch, fn_constructor_kwargs={"model": str(tiny_artifact)}, batch_format="pyarrow", batch_size=100,
        compute=ray.data.ActorPoolStrategy(size=1), num_cpus=1, runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )  # fmt: skip
    check_ranked(ranked.take_all(), rows, expected)


def test_spark_pipelines_of_ones_own(
    pairs: Path, rows: dict, expected: Expected, tiny_artifact: Path, spark_session: Any
) -> None:
    from pyspark.sql.types import StructType

    frame = spark_session.read.parquet(str(pairs))
    schema = StructType([*frame.schema, *StructType.fromDDL(RANKED)])
    ranked = frame.mapInPandas(rank_in_pandas(str(tiny_artifact)), schema)
    check_ranked([row.asDict() for row in ranked.collect()], rows, expected)


def check_ranked(ranked: list[dict[str, Any]], rows: dict[str, list[Any]], expected: Expected) -> None:
    by_id = {row["query_id"]: row for row in ranked}
    assert len(ranked) == len(by_id) == len(rows["query"])
    keys = pair_keys(rows["query"], rows["passage"])
    for query_id, query, passage, key in zip(rows["query_id"], rows["query"], rows["passage"], keys, strict=True):
        row = by_id[query_id]
        assert (row["query"], row["passage"], row["key"]) == (query, passage, key)
        assert (row["logit"], row["score"], row["truncated"]) == expected[query, passage]


def test_a_batch_with_a_missing_text_names_the_row(tiny_artifact: Path) -> None:
    rank = RankBatch(str(tiny_artifact))
    with pytest.raises(InputError, match="row 1: passage is NULL"):
        rank(pa.table({"query": ["a", "b"], "passage": ["x", None]}))
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"query": ["a", "b"], "passage": ["x", float("nan")]})
    with pytest.raises(InputError, match="row 1: passage is NULL"):
        list(rank_in_pandas(str(tiny_artifact))(iter([frame])))


def test_an_engine_that_fails_is_one_line(capsys: pytest.CaptureFixture) -> None:
    error = RuntimeError("Job aborted\n  File x\nOSError: No space left on device\n\n")
    assert bulk_engines._failed("Spark", error) == (
        "Spark failed (OSError: No space left on device): shards that are done are kept; run the same command again"
    )


def test_a_measured_run_says_what_a_million_pairs_cost(
    pairs: Path, expected: Expected, tiny_artifact: Path, tmp_path: Path
) -> None:
    found = bulk_cost.measure(pairs, tmp_path / "out", tiny_artifact, "local", 2)
    assert found[bulk_cost.COST] * found[bulk_cost.SPEED] == pytest.approx(2 * 1e6 / 3600)  # two cores all the while
    assert summary(tmp_path / "out")["pairs scored"] == len(expected)
    assert found[bulk_cost.START] > 0


def test_the_cost_becomes_a_table_by_hand(capsys: pytest.CaptureFixture) -> None:
    turns = {
        ("nano", engine, workers): [dict(zip(bulk_cost.PARTS, (speed * workers**0.5, cost, 9.0), strict=True))]
        for engine, speed, cost in (("local", 1000.0, 0.5), ("ray", 500.0, 1.25)) for workers in (1, 2)
    }  # fmt: skip
    models = {"nano": {engine: bulk_cost.engine_result(turns, "nano", engine) for engine in ("local", "ray")}}
    result = {"command": "python -m recipes.bulk_cost", "settings": {"turns": 1}, "models": models}
    text = bulk_cost.cost_section(result)
    assert (
        "| nano | local | 1,000 (1,000 to 1,000) | 1,414 (1,414 to 1,414) | 71% | 0.50 (0.50 to 0.50) | 9 (9 to 9) |"
        in text
    )
    assert "a billion pairs take 0.5 to 1.2 hours on 1,000 cores with `nano`." in text
    for wrong, line in (
        (["--models", "huge"], "--models huge: expected some of nano"),
        (["--engines", "dask"], "--engines dask: expected some of local"),
        (["--turns", "0"], "--turns must be 1 or more"),
    ):
        assert bulk_cost.main(wrong) == 2
        assert line in capsys.readouterr().err

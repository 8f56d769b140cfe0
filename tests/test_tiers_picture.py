"""Which artifacts stand in one picture: those of the same held-out queries, and no others."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flashranker.artifact import MODEL_NAME, read_manifest, write_manifest

from export.figures import TierPoint, tiers_figure
from recipes.tiers_picture import recorded, siblings


def measurements(mean: float, first: float = 0.3, queries: int = 40) -> dict[str, Any]:
    value = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "queries": queries}
    times = {"int8": {"median": 100 * mean, "low": 1.0, "high": 2.0}}
    return {
        "metrics": {"first stage": {"MRR@10": {"mean": first, "queries": queries}}, "int8": {"MRR@10": value}},
        "parity": {"milliseconds for 100 passages": times},
    }


def test_artifacts_of_other_queries_are_left_out(tiny_artifact: Path, tmp_path: Path) -> None:
    given = {
        "mine": measurements(0.5), "better": measurements(0.7), "other-data": measurements(0.6, first=0.2),
        "fewer-queries": measurements(0.6, queries=39), "unmeasured": {},
    }  # fmt: skip
    for name, stated in given.items():
        folder = shutil.copytree(tiny_artifact, tmp_path / name)
        write_manifest(folder, replace(read_manifest(folder), **stated))
    (tmp_path / "better.checkpoint").mkdir()
    manifest = read_manifest(tmp_path / "mine")
    shutil.rmtree(tmp_path / "mine")  # as before it is published
    megabytes = manifest.files[MODEL_NAME].bytes / 1e6
    found = siblings(tmp_path / "mine", manifest)
    assert found == {
        "better": TierPoint(pytest.approx(70.0), megabytes, 0.7, pytest.approx(0.6), pytest.approx(0.8)),
        "mine": TierPoint(pytest.approx(50.0), megabytes, 0.5, pytest.approx(0.4), pytest.approx(0.6)),
    }
    assert siblings(tmp_path / "unmeasured", read_manifest(tmp_path / "unmeasured")) == {}


def test_results_of_the_same_queries_by_tier(tmp_path: Path) -> None:
    given = {"small": measurements(0.5), "nano": measurements(0.4), "msmarco": measurements(0.6, 0.9)}
    for tier, stated in given.items():
        (tmp_path / f"{tier}.json").write_text(json.dumps({"tier": tier, "model_bytes": 5_000_000, **stated}))
    content = {
        "tier": "small",
        "model_bytes": 6_000_000,
        "lineage": {"base": {"name": "scratch"}},
        **measurements(0.45),
    }
    (tmp_path / "other.json").write_text(json.dumps(content))
    points, first = recorded(sorted(tmp_path.glob("*.json")), tmp_path / "small.json")
    assert (sorted(points), first) == (["nano", "small", "small (scratch)"], 0.3)
    assert points["nano"].megabytes == 5.0


def test_the_picture_names_every_artifact_in_both_panels() -> None:
    points = {"nano": TierPoint(50, 5, 0.4, 0.3, 0.5), "a<b": TierPoint(500, 23, 0.6, 0.5, 0.7)}
    svg = tiers_figure("MRR@10", points, 0.35)
    assert svg.count(">nano<") == 2
    assert svg.count(">a&lt;b<") == 2
    assert "milliseconds for 100 passages" in svg

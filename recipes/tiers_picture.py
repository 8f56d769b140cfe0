"""Artifacts side by side: quality against milliseconds and against megabytes, of all that were measured alike."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flashranker import FlashRankerError
from flashranker.artifact import MODEL_NAME, Manifest, read_manifest

from export.figures import TierPoint
from training.backbone import BUILTIN

MEASURE = "MRR@10"


def tier_point(metrics: Mapping[str, Any], parity: Mapping[str, Any], model_bytes: int) -> TierPoint:
    """What the picture shows of one artifact, from its manifest's parts."""
    quality = metrics["int8"][MEASURE]
    milliseconds = parity["milliseconds for 100 passages"]["int8"]["median"]
    return TierPoint(milliseconds, model_bytes / 1e6, quality["mean"], quality["low"], quality["high"])


def measured_on(metrics: Mapping[str, Any]) -> tuple[float, int] | None:
    """What tells one set of held-out queries from another: the first stage's mean over them, and how many they are.

    None where there are no such measurements.
    """
    stage = metrics.get("first stage", {}).get(MEASURE)
    return (stage["mean"], stage["queries"]) if stage and "int8" in metrics else None


def siblings(output: Path, manifest: Manifest) -> dict[str, TierPoint]:
    """The artifact that is to become `output`, and those beside it that were measured on the same queries; by name."""
    found = {output.name: manifest}
    for folder in sorted(output.parent.iterdir()):
        try:
            found.setdefault(folder.name, read_manifest(folder))
        except FlashRankerError:  # another kind of folder
            continue
    same = measured_on(manifest.metrics)
    return {
        name: tier_point(one.metrics, one.parity, one.files[MODEL_NAME].bytes)
        for name, one in found.items()
        if not name.startswith(".") and same and measured_on(one.metrics) == same
    }


def recorded(paths: Iterable[Path], like: Path) -> tuple[dict[str, TierPoint], float]:
    """The results measured on the same queries as the one in the file `like`, by tier, and the first stage's mean."""
    same = measured_on(json.loads(like.read_text(encoding="utf-8"))["metrics"])
    points = {}
    for path in paths:
        result = json.loads(path.read_text(encoding="utf-8"))
        if same and "tier" in result and measured_on(result["metrics"]) == same:
            base = result.get("lineage", {}).get("base", {}).get("name", BUILTIN)
            name = result["tier"] if base == BUILTIN else f"{result['tier']} ({base})"
            points[path.stem if name in points else name] = tier_point(
                result["metrics"], result["parity"], result["model_bytes"]
            )
    return points, same[0] if same else 0.0

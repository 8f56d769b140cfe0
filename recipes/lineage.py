"""Where a result comes from, for its manifest: base, data and teacher with their licences, and what the run took."""

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flashranker.artifact import MANIFEST_NAME, Manifest, read_manifest

from export.licence import strictest
from training import beir
from training.backbone import BUILTIN, BUILTIN_HUB_ID, CHECKPOINT_SUFFIX, user_path
from training.candidates import FirstStage, name_first_stage
from training.data import RankingData
from training.prepare import Examples, Held
from training.student import SCRATCH
from training.train import TrainingResult

UNKNOWN_LICENCE = "see the model's own card"


def peak_megabytes() -> int:
    """The most memory that this process had so far, in MB of 10^6 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in units of 1,024 bytes, on macOS in bytes
    return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6)


def trace(
    data: RankingData,
    examples: Examples,
    dev: Held | None,
    tests: Held,
    stage: FirstStage,
    trained: TrainingResult,
    *,
    base: str,
    start: str,
    teacher: str | None,
    languages: Sequence[str] | None,
    precision: str,
    began: float,
) -> dict[str, Any]:
    """Where the result comes from, for the manifest, with the queries, or texts, that each stage read.

    `dev`: what chose the checkpoint, where it is of other data; `start` says how the student was made of `base`;
    `began` is the recipe's start by `time.monotonic`.
    """
    found = {
        "base": described(base, start),
        "data": {"name": data.name, "licence": data.licence, **sources_of(data, examples),
                 "read": trained.read, "dev MRR@10 by step": trained.dev_quality, "precision": precision,
                 "first stage": name_first_stage(data, stage), "mining": examples.mining},
        "measured on": held_out_data(tests, stage),
        "languages": list(languages or ["en"]),
        "run": spent(began),
    }  # fmt: skip
    if data.texts:
        folders = {file: Path(file).resolve().parent for file in data.texts}
        found["texts"] = {"sources": {
            file: {"name": folder.name, "licence": beir.licence(folder)} for file, folder in folders.items()
        }}  # fmt: skip
    if dev:
        found["chosen on"] = held_out_data(dev, stage)
    if teacher:
        found["teacher"] = {"name": teacher, "licence": licence(teacher)}
    return found


def sources_of(data: RankingData, examples: Examples) -> dict[str, Any]:
    """Of mixed data what each source is, under which licence, and its share of the queries read with candidates."""
    total = sum(examples.sources.values())
    sources = {
        label: {
            "name": source.name, "licence": source.licence, "weight": source.weight,
            "queries": examples.sources.get(label, 0), "share": examples.sources.get(label, 0) / total,
        }
        for label, source in data.sources.items()
    }  # fmt: skip
    return {"sources": sources} if sources else {}


def held_out_data(held: Held, stage: FirstStage) -> dict[str, str]:
    """The held-out data for the manifest, with what found the candidates."""
    return {"name": held.data.name, "licence": held.data.licence, "first stage": name_first_stage(held.data, stage)}


def spent(began: float) -> dict[str, float]:
    """What a run has taken since `began`, by `time.monotonic`, for the manifest."""
    return {"seconds": round(time.monotonic() - began, 1), "peak memory in MB": peak_megabytes()}


def described(base: str, start: str) -> dict[str, str]:
    """A base for the manifest: its name, its licence, what was made of it, and the hub's id of what it goes back to."""
    found = {"name": base, "licence": licence(base), "start": start}
    made = made_as(base)
    if made:
        origin = made.lineage.get("base")
        hub = str(origin.get("hub", "")) if isinstance(origin, Mapping) else ""
    else:
        hub = BUILTIN_HUB_ID if base == BUILTIN else "" if base == SCRATCH or user_path(base).is_dir() else base
    return found | ({"hub": hub} if hub else {})


def licence(model: str) -> str:
    """The built-in backbone's licence, or what an artifact's own lineage asks for; of others the user has to look."""
    made = made_as(model)
    if made:
        return strictest(made.lineage) or UNKNOWN_LICENCE
    return "Apache-2.0" if model in (BUILTIN, SCRATCH) else UNKNOWN_LICENCE


def made_as(model: str) -> Manifest | None:
    """The manifest of an artifact, or of that which a NAME.checkpoint was exported to; None of other models."""
    folder = user_path(model)
    for one in (folder, folder.with_suffix("") if folder.suffix == CHECKPOINT_SUFFIX else folder):
        if (one / MANIFEST_NAME).is_file():
            return read_manifest(one)
    return None

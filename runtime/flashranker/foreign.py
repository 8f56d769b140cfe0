"""Model folders that FlashRanker did not write: FlashRank's, and ONNX exports of sentence-transformers or optimum.

They state no hashes and no calibration, so nothing can be verified: a score is the sigmoid of the logit.
"""

import json
import os
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from flashranker.artifact import (
    FORMAT_VERSION,
    MODEL_FOLDER,
    MODEL_NAME,
    SHORTEST_LENGTH,
    TOKENIZER_NAME,
    Calibration,
    Manifest,
    file_entry,
)
from flashranker.errors import ArtifactError, ModelNotFoundError

LONGEST = 512  # tokens; tokenizers that know no limit state 1e30


def describe_foreign(folder: str | os.PathLike[str]) -> tuple[Path, Manifest]:
    """The ONNX file of a folder without a manifest, and the manifest that it would have.

    The model is `onnx/model.onnx`, `model.onnx`, or the only *.onnx file of the folder or its `onnx` subfolder;
    max_length is what tokenizer_config.json and config.json allow, at most 512.
    Raises ModelNotFoundError (no such folder) or ArtifactError (no tokenizer.json, not one model, or not readable).
    """
    root = Path(folder)
    if not os.path.isdir(root):  # Path.is_dir raises for a name that is too long
        raise ModelNotFoundError(f"no model folder at {str(root)!r}: give the path of a folder")
    try:
        return _described(root)
    except OSError as error:
        raise ArtifactError(f"{root} can't be read ({error}): give yourself the right to, or copy it again") from error


def _described(root: Path) -> tuple[Path, Manifest]:
    tokenizer = root / TOKENIZER_NAME
    if not tokenizer.is_file():
        raise ArtifactError(f"{root} has no {TOKENIZER_NAME}, expected one beside the model: export it again")
    model = _only_model(root)
    limits = [
        _settings(root / "tokenizer_config.json").get("model_max_length"),
        _settings(root / "config.json").get("max_position_embeddings"),
        LONGEST,
    ]
    longest = int(min(limit for limit in limits if isinstance(limit, (int, float)) and limit >= SHORTEST_LENGTH))
    files = {MODEL_NAME: file_entry(model), TOKENIZER_NAME: file_entry(tokenizer)}
    files |= {f"{MODEL_FOLDER}{path.as_posix()}": file_entry(model.parent / path) for path in _named_in(model)}
    return model, Manifest(
        format_version=FORMAT_VERSION, name=root.resolve().name, tier="foreign", max_length=longest,
        calibration=Calibration(1.0, 0.0), files=files, lineage={}, metrics={}, parity={}, gates=[], quantization={},
        versions={}, seed=0, command="", notices=["not verified: this folder has no manifest"],
    )  # fmt: skip


def _only_model(root: Path) -> Path:
    for name in (MODEL_NAME, "model.onnx"):
        if (root / name).is_file():
            return root / name
    found = sorted([*root.glob("*.onnx"), *root.glob("onnx/*.onnx")])
    if len(found) != 1:
        names = ", ".join(path.relative_to(root).as_posix() for path in found) or "none"
        raise ArtifactError(
            f"{root} holds these ONNX files: {names}; expected {MODEL_NAME}, model.onnx or a single one"
        )
    return found[0]


def _named_in(model: Path) -> list[Path]:
    """Files beside or below the graph, relative to it, whose names stand in it: there its weights may lie.

    Other weights are another model, whatever the graph.
    """
    beside = [path.relative_to(model.parent) for path in model.parent.rglob("*") if path != model and path.is_file()]
    if not beside or not model.stat().st_size:
        return []
    with model.open("rb") as stream, mmap(stream.fileno(), 0, access=ACCESS_READ) as graph:
        return sorted(path for path in beside if graph.find(os.fsencode(path.as_posix())) >= 0)


def _settings(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}

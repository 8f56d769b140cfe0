"""The artifact folder: what is written is read back, what was changed refused, a move all or nothing."""

import dataclasses
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import make_manifest
from flashranker import ArtifactError, FormatError, ModelNotFoundError, Reranker, artifact
from flashranker.artifact import (
    MANIFEST_NAME,
    Calibration,
    FileEntry,
    list_files,
    read_manifest,
    verify_files,
    write_manifest,
)


def edit(folder: Path, **changes: Any) -> None:
    """Change keys of the manifest behind the contract's back."""
    path = folder / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_files_are_listed_with_size_and_the_published_sha256(folder: Path) -> None:
    # The SHA-256 of "abc" and of nothing are those of FIPS 180-2 and of every sha256sum.
    assert list_files(folder) == {
        "onnx/model.onnx": FileEntry(3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        "tokenizer.json": FileEntry(0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    }


def test_a_manifest_survives_the_round_trip_and_equal_ones_are_equal_bytes(folder: Path) -> None:
    manifest = dataclasses.replace(
        make_manifest(folder),
        metrics={"ndcg@10": 0.1 + 0.2, "b": [1, None, "дом"]},
        calibration=Calibration(2.5, -1e-9),
    )
    write_manifest(folder, manifest)
    first = (folder / MANIFEST_NAME).read_bytes()
    assert read_manifest(folder) == manifest
    write_manifest(
        folder,
        dataclasses.replace(manifest, metrics=dict(reversed(manifest.metrics.items())), files=list_files(folder)),
    )
    assert (folder / MANIFEST_NAME).read_bytes() == first
    assert sorted(os.listdir(folder)) == [MANIFEST_NAME, "onnx", "tokenizer.json"]


def test_a_manifest_is_replaced_whole_or_not_at_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / MANIFEST_NAME).read_bytes()
    new = dataclasses.replace(make_manifest(folder), name="new")

    def failing(source: Path, destination: Path) -> None:
        assert json.loads(source.read_bytes())["name"] == "new"  # complete before it takes the place
        raise OSError("disk on fire")

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="disk on fire"):
        write_manifest(folder, new)
    assert (folder / MANIFEST_NAME).read_bytes() == before
    assert sorted(os.listdir(folder)) == [MANIFEST_NAME, "onnx", "tokenizer.json"]


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": {"ndcg": float("nan")}},
        {"lineage": {"teacher": Path("x")}},
        {"calibration": Calibration(0.0, 0.0)},
        {"calibration": Calibration(1.0, float("inf"))},
        {"max_length": 15},
        {"files": {"../x": FileEntry(0, "0" * 64)}},
        {"files": {"x": FileEntry(0, "0" * 63)}},
    ],
)
def test_a_manifest_that_could_not_be_read_is_not_written(folder: Path, changes: dict[str, Any]) -> None:
    before = (folder / MANIFEST_NAME).read_bytes()
    with pytest.raises(ArtifactError):
        write_manifest(folder, dataclasses.replace(make_manifest(folder), **changes))
    assert (folder / MANIFEST_NAME).read_bytes() == before


def test_a_newer_format_is_told_from_a_broken_one(folder: Path) -> None:
    edit(folder, format_version=2, calibration="of some other shape")
    with pytest.raises(FormatError, match="version 2, expected 1: upgrade"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"format_version": "1"}, "format_version"),
        ({"format_version": True}, "format_version"),
        ({"name": None}, "name"),
        ({"max_length": 64.0}, "max_length"),
        ({"max_length": 15}, "max_length from 16 to 1000000"),
        ({"max_length": 10**13}, "max_length from 16 to 1000000"),
        ({"seed": True}, "seed"),
        ({"calibration": {"a": 1}}, "calibration"),
        ({"calibration": {"a": -1, "b": 0}}, "calibration"),
        ({"calibration": {"a": 10**400, "b": 0}}, "calibration"),
        ({"calibration": {"a": 1, "b": float("inf")}}, "calibration"),
        ({"files": {"x": {"bytes": "3", "sha256": "0" * 64}}}, "SHA-256"),
        ({"files": {"x": None}}, "SHA-256"),
    ],
)
def test_a_wrong_field_is_named(folder: Path, changes: dict[str, Any], named: str) -> None:
    edit(folder, **changes)
    with pytest.raises(ArtifactError, match=named) as caught:
        read_manifest(folder)
    assert not isinstance(caught.value, FormatError)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_a_manifest_that_is_no_json_object_is_an_artifact_error(folder: Path, content: bytes) -> None:
    (folder / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(ArtifactError, match=MANIFEST_NAME):
        read_manifest(folder)


def test_a_missing_folder_is_told_from_a_folder_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no artifact folder"):
        read_manifest("x" * 5000)  # longer than a name may be
    with pytest.raises(ModelNotFoundError, match="no artifact folder"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="no readable"):
        read_manifest(tmp_path)


def test_a_folder_without_manifest_is_told_by_what_it_holds(folder: Path, tmp_path: Path) -> None:
    weights = tmp_path / "of nothing.checkpoint"
    weights.mkdir()
    (weights / "model.safetensors").touch()
    with pytest.raises(ArtifactError, match=r"\(No such file or directory\): it holds PyTorch weights: export them"):
        read_manifest(weights)
    beside = shutil.copytree(weights, folder.with_name(f"{folder.name}.checkpoint"), dirs_exist_ok=True)
    with pytest.raises(ArtifactError, match=re.escape(f"it holds PyTorch weights; their artifact is {folder}")):
        read_manifest(beside)
    (weights / "onnx").mkdir()
    (weights / "onnx/model.onnx").touch()
    with pytest.raises(ArtifactError, match=r"another tool's model, pass foreign=True \(--foreign\)"):
        read_manifest(weights)
    (folder / MANIFEST_NAME).unlink()
    (folder / MANIFEST_NAME).mkdir()
    with pytest.raises(ArtifactError, match=r"\(Is a directory\): copy it again"):
        read_manifest(folder)


@pytest.mark.parametrize(
    "name",
    ["../x", "a/../../x", "/etc/passwd", "a\\..\\x", "C:x", "a//b", "./a", "", ".", "a\0b", MANIFEST_NAME],
)
def test_no_listed_path_leaves_the_folder(folder: Path, name: str) -> None:
    (folder.parent / "x").write_bytes(b"abc")
    entry = list_files(folder)["onnx/model.onnx"]
    with pytest.raises(ArtifactError, match="expected a path inside"):
        verify_files(folder, dataclasses.replace(make_manifest(folder), files={name: entry}))
    edit(folder, files={name: dataclasses.asdict(entry)})
    with pytest.raises(ArtifactError, match="expected a path inside"):
        read_manifest(folder)


def test_changed_truncated_and_missing_files_are_named(folder: Path) -> None:
    manifest, model = read_manifest(folder), folder / "onnx" / "model.onnx"
    verify_files(folder, manifest)
    model.write_bytes(b"abd")
    with pytest.raises(ArtifactError, match=r"model\.onnx was changed"):
        verify_files(folder, manifest)
    model.write_bytes(b"ab")
    with pytest.raises(ArtifactError, match=r"model\.onnx has 2 bytes, expected 3"):
        verify_files(folder, manifest)
    model.unlink()
    with pytest.raises(ArtifactError, match=r"model\.onnx.* cannot be read"):
        verify_files(folder, manifest)
    model.symlink_to("/dev/zero")  # which has no end
    with pytest.raises(ArtifactError, match=r"model\.onnx.* is no ordinary file"):
        verify_files(folder, manifest)


def test_the_runtime_loads_the_sound_artifact_and_none_of_its_broken_copies(
    tiny_artifact: Path, tmp_path: Path
) -> None:
    Reranker(tiny_artifact, threads=1)

    def broken(name: str) -> Path:
        return shutil.copytree(tiny_artifact, tmp_path / name)

    flipped = bytearray((tiny_artifact / "onnx/model.onnx").read_bytes())
    flipped[len(flipped) // 2] ^= 1
    (broken("flipped") / "onnx/model.onnx").write_bytes(flipped)
    (broken("truncated") / "tokenizer.json").write_bytes((tiny_artifact / "tokenizer.json").read_bytes()[:-1])
    (broken("missing") / "config.json").unlink()
    edit(broken("newer"), format_version=2)
    unlisted = broken("unlisted")
    files = {name: dataclasses.asdict(entry) for name, entry in list_files(unlisted).items()}
    edit(unlisted, files={name: entry for name, entry in files.items() if name != "tokenizer.json"})
    for name in ("flipped", "truncated", "missing", "newer", "unlisted"):
        with pytest.raises(ArtifactError, match=name):
            Reranker(tmp_path / name, threads=1)


def test_a_sound_folder_with_a_model_of_another_kind_is_refused(tiny_artifact: Path, tmp_path: Path) -> None:
    for file, content in (("onnx/model.onnx", b"not a model"), ("tokenizer.json", b'{"version": "1.0"}')):
        folder = shutil.copytree(tiny_artifact, tmp_path / file.replace("/", "-"))
        (folder / file).write_bytes(content)
        write_manifest(folder, make_manifest(folder))
        with pytest.raises(ArtifactError, match=file.split("/")[-1]):
            Reranker(folder, threads=1)


def test_a_file_is_read_once_and_again_after_any_change_of_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, path = make_manifest(folder), folder / "onnx/model.onnx"
    read: list[str] = []
    hash_file = artifact.hash_file
    monkeypatch.setattr(artifact, "hash_file", lambda given: (read.append(given.name), hash_file(given))[1])
    monkeypatch.setattr(artifact, "SETTLED_SECONDS", 0.0)
    time.sleep(0.05)
    artifact.verify_files(folder, manifest)
    assert sorted(read) == sorted(name.rpartition("/")[2] for name in manifest.files)
    read.clear()
    artifact.verify_files(folder, manifest)
    assert read == []

    before, content = path.stat(), bytearray(path.read_bytes())
    content[1] ^= 1
    path.write_bytes(content)  # as many bytes as before, and the old time of change
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ArtifactError, match=r"model\.onnx was changed"):
        artifact.verify_files(folder, manifest)


def test_a_file_changed_a_moment_ago_is_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = make_manifest(folder)
    artifact.verify_files(folder, manifest)
    read: list[Path] = []
    hash_file = artifact.hash_file
    monkeypatch.setattr(artifact, "hash_file", lambda given: (read.append(given), hash_file(given))[1])
    for name in manifest.files:
        os.utime(folder / name)
    artifact.verify_files(folder, manifest)
    artifact.verify_files(folder, manifest)
    assert len(read) == 2 * len(manifest.files)

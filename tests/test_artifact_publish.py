"""Publishing an artifact folder: all or nothing, and never over what is no artifact."""

import os
import shutil
from pathlib import Path

import pytest
from conftest import make_manifest
from flashranker import ArtifactError
from flashranker.artifact import MANIFEST_NAME, publish, read_manifest, verify_files, write_manifest


def copy_of(folder: Path, name: str, content: bytes) -> Path:
    copied = shutil.copytree(folder, folder.parent / name)
    (copied / "tokenizer.json").write_bytes(content)
    write_manifest(copied, make_manifest(copied))
    return copied


def test_publish_moves_the_new_one_in_and_leaves_nothing_else(folder: Path) -> None:
    target = folder.parent / "final"
    publish(copy_of(folder, "staging", b"old"), target)
    publish(copy_of(folder, "staging", b"new"), target)
    assert (target / "tokenizer.json").read_bytes() == b"new"
    verify_files(target, read_manifest(target))
    assert sorted(os.listdir(folder.parent)) == ["final", "made"]


@pytest.mark.parametrize("calls", [1, 2])
def test_publish_brought_down_at_either_rename_keeps_the_old_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    target, staging = copy_of(folder, "final", b"old"), copy_of(folder, "staging", b"new")
    rename, left = os.rename, [calls]

    def failing(source: Path, destination: Path) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError("disk on fire")
        rename(source, destination)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="disk on fire"):
        publish(staging, target)
    assert (target / "tokenizer.json").read_bytes() == b"old"
    verify_files(target, read_manifest(target))


def test_publish_after_a_crash_between_its_renames_takes_the_leftover_away(folder: Path) -> None:
    copy_of(folder, ".final.old", b"old")
    publish(copy_of(folder, "staging", b"new"), folder.parent / "final")
    assert sorted(os.listdir(folder.parent)) == ["final", "made"]


def test_publish_refuses_a_half_made_staging_folder(folder: Path) -> None:
    target = copy_of(folder, "final", b"old")
    changed, unlisted, bare = (copy_of(folder, name, b"new") for name in ("changed", "unlisted", "bare"))
    (changed / "tokenizer.json").write_bytes(b"ne")
    (unlisted / "extra").write_bytes(b"")
    (bare / MANIFEST_NAME).unlink()
    for staging in (changed, unlisted, bare):
        with pytest.raises(ArtifactError):
            publish(staging, target)
    assert (target / "tokenizer.json").read_bytes() == b"old"


def test_publish_never_replaces_what_is_no_artifact(folder: Path, tmp_path: Path) -> None:
    home, file, link = tmp_path / "home", tmp_path / "file", tmp_path / "link"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work")
    file.write_text("a file")
    link.symlink_to(folder)
    for target in (home, file, link):
        with pytest.raises(ArtifactError, match="not replaced"):
            publish(folder, target)
    assert (home / "thesis.txt").read_text() == "years of work"
    with pytest.raises(ArtifactError, match="no sibling"):
        publish(folder, home / "deeper")

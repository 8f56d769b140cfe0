"""recipes.publish against a server that speaks the hub's protocol: whole, read back, and never against a licence."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flashranker import Reranker
from flashranker.artifact import read_manifest, verify_files, write_manifest
from hub_server import TOKEN, Hub

from recipes.publish import main

ROOT = Path(__file__).parent.parent


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    served = Hub({}, tmp_path / "uploads")
    yield served
    served.server.shutdown()


def artifact(tiny: Path, folder: Path, **licences: str) -> Path:
    """A copy of the miniature whose base, teacher and data have these licences."""
    shutil.copytree(tiny, folder)
    lineage: dict[str, Any] = {part: {"name": f"the-{part}", "licence": one} for part, one in licences.items()}
    write_manifest(folder, replace(read_manifest(folder), lineage=lineage | {"languages": ["en"]}))
    return folder


def publish(hub: Hub, folder: Path, *options: object, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(folder.parent / "home"), "HF_TOKEN": token}
    environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-m", "recipes.publish", str(folder), "owner/name", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd=ROOT)


def test_an_artifact_goes_up_whole_and_comes_back_the_same(hub: Hub, tiny_artifact: Path, tmp_path: Path) -> None:
    folder = artifact(tiny_artifact, tmp_path / "model", base="MIT", teacher="Apache-2.0", data="CC BY 4.0")
    before = (folder / "flashranker.json").read_bytes()
    done = publish(hub, folder, "--private")
    assert done.returncode == 0, done.stderr
    (commit,) = hub.commits
    assert f'Reranker.from_hub("owner/name", revision="{commit}")' in done.stdout
    assert hub.branches["main"] == commit
    assert hub.created[0]["private"] is True
    uploaded = hub.commits[commit]
    manifest = read_manifest(uploaded)
    verify_files(uploaded, manifest)
    assert manifest.lineage["licence"] == "mit"
    assert 'license: "mit"' in (uploaded / "README.md").read_text(encoding="utf-8")
    assert (Reranker(uploaded).score("time", ["bread"]) == Reranker(tiny_artifact).score("time", ["bread"])).all()
    assert (folder / "flashranker.json").read_bytes() == before


def test_licences_that_were_looked_up_go_into_card_and_manifest(hub: Hub, tiny_artifact: Path, tmp_path: Path) -> None:
    folder = artifact(tiny_artifact, tmp_path / "model", base="see the model's own card", data="CC BY-SA 4.0")
    stated = ("--stated", "base=Apache-2.0", "--licence", "cc-by-sa-4.0", "--branch", "v1")
    done = publish(hub, folder, *stated)
    assert done.returncode == 0, done.stderr
    card = (hub.commits[hub.branches["v1"]] / "README.md").read_text(encoding="utf-8")
    assert 'license: "cc-by-sa-4.0"' in card
    assert "licence: Apache-2.0" in card


@pytest.mark.parametrize(
    ("licences", "options", "status", "message"),
    [
        (
            {"base": "MIT", "data": "cc-by-nc-4.0"},
            ["--licence", "mit"],
            1,
            "data 'the-data' (cc-by-nc-4.0) is for non-comm",
        ),
        ({"base": "MIT", "data": "CC BY-ND 4.0"}, ["--licence", "mit"], 1, "keep the model to yourself"),
        ({"base": "MIT", "data": "cc-by-nc-4.0"}, [], 2, "has no licence of its own, say one with --licence: data"),
        ({"base": "see the model's own card"}, ["--licence", "mit"], 1, "--stated base=LICENCE"),
        ({"base": "MIT"}, ["--stated", "teacher=MIT"], 2, "has no teacher: leave it out"),
        ({"base": "MIT"}, ["--stated", "base="], 2, "--stated base=: expected one of base, teacher, data"),
    ],
)
def test_nothing_goes_up_against_a_licence(
    tiny_artifact: Path,
    tmp_path: Path,
    licences: dict[str, str],
    options: list[str],
    status: int,
    message: str,
    capsys: pytest.CaptureFixture,
) -> None:
    folder = artifact(tiny_artifact, tmp_path / "model", **licences)
    assert main([str(folder), "owner/name", *options]) == status
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert message in line
    assert "3/4 upload" not in printed.out


def test_what_cannot_go_up_is_one_line(hub: Hub, tiny_artifact: Path, tmp_path: Path) -> None:
    folder = artifact(tiny_artifact, tmp_path / "model", base="MIT")
    refused = publish(hub, folder, token="hf_wrong")
    assert refused.returncode == 2
    assert "owner/name was not published (401 Client Error" in refused.stderr
    assert "hf_wrong" not in refused.stdout + refused.stderr
    (folder / "config.json").write_text("{}")
    damaged = publish(hub, folder)
    assert damaged.returncode == 2
    assert "config.json" in damaged.stderr
    assert hub.commits == {}


def test_check_stops_before_the_network(hub: Hub, tiny_artifact: Path, tmp_path: Path) -> None:
    folder = artifact(tiny_artifact, tmp_path / "model", base="MIT")
    hub.server.shutdown()
    hub.server.server_close()
    done = publish(hub, folder, "--check")
    assert done.returncode == 0, done.stderr
    assert "--check: nothing was uploaded" in done.stdout
    unreachable = publish(hub, folder)
    assert unreachable.returncode == 2
    assert "can't be reached" in unreachable.stderr

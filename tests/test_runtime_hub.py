"""`Reranker.from_hub` against a server that speaks the hub's protocol: one commit, the cache, damage, refusals."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import negated_artifact
from flashranker import ModelNotFoundError, Reranker
from flashranker.hub import download
from hub_server import Hub

QUERY, PASSAGES = "time", ["bread and water", "solar panel"]
SCRIPT = """
import json, sys
from flashranker import FlashRankerError, Reranker
settings = json.loads(sys.argv[1])
try:
    ranker = Reranker.from_hub(settings.pop("repository"), **settings)
    print(ranker.score("time", ["bread and water", "solar panel"]).tolist())
except FlashRankerError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def hub(tiny_artifact: Path, tmp_path: Path) -> Iterator[Hub]:
    other = negated_artifact(tiny_artifact, tmp_path / "negated")
    served = Hub({"a" * 40: tiny_artifact, "b" * 40: other})
    yield served
    served.server.shutdown()


def from_hub(address: str, cache: Path, repository: str = "owner/name", **settings: object) -> str:
    """What a process prints that loads the model, with a cache of its own."""
    given = json.dumps({"repository": repository, "hub_cache": str(cache)} | settings)
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": address, "HF_HOME": str(cache), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, given], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_revision_is_loaded_whole_and_once(hub: Hub, tiny_artifact: Path, tmp_path: Path) -> None:
    expected = Reranker(tiny_artifact).score(QUERY, PASSAGES).tolist()
    assert from_hub(hub.address, tmp_path / "cache") == str(expected)
    first = len(hub.asked)
    assert from_hub(hub.address, tmp_path / "cache") == str(expected)
    # The second time it is asked which commit `main` is, and nothing else.
    assert hub.asked[first:] == ["/owner/name/resolve/main/flashranker.json"]
    hub.branches["main"] = "b" * 40
    assert from_hub(hub.address, tmp_path / "cache") == str([-value for value in expected])
    assert from_hub(hub.address, tmp_path / "cache", revision="a" * 40) == str(expected)


def test_without_the_hub_the_cache_serves(hub: Hub, tmp_path: Path) -> None:
    found, asked = from_hub(hub.address, tmp_path / "cache"), len(hub.asked)
    hub.branches["main"] = "b" * 40
    assert from_hub(hub.address, tmp_path / "cache", offline=True) == found
    assert len(hub.asked) == asked
    hub.server.shutdown()
    hub.server.server_close()
    for settings in ({}, {"offline": True}):
        assert from_hub(hub.address, tmp_path / "cache", **settings) == found
    message = from_hub(hub.address, tmp_path / "empty")
    assert message.startswith("ModelNotFoundError owner/name at main is not whole in the hub's cache, and the hub")
    assert "offline was asked for" in from_hub(hub.address, tmp_path / "empty", offline=True)


def test_a_damaged_cache_is_refused(hub: Hub, tmp_path: Path) -> None:
    from_hub(hub.address, tmp_path / "cache")
    (model,) = (tmp_path / "cache").glob("models--owner--name/snapshots/*/onnx/model.onnx")
    blob = model.resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    assert "ArtifactError" in from_hub(hub.address, tmp_path / "cache")


def test_what_is_not_there_is_named(hub: Hub, tiny_artifact: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    shutil.copytree(tiny_artifact, foreign)
    (foreign / "flashranker.json").unlink()
    hub.commits["c" * 40] = foreign
    for settings, message in (
        ({"repository": "owner/other"}, "ModelNotFoundError owner/other at main is not on the hub"),
        ({"revision": "v9"}, "ModelNotFoundError owner/name at v9 is not on the hub"),
        ({"revision": "c" * 40}, f"ArtifactError owner/name at {'c' * 40} lacks a file of an artifact"),
        ({"repository": "../name"}, "InputError repository is '../name', expected owner/name"),
        ({"repository": "my--org/name"}, "InputError repository is 'my--org/name', which the hub allows nobody"),
        ({"repository": "owner/name.git"}, "InputError repository is 'owner/name.git', which the hub allows nobody"),
        ({"repository": f"{'x' * 300}/y"}, f"ModelNotFoundError {'x' * 300}/y at main is not on the hub"),
        ({"revision": " "}, "InputError revision is ' ', expected a branch"),
        ({"revision": 3}, "InputError revision is 3, expected a branch"),
    ):
        assert from_hub(hub.address, tmp_path / "cache", **settings).startswith(message)


def test_a_download_that_breaks_in_any_way_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object, **__: object) -> str:
        raise RuntimeError("Data processing error: CAS service error")  # as hf_xet does

    monkeypatch.setattr("huggingface_hub.hf_hub_download", broken)
    with pytest.raises(ModelNotFoundError, match=r"owner/name at main could not be downloaded \(Data processing error"):
        download("owner/name", None, tmp_path, offline=True)


def test_without_the_library_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r'pip install "flashranker\[hub\]"'):
        download("owner/name", None)

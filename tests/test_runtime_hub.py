"""`Reranker.from_hub` against a server that speaks the hub's protocol: one commit, the cache, damage, refusals."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import negated_artifact
from flashranker import Reranker
from flashranker.hub import download

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


class Hub:
    """Commits of one repository, served as huggingface.co does it; `asked` are the paths, in order."""

    def __init__(self, commits: dict[str, Path]) -> None:
        self.commits, self.asked = commits, list[str]()
        self.branches = {"main": next(iter(commits))}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, body: bool) -> None:
                if self.path == "/":  # whether the hub is there
                    return self.refuse("")
                hub.asked.append(self.path)
                _, owner, name, _, revision, *parts = self.path.split("/")
                commit = hub.branches.get(revision, revision)
                file = hub.commits.get(commit, Path("/none")).joinpath(*parts)
                if (owner, name) != ("owner", "name"):
                    return self.refuse("RepoNotFound")
                if commit not in hub.commits:
                    return self.refuse("RevisionNotFound")
                if not file.is_file():
                    return self.refuse("EntryNotFound", commit)
                content = file.read_bytes()
                self.send_response(200)
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", commit)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if body:
                    self.wfile.write(content)

            def refuse(self, code: str, commit: str = "") -> None:
                self.send_response(404)
                self.send_header("X-Error-Code", code)
                self.send_header("X-Repo-Commit", commit)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


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
        ({"revision": " "}, "InputError revision is ' ', expected a branch"),
        ({"revision": 3}, "InputError revision is 3, expected a branch"),
    ):
        assert from_hub(hub.address, tmp_path / "cache", **settings).startswith(message)


def test_without_the_library_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r'pip install "flashranker\[hub\]"'):
        download("owner/name", None)

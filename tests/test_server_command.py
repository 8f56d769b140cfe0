"""`flashranker serve` as a process: how it starts, stops and refuses."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from flashranker import Reranker
from serving import counted, half_sent

QUERY, KEY = "sort list", "correct-horse-battery-staple"


@contextmanager
def started(*arguments: object, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`flashranker serve` with these arguments on a free port: the process and its address, once it listens."""
    command = [sys.executable, "-m", "flashranker", "serve", *map(str, arguments), "--port", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://\S+:\d+", line)
        assert found, line + process.communicate(timeout=10)[1]
        yield process, found[0]
    finally:
        process.kill()
        process.communicate()


def refused(*arguments: object, **environment: str) -> str:
    """The one line with which the command ends."""
    command = [sys.executable, "-m", "flashranker", "serve", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | environment)
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    return line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_finishes_what_it_began_and_exits_with_0(tiny_artifact: Path, number: signal.Signals) -> None:
    texts = [f"{number} list" for number in range(20_000)]
    with started(tiny_artifact, "--max-passages", 10**6, "--threads", 1, "--timeout", 60) as (process, url):
        connection, rest = half_sent(url, {"query": QUERY, "texts": texts})
        connection.sendall(rest)
        while counted(url, "flashranker_requests_running") < 1:
            time.sleep(0.01)
        process.send_signal(number)
        answer = b""
        while part := connection.recv(1 << 20):
            answer += part
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert sorted(one["index"] for one in json.loads(body)) == list(range(20_000))
        assert process.wait(timeout=10) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")
        assert process.stderr is not None
        assert re.fullmatch(r".* /rerank 200, model tiny, 20000 passages, [\d.]+ ms\n", process.stderr.read())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_as_soon_as_it_says_where_it_is_it_exits_with_0(
    tiny_artifact: Path, number: signal.Signals
) -> None:
    for _ in range(3):
        with started(tiny_artifact) as (process, _):
            process.send_signal(number)
            assert process.wait(timeout=10) == 0


def test_models_are_named_and_settings_reach_them(tiny_artifact: Path, tmp_path: Path) -> None:
    cache = tmp_path / "scores.db"
    options = ("--max-length", 32, "--long", "maxp", "--cache", cache, "--keep", 2)
    with started(f"best={tiny_artifact}", f"{tiny_artifact},{tiny_artifact}", *options) as (_, url):
        text = "river mountain list " * 20
        body = {"model": "best", "query": QUERY, "texts": [text], "raw_scores": True}
        (found,) = httpx.post(f"{url}/rerank", json=body).json()
        info = httpx.get(f"{url}/info").json()
    assert [model["name"] for model in info["models"]] == ["best", "tiny,tiny"]
    assert info["models"][1]["keep"] == [2]
    assert found["score"] == Reranker(tiny_artifact, max_length=32, long="maxp").score(QUERY, [text])[0]
    assert cache.stat().st_size > 0


def test_keys_come_from_a_file_or_the_environment(tiny_artifact: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"\n{KEY}\nsecond-key-of-this-file\n")
    allowed = {"Authorization": f"Bearer {KEY}"}
    for arguments, environment in (
        (("--api-keys", file), {}),
        ((), {"FLASHRANKER_API_KEYS": f"first-key-of-them-all, {KEY}"}),
    ):
        with started(tiny_artifact, *arguments, **environment) as (_, url):
            assert httpx.get(f"{url}/info").status_code == 401
            assert httpx.get(f"{url}/info", headers=allowed).status_code == 200


def test_it_refuses_what_it_cannot_serve_in_one_line(tiny_artifact: Path, tmp_path: Path) -> None:
    short, empty = tmp_path / "short", tmp_path / "empty"
    short.write_text(f"{KEY}\nhunter2\n")
    empty.write_text("\n")
    line = refused(tiny_artifact, "--api-keys", short)
    assert "key 2 of 2 is not 16 or more printable ASCII characters" in line
    assert "hunter2" not in line
    assert "holds no key" in refused(tiny_artifact, "--api-keys", empty)
    assert "$FLASHRANKER_API_KEYS holds no key" in refused(tiny_artifact, FLASHRANKER_API_KEYS=" , ")
    assert "--keep 3 without a cascade" in refused(tiny_artifact, "--keep", 3)
    assert "No such file" in refused(tiny_artifact, "--api-keys", tmp_path / "none")
    assert "two models are called 'tiny'" in refused(tiny_artifact, tiny_artifact)
    assert "none" in refused(tmp_path / "none")
    assert "--queue is -1" in refused(tiny_artifact, "--queue", -1)
    assert "--timeout is 0" in refused(tiny_artifact, "--timeout", 0)
    assert "--port is 70000" in refused(tiny_artifact, "--port", 70000)
    assert "can't listen on üüü" in refused(tiny_artifact, "--host", "ü" * 80)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"can't listen on 127.0.0.1:{port}" in refused(tiny_artifact, "--port", port)

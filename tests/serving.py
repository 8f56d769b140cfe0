"""A server of the tests' own, in a thread of this process, on a free port of this machine."""

import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import uvicorn
from flashranker.server.app import Limits, make_app
from flashranker.server.models import Ranker

LIMITS = Limits(running=2, waiting=8, passages=1000, body_bytes=1_000_000, seconds=20.0)
JSON = {"Content-Type": "application/json"}


@contextmanager
def serving(models: Mapping[str, Ranker], keys: Sequence[str] = (), **limits: Any) -> Iterator[str]:
    """The address of a running server; `limits` replace those above."""
    config = uvicorn.Config(make_app(models, replace(LIMITS, **limits), keys), log_config=None, access_log=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)


def half_sent(url: str, body: Mapping[str, Any], path: str = "/rerank") -> tuple[socket.socket, bytes]:
    """A connection on which all of a request but its last byte was sent, and that byte."""
    content = json.dumps(body).encode()
    host, port = url.removeprefix("http://").split(":")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(head.encode() + content[:-1])
    return connection, content[-1:]


def post(url: str, body: Any, path: str = "/rerank", **headers: str) -> httpx.Response:
    """The answer to a body, JSON or bytes as they are."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{url}{path}", content=content, headers=JSON | headers, timeout=30)


def counted(url: str, name: str) -> float:
    """A counter of /metrics, summed over its labels."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def wait_for(url: str, name: str, count: int) -> None:
    """Wait until a counter of /metrics is at `count`; an AssertionError after ten seconds."""
    began = time.monotonic()
    while counted(url, name) != count:
        assert time.monotonic() - began < 10, f"{name} is {counted(url, name)}, expected {count}"
        time.sleep(0.01)

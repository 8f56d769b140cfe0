"""The server's limits: what waits, what is refused at once, and what ends when nobody waits for it."""

import time
from pathlib import Path
from typing import Any

import pytest
from flashranker import Cascade, Reranker
from serving import counted, half_sent, post, serving, wait_for

QUERY = "sort list"
TEXTS = ["river mountain", "python list sort", "open file", "bread and water", "sort a list of letters"]


@pytest.fixture(scope="module")
def models(tiny_artifact: Path) -> dict[str, Any]:
    return {"tiny": Reranker(tiny_artifact, threads=2)}


def test_a_full_server_says_so_at_once_and_serves_those_it_let_in(models: dict[str, Any]) -> None:
    with serving(models, running=1, waiting=1) as url:
        body = {"query": QUERY, "texts": TEXTS}
        held = [half_sent(url, body) for _ in range(2)]
        wait_for(url, "flashranker_requests_waiting", 2)
        refused = post(url, body)
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        assert "2 requests are here already" in refused.json()["message"]
        for connection, rest in held:
            connection.sendall(rest)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            connection.close()
        assert post(url, body).status_code == 200


def test_a_request_that_takes_too_long_is_ended_and_the_next_one_served(models: dict[str, Any]) -> None:
    with serving(models, seconds=0.5, passages=10**6, body_bytes=10**8) as url:
        connection, _ = half_sent(url, {"query": QUERY, "texts": TEXTS})
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"not done within 0.5 s" in answer
        connection.close()
        many = post(url, {"query": QUERY, "texts": [f"{number} list" for number in range(200_000)]})
        assert (many.status_code, many.headers["Retry-After"]) == (503, "1")
        assert post(url, {"query": QUERY, "texts": TEXTS}).status_code == 200
        assert counted(url, "flashranker_requests_running") == 0


@pytest.mark.parametrize("truncate", [True, False])  # without it tokens are counted first
def test_work_for_a_client_that_went_away_is_dropped(truncate: bool, models: dict[str, Any]) -> None:
    with serving(models, passages=10**6, body_bytes=10**8) as url:
        texts = [f"{number} list" for number in range(300_000)]
        connection, rest = half_sent(url, {"query": QUERY, "texts": texts, "truncate": truncate})
        connection.sendall(rest)
        wait_for(url, "flashranker_requests_running", 1)
        connection.close()
        wait_for(url, 'flashranker_requests_total{model="tiny",status="499"}', 1)
        assert counted(url, "flashranker_requests_running") == 0
        assert counted(url, "flashranker_passages_total") == 0
        time.sleep(0.2)  # for the pairs that had begun
        busy = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - busy < 0.1


def test_a_client_that_leaves_the_queue_gives_its_place_away(models: dict[str, Any]) -> None:
    with serving(models, running=1, waiting=1, passages=10**6, body_bytes=10**8) as url:
        many = {"query": QUERY, "texts": [f"{number} list" for number in range(300_000)]}
        running, rest = half_sent(url, many)
        running.sendall(rest)
        wait_for(url, "flashranker_requests_running", 1)
        waiting, rest = half_sent(url, {"query": QUERY, "texts": TEXTS})
        waiting.sendall(rest)
        wait_for(url, "flashranker_requests_waiting", 1)
        waiting.close()
        wait_for(url, "flashranker_requests_waiting", 0)
        assert counted(url, "flashranker_requests_running") == 1  # the first one still
        running.close()


def test_what_must_not_be_cut_is_asked_of_each_model_that_cuts(tiny_artifact: Path) -> None:
    wide, narrow = Reranker(tiny_artifact, threads=1), Reranker(tiny_artifact, threads=1, max_length=16)
    windows = Reranker(tiny_artifact, threads=1, max_length=16, long="maxp")
    body = {"query": "sort", "texts": ["river " * 20], "truncate": False}
    with serving({"both": Cascade([wide, narrow], keep=1)}) as url:
        refused = post(url, body)
        assert (refused.status_code, refused.json()["message"]) == (
            413, "a pair has 24 tokens, expected at most 16: let it be cut"
        )  # fmt: skip
    with serving({"windows": windows}) as url:
        assert post(url, body).json() == [{"index": 0, "score": windows.rerank("sort", body["texts"])[0].score}]


def test_texts_of_megabytes_are_refused_untokenized(models: dict[str, Any]) -> None:
    with serving(models, body_bytes=10_000_000) as url:
        refused = post(url, {"query": "a " * 100_000, "texts": TEXTS})
        long = {"query": "sort", "documents": ["a", {"text": "a " * 500_001}], "texts": ["a", "a " * 500_001]}
        passage = [post(url, {key: long[key] for key in ("query", kind)}, path) for kind, path in
                   (("texts", "/rerank"), ("documents", "/v1/rerank"))]  # fmt: skip
    assert refused.status_code == 413
    assert refused.json()["message"] == "the query has 200000 characters, expected at most 100000"
    for one in passage:
        assert one.status_code == 413
        assert one.json()["message"] == "passage 1 has 1000002 characters, expected at most 1000000: send a part"

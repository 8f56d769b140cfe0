"""The server: what existing clients get from it, and what it refuses, how and when."""

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import WORDS, import_error_without, negated_artifact
from flashranker import Cascade, Reranker
from flashranker.errors import InputError
from flashranker.server.shapes import read_wanted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import counted, post, serving

QUERY = "sort list"
TEXTS = ["river mountain", "python list sort", "open file", "bread and water", "sort a list of letters"]
KEY = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def models(tiny_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("server") / "other"
    tiny, other = Reranker(tiny_artifact, threads=2), Reranker(negated_artifact(tiny_artifact, folder), threads=2)
    return {"tiny": tiny, "other": other, "both": Cascade([tiny, other], keep=2)}


@pytest.fixture(scope="module")
def url(models: dict[str, Any]) -> Iterator[str]:
    with serving(models) as address:
        yield address


def test_coheres_client_gets_what_the_library_says(url: str, models: dict[str, Any]) -> None:
    cohere = pytest.importorskip("cohere", reason="Cohere's client is not installed")
    client = cohere.ClientV2(api_key="any", base_url=url, log_warning_experimental_features=False)
    answer = client.rerank(model="tiny", query=QUERY, documents=TEXTS, top_n=3)
    expected = models["tiny"].rerank(QUERY, TEXTS, top_n=3)
    assert [(one.index, one.relevance_score) for one in answer.results] == [(hit.index, hit.score) for hit in expected]
    assert answer.meta.api_version.version == "2"
    with pytest.raises(cohere.errors.NotFoundError, match="expected one of tiny, other, both"):
        client.rerank(model="rerank-v3.5", query=QUERY, documents=TEXTS)


def test_jinas_client_of_langchain_gets_scores_and_keeps_metadata(
    url: str, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    jina = pytest.importorskip("langchain_community.document_compressors.jina_rerank", reason="no LangChain")
    from langchain_core.documents import Document

    monkeypatch.setattr(jina, "JINA_API_URL", f"{url}/v1/rerank")
    client = jina.JinaRerank(jina_api_key="any", model="other", top_n=2)
    given = [Document(text, metadata={"place": place}) for place, text in enumerate(TEXTS)]
    found = client.compress_documents(given, QUERY)
    expected = models["other"].rerank(QUERY, TEXTS, top_n=2)
    assert [(one.metadata["place"], one.metadata["relevance_score"]) for one in found] == [
        (hit.index, hit.score) for hit in expected
    ]


def test_each_shape_is_answered_in_its_own_words(url: str, models: dict[str, Any]) -> None:
    best = models["tiny"].rerank(QUERY, TEXTS, top_n=1)[0]
    text = {"text": TEXTS[best.index]}
    cohere = post(url, {"query": QUERY, "documents": TEXTS, "top_n": 1}, "/v2/rerank").json()
    assert cohere["results"] == [{"index": best.index, "relevance_score": best.score}]
    jina = post(url, {"query": QUERY, "documents": [{"text": one} for one in TEXTS], "top_n": 1}, "/v1/rerank").json()
    assert jina["results"] == [{"index": best.index, "relevance_score": best.score, "document": text}]
    lengths = models["tiny"].count_tokens(QUERY, TEXTS)
    assert jina["usage"] == {"total_tokens": int(lengths.sum()), "prompt_tokens": int(lengths.sum())}
    tei = post(url, {"query": QUERY, "texts": TEXTS, "return_text": True}).json()
    assert tei[0] == {"index": best.index, "score": best.score, **text}
    assert len(tei) == len(TEXTS)
    assert post(url, {"query": QUERY, "texts": []}).json() == []
    (lone,) = post(url, {"query": QUERY, "texts": ["\ud800 list"], "return_text": True}).json()
    assert lone["text"] == "\ufffd list"
    long = post(url, {"query": QUERY, "documents": ["list " * 70, "list"]}).json()["usage"]["total_tokens"]
    assert long == models["tiny"].max_length + models["tiny"].count_tokens(QUERY, ["list"])[0]
    cascade = post(url, {"model": "both", "query": QUERY, "documents": TEXTS}).json()["results"]
    assert [one["index"] for one in cascade] == [hit.index for hit in models["both"].rerank(QUERY, TEXTS)]


def test_tokens_are_counted_as_the_tokenizer_makes_them(models: dict[str, Any]) -> None:
    tiny = models["tiny"]
    texts = ["", "sort", "river mountain python " * 40]
    pairs = tiny._tokenizer.encode_batch([(QUERY, text) for text in texts])
    assert tiny.count_tokens(QUERY, texts).tolist() == [len(pair) for pair in pairs]
    assert len(pairs[2]) > tiny.max_length


def test_callers_at_the_same_time_get_the_bits_of_one_alone(url: str, models: dict[str, Any]) -> None:
    queries = [f"{word} list" for word in WORDS[:8]]

    def ask(query: str) -> list[float]:
        answer = post(url, {"query": query, "texts": TEXTS * 10, "raw_scores": True}).json()
        return [one["score"] for one in sorted(answer, key=lambda one: one["index"])]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, queries))
    for query, scores in zip(queries, found, strict=True):
        assert np.array_equal(np.float32(scores), models["tiny"].score(query, TEXTS * 10))


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "no JSON"),
        (b"\xff\xff", 400, "no JSON"),
        (b"[" * 100_000, 400, "no JSON"),
        ([], 422, "the body is of type list"),
        ({"query": QUERY}, 422, "expected 'query' with 'documents'"),
        ({"query": QUERY, "texts": [], "documents": []}, 422, "expected 'query' with 'documents'"),
        ({f"field {i}": 0 for i in range(999)}, 422, "expected 'query' with 'documents'"),
        ({"query": QUERY, "documents": TEXTS, "top_n": "x" * 9999}, 422, "top_n is 'xxx"),
        ({"query": QUERY, "documents": "text"}, 422, "documents is of type str, expected a list"),
        ({"query": QUERY, "documents": [{"image": "x"}]}, 422, 'passage 0 has no "text"'),
        ({"query": " ", "documents": TEXTS}, 422, "the query is empty"),
        ({"query": "list " * 60, "documents": TEXTS}, 422, "the query has 60 tokens"),
        ({"query": QUERY, "documents": TEXTS, "top_n": 0}, 422, "top_n is 0"),
        ({"query": QUERY, "documents": TEXTS, "return_documents": "yes"}, 422, "return_documents is 'yes'"),
        ({"query": QUERY, "texts": TEXTS, "truncation_direction": "Left"}, 422, "truncation_direction is 'Left'"),
        (
            {"query": QUERY, "texts": ["list " * 70], "truncate": False},
            413,
            "a pair has 75 tokens, expected at most 64",
        ),
        ({"query": QUERY, "documents": ["a"] * 1001}, 413, "1001 passages, expected at most 1000"),
        ({"query": QUERY, "documents": ["a" * 1_000_000]}, 413, "larger than 1000000 bytes"),
        ({"query": QUERY, "documents": TEXTS, "model": "none"}, 404, "model 'none' is not served"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(url: str, body: Any, status: int, message: str) -> None:
    response = post(url, body)
    assert response.status_code == status
    error = response.json()
    assert message in error["message"]
    assert len(error["message"]) < 400
    assert error["message"] == error["detail"] == error["error"]
    assert error["error_type"] == "Validation"


def test_other_methods_paths_and_types_are_refused(url: str) -> None:
    for path, status in (("/rerank", 405), ("/v3/rerank", 404), ("/rerank/", 404)):
        answer = httpx.get(f"{url}{path}")
        assert answer.status_code == status
        assert answer.json()["message"].startswith(f"GET {path}: ")
    # What a page of another site can send without being asked whether it may.
    plain = httpx.post(f"{url}/rerank", content=json.dumps({"query": QUERY, "texts": TEXTS}))
    assert plain.status_code == 415


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(
            ["query", "documents", "texts", "top_n", "model", "truncate", "return_documents", "raw_scores"]
        ),
        st.none() | st.booleans() | st.integers() | st.text() | st.floats() | st.lists(st.integers() | st.text()),
    )
    | st.lists(st.integers())
    | st.none()
)
def test_any_body_is_understood_or_refused(body: Any) -> None:
    try:
        wanted = read_wanted(body, "/rerank")
    except InputError:
        return
    assert wanted.passages == body["texts" if wanted.shape == "tei" else "documents"]
    assert wanted.top_n == (body.get("top_n") if wanted.shape == "rerank" else None)


def test_keys_are_asked_for_and_never_logged(models: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    body = {"query": QUERY, "texts": TEXTS}
    with serving(models, keys=["another-key-of-the-list", KEY]) as url:
        for headers in ({}, {"Authorization": f"Bearer {KEY[:-1]}"}, {"Authorization": KEY}):
            refused = post(url, body, **headers)
            assert refused.status_code == 401
            assert refused.headers["WWW-Authenticate"] == "Bearer"
            assert [httpx.get(f"{url}{path}", headers=headers).status_code for path in ("/info", "/metrics")] == [
                401,
                401,
            ]
        assert post(url, body, Authorization=f"bearer  {KEY}").status_code == 200
        assert httpx.get(f"{url}/info", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
        assert httpx.get(f"{url}/health").json() == {"status": "ok"}
    log = [record.getMessage() for record in caplog.records if record.name == "flashranker.server"]
    assert [line.split(" ms")[0].rsplit(" ", 1)[0] for line in log] == [
        *["/rerank 401, model -, 0 passages,"] * 3, "/rerank 200, model tiny, 5 passages,"
    ]  # fmt: skip
    assert not any(secret in caplog.text for secret in (KEY, KEY[:-1], *TEXTS))


def test_what_was_served_is_counted_and_described(models: dict[str, Any], tiny_artifact: Path) -> None:
    with serving(models) as url:
        post(url, {"query": QUERY, "texts": TEXTS})
        post(url, {"query": QUERY, "documents": ["list " * 70], "model": "other"})
        post(url, {"query": QUERY})
        requests = {
            label: counted(url, f"flashranker_requests_total{{{label}}}")
            for label in ('model="tiny",status="200"', 'model="other",status="200"', 'model="",status="422"')
        }
        assert list(requests.values()) == [1, 1, 1]
        assert counted(url, "flashranker_passages_total") == 6
        assert counted(url, 'flashranker_truncated_passages_total{model="other"}') == 1
        assert counted(url, "flashranker_request_seconds_count") == 3
        info = httpx.get(f"{url}/info").json()
    file = json.loads((tiny_artifact / "flashranker.json").read_text())["files"]["onnx/model.onnx"]
    assert (info["model_id"], info["model_sha"], info["max_input_length"]) == ("tiny", file["sha256"], 64)
    assert [model["name"] for model in info["models"]] == ["tiny", "other", "both"]
    assert [model["name"] for model in info["models"][2]["cascade"]] == ["tiny", "other"]


def test_a_missing_extra_is_named_with_its_command() -> None:
    for package in ("starlette", "uvicorn", "prometheus_client"):
        error = import_error_without(package, "flashranker.server.command")
        assert error.endswith('pip install "flashranker[server]"'), error

"""The Lambda example: real event shapes, the runtime's own results, one line for bad input, and what it weighs."""

import base64
import importlib.util
import json
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from flashranker import Reranker

from recipes import serverless
from recipes.serverless import COLD, EXAMPLE, PEAK, WARM
from training.data import InputError

QUERY, PASSAGES = "python sort", ["river bridge", {"id": 7, "text": "sort list"}, "", "coffee paper " * 40]
BODY = {"query": QUERY, "passages": PASSAGES}


@pytest.fixture(scope="module")
def lambda_module(tiny_artifact: Path) -> ModuleType:
    """handler.py as Lambda imports it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLASHRANKER_MODEL", str(tiny_artifact))
        spec = importlib.util.spec_from_file_location("lambda_handler", EXAMPLE)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def http_event(body: str | None, encoded: bool = False) -> dict[str, Any]:
    """What API Gateway's HTTP APIs and function URLs send, payload format 2.0."""
    event = {
        "version": "2.0", "routeKey": "$default", "rawPath": "/", "rawQueryString": "",
        "headers": {"content-type": "application/json", "x-forwarded-proto": "https"},
        "requestContext": {
            "accountId": "anonymous", "apiId": "example", "domainName": "example.test", "requestId": "id",
            "http": {"method": "POST", "path": "/", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": "-"},
            "stage": "$default", "routeKey": "$default", "timeEpoch": 1767225600000,
        },
        "isBase64Encoded": encoded,
    }  # fmt: skip
    return event if body is None else event | {"body": body}


def results(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    assert answer["statusCode"] == 200
    assert answer["headers"]["content-type"] == "application/json"
    return json.loads(answer["body"])["results"]


def expected(artifact: Path, top_n: int | None = None) -> list[dict[str, Any]]:
    hits = Reranker(artifact, threads=1).rerank(QUERY, PASSAGES, top_n=top_n)
    return [{"index": hit.index, "score": hit.score} for hit in hits]


def test_every_way_to_call_gives_the_runtimes_results(lambda_module: ModuleType, tiny_artifact: Path) -> None:
    text, whole = json.dumps(BODY), expected(tiny_artifact)
    assert [result["index"] for result in whole] != [0, 1, 2, 3]
    assert results(lambda_module.handler(http_event(text), None)) == whole
    encoded = base64.b64encode(text.encode()).decode()
    assert results(lambda_module.handler(http_event(encoded, encoded=True), None)) == whole
    assert lambda_module.handler(BODY, None) == {"results": whole}
    documents = {"query": QUERY, "documents": PASSAGES, "top_n": 2}
    assert lambda_module.handler(documents, None) == {"results": expected(tiny_artifact, 2)}
    assert lambda_module.handler({"query": QUERY, "passages": []}, None) == {"results": []}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (None, "the request has no body"),
        ("", "the request has no body"),
        ("{", "the body is no JSON"),
        ("[" * 100_000, "the body is no JSON"),
        ("[1]", "the request is of type list"),
        ('{"passages": ["a"]}', "the query is None"),
        ('{"query": " ", "passages": ["a"]}', "the query is empty"),
        ('{"query": "sort"}', 'both or none of "passages" and "documents"'),
        ('{"query": "sort", "passages": ["a"], "documents": ["a"]}', 'both or none of "passages" and "documents"'),
        ('{"query": "sort", "passages": "a"}', "passages is of type str"),
        ('{"query": "sort", "passages": [{"title": "a"}]}', 'passage 0 has no "text"'),
        ('{"query": "sort", "passages": ["a"], "top_n": 0}', "top_n is 0"),
        ('{"query": "sort", "passages": ["a"], "top_k": 1}', "the request has 'top_k'"),
    ],
)
def test_bad_input_is_a_400_with_one_line(lambda_module: ModuleType, body: str | None, message: str) -> None:
    answer = lambda_module.handler(http_event(body), None)
    assert answer["statusCode"] == 400
    error = json.loads(answer["body"])["error"]
    assert message in error
    assert "\n" not in error


def test_bad_encodings_and_direct_calls_are_400s_too(lambda_module: ModuleType) -> None:
    for body in ("{}", base64.b64encode(b"\xff\xfe{").decode()):
        answer = lambda_module.handler(http_event(body, encoded=True), None)
        assert (answer["statusCode"], json.loads(answer["body"])["error"][:19]) == (400, "the body is no JSON")
    answer = lambda_module.handler({"query": QUERY, "passages": [None]}, None)
    assert answer["statusCode"] == 400
    assert answer["error"].startswith("passage 0 is None")
    assert lambda_module.handler(None, None)["statusCode"] == 400


def test_what_nobody_foresaw_is_a_500_that_says_nothing(
    lambda_module: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lambda_module, "RANKER", None)
    answer = lambda_module.handler(http_event(json.dumps(BODY)), None)
    assert answer["statusCode"] == 500
    assert json.loads(answer["body"]) == {"error": "the request failed: see the function's log"}
    assert lambda_module.handler(BODY, None)["statusCode"] == 500
    assert "'NoneType' object has no attribute 'rerank'" in caplog.text


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is measured, from uv's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UV_OFFLINE", "1")
        try:
            return serverless.make_package(tmp_path_factory.mktemp("lambda") / "package")
        except InputError as error:
            pytest.skip(f"uv's cache, which `make install` fills, does not hold it: {error}")


def test_the_package_alone_answers_as_the_checkout_does(package: Path, tiny_artifact: Path) -> None:
    script = """
import json, sys
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
import handler
loaded = {name.split(".")[0] for name, module in sys.modules.items() if name not in before
          and (getattr(module, "__file__", None) or "").startswith(sys.argv[1])}
print(json.dumps([sorted(loaded), handler.handler(json.loads(sys.argv[2]), None)]))
"""
    command = [sys.executable, "-I", "-S", "-c", script, str(package), json.dumps(http_event(json.dumps(BODY)))]
    environment = {"FLASHRANKER_MODEL": str(tiny_artifact)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    loaded, answer = json.loads(done.stdout)
    assert set(loaded) == {"handler", "flashranker", "numpy", "onnxruntime", "tokenizers"}
    assert results(answer) == expected(tiny_artifact)


def test_the_package_is_compiled_for_a_folder_that_can_not_be_written(package: Path) -> None:
    folders = {path.name for path in package.iterdir() if path.is_dir() and "-" not in path.name}
    assert folders - {"bin", "__pycache__", "numpy.libs"} == {"flashranker", "numpy", "onnxruntime", "tokenizers"}
    compiled = list(package.rglob("*.pyc"))
    assert len(compiled) >= len(list((package / "flashranker").glob("*.py")))
    assert {path.read_bytes()[4:8] for path in compiled} == {b"\1\0\0\0"}  # PEP 552: by hash, not checked


def test_a_functions_life_is_measured_and_a_broken_model_named(
    package: Path, tiny_artifact: Path, tmp_path: Path
) -> None:
    found = serverless.live(package, tiny_artifact, json.dumps(BODY), cores=1)
    assert found[COLD] > 10 * found[WARM] > 0  # onnxruntime alone takes longer to import than this miniature to run
    assert 30 < found[PEAK] < 300
    with pytest.raises(InputError, match=r"none: the handler failed .*no artifact folder"):
        serverless.live(package, tmp_path / "none", json.dumps(BODY), cores=1)
    with pytest.raises(InputError, match=r"the handler failed \(400 "):
        serverless.live(package, tiny_artifact, "{}", cores=1)


def test_the_container_copies_what_the_checkout_has_and_starts_the_handler() -> None:
    lines = (EXAMPLE.parent / "Containerfile").read_text(encoding="utf-8").splitlines()
    copied = [line.split()[1] for line in lines if line.startswith("COPY")]
    assert copied == ["runtime", "${MODEL}", EXAMPLE.relative_to(serverless.ROOT).as_posix()]
    module, function = json.loads(lines[-1].removeprefix("CMD "))[0].split(".")
    assert module == EXAMPLE.stem
    assert f"def {function}(event" in EXAMPLE.read_text(encoding="utf-8")


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "zeros").write_bytes(bytes(1_000_000))
    (tmp_path / "deep/er/noise").write_bytes(random.Random(0).randbytes(500_000))
    assert serverless.size(tmp_path) == 1.5
    assert serverless.size(tmp_path / "zeros") == 1.0
    assert 0.5 < serverless.zipped(tmp_path) < 0.503


def test_the_measurement_becomes_tables_by_hand(capsys: pytest.CaptureFixture) -> None:
    def spread(median: float) -> dict[str, float]:
        return {"median": median, "low": median - 1, "high": median + 1}

    model = {"MB": 5.25, "zipped MB": 4.5, COLD: spread(200.0), WARM: spread(6.0), PEAK: spread(90.0)}
    result = {
        "command": "python -m recipes.serverless", "settings": {"cores": 1, "passages": 10, "turns": 9},
        "limits, MB": serverless.LIMITS, "models": {"nano": model}, "package": {"MB": 160.0, "zipped MB": 54.0},
    }  # fmt: skip
    text = serverless.serverless_section(result)
    for row in (
        "| flashranker, numpy, onnxruntime, tokenizers | 160.0 | 54.0 |",
        "| with `nano` | 165.2 | 58.5 |",
        "| Lambda's limit for a zip file, uploaded as it is | 262.1 | 52.4 |",
        "| `nano` | 200 (199 to 201) | 6 (5 to 7) | 90 (89 to 91) |",
        "on 1 core of this machine, 10 passages",
    ):
        assert row in text
    for wrong, line in (
        (["--turns", "0"], "--passages, --cores and --turns must be 1 or more"),
        (["--models", "a/nano", "b/nano"], "expected folders of different names"),
        (["--models", "nowhere"], "no artifact folder"),
    ):
        assert serverless.main(wrong) == 2
        assert line in capsys.readouterr().err

"""The measurement of the server: it compares equal work, and a run ends in its file and in a section."""

import json
from pathlib import Path

import pytest
from conftest import WORDS, write_lines
from flashranker import Reranker

from recipes.rivals import Model
from recipes.serving_speed import ServingConfig, ask, main, measure, served, serving_section

REQUESTS = [("sort list", ["river mountain", "python list sort", "open file"]), ("open", ["file", "bread and water"])]


def test_a_client_gets_the_logits_of_its_own_request(tiny_artifact: Path) -> None:
    ranker = Reranker(tiny_artifact)
    with served(tiny_artifact, 1) as port:
        for request in REQUESTS:
            assert ask(port, request, 2) == [hit.logit for hit in ranker.rerank(*request)]


def test_shares_are_of_the_same_turn(tiny_artifact: Path) -> None:
    model = Model("tiny", tiny_artifact, tiny_artifact, 64)
    speeds = measure(model, REQUESTS, 1, ServingConfig(requests=3, turns=1))
    assert speeds["share"]["median"] == speeds["server"]["median"] / speeds["library"]["median"]
    # A request of three words' worth of work is mostly its way there and back.
    assert 0 < speeds["share"]["median"] < 1


def test_a_run_ends_in_its_file(tmp_path: Path) -> None:
    words = [{"id": f"p{i}", "text": " ".join(WORDS[i % 20 : i % 20 + 9])} for i in range(100)]
    folder, output = tmp_path / "corpus", tmp_path / "speed.json"
    folder.mkdir()
    write_lines(folder / "corpus.jsonl", words)
    write_lines(folder / "queries.jsonl", [{"id": f"q{i}", "text": f"{WORDS[i]} {WORDS[i + 1]}"} for i in range(8)])
    (folder / "qrels.test.tsv").write_text("query\tpassage\tgrade\n" + "".join(f"q{i}\tp{i}\t1\n" for i in range(8)))
    settings = {
        "models": "nano", "clients": 2, "passages": 3, "requests": 2, "turns": 2, "threads": 1, "data": folder,
        "cache": tmp_path, "output": output,
    }  # fmt: skip
    assert main([part for name, value in settings.items() for part in (f"--{name}", str(value))]) == 0
    ((name, speeds),) = json.loads(output.read_text(encoding="utf-8"))["requests per second"].items()
    assert name == "nano"
    for found in speeds.values():
        assert 0 < found["low"] <= found["median"] <= found["high"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--models", "huge"], "--models huge: expected some of nano, six, twelve"),
        (["--clients", "9"], "--clients must be 1 to 8"),
        (["--turns", "0"], "--requests and --turns must be 1 or more"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert main(options) == 2
    assert message in capsys.readouterr().err


def test_a_result_becomes_a_table() -> None:
    spread = {"median": 20.0, "low": 18.0, "high": 21.0}
    share = {"median": 0.95, "low": 0.9, "high": 1.01}
    result = {
        "command": "python -m recipes.serving_speed",
        "settings": {"clients": 8, "passages": 50, "turns": 7},
        "machine": {"threads": 2},
        "requests per second": {"nano": {"server": spread, "library": spread | {"median": 21.0}, "share": share}},
    }
    text = serving_section(json.loads(json.dumps(result)))
    assert "| nano | 20.0 (18.0 to 21.0) | 21.0 (18.0 to 21.0) | 0.950 (0.900 to 1.010) |" in text
    assert "8 clients with 50 passages each, which share 2 cores" in text

"""The measurement of the server: it compares equal work, and a run ends in its file and in a section."""

import json
from pathlib import Path

import pytest
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

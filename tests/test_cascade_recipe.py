"""Quality and time of a cascade: its ends are the two models, and what is between them is what `Cascade` gives."""

import json
from pathlib import Path

import pytest
from conftest import WORDS, negated_artifact
from flashranker import Cascade, Reranker
from test_distill import write_corpus

from recipes.cascade import main
from training.load import load_source
from training.metrics import evaluate, mean
from training.prepare import held_out


@pytest.fixture
def other_artifact(tiny_artifact: Path, tmp_path: Path) -> Path:
    """A ranker that orders everything the other way round."""
    return negated_artifact(tiny_artifact, tmp_path / "other")


def test_the_curve_is_what_the_rankers_give(tiny_artifact: Path, other_artifact: Path, tmp_path: Path) -> None:
    corpus, output, picture = write_corpus(tmp_path / "corpus"), tmp_path / "curve.json", tmp_path / "curve.svg"
    options = {"fast": other_artifact, "good": tiny_artifact, "data": corpus, "depth": 12, "queries": 20,
               "output": output, "picture": picture, "threads": 1}  # fmt: skip
    assert main([part for name, value in options.items() for part in (f"--{name}", str(value))] + ["--keep", "4"]) == 0
    points = json.loads(output.read_text())["points"]
    assert list(points) == ["first stage", "other", "keep 4", "tiny"]

    tests = held_out(load_source(str(corpus), False, False), "test", 20, 12, 0)
    fast, good = Reranker(other_artifact, threads=1), Reranker(tiny_artifact, threads=1)
    for name, ranker in (("other", fast), ("keep 4", Cascade([fast, good], keep=4)), ("tiny", good)):
        run = {}
        for query, ids in tests.candidates.items():
            hits = ranker.rerank(tests.data.queries[query], [tests.data.passages[i] for i in ids])
            run[query] = {ids[hit.index]: -float(rank) for rank, hit in enumerate(hits)}
        judged = {query: tests.data.judgments[query] for query in run}
        assert points[name]["MRR@10"]["mean"] == pytest.approx(mean(evaluate(run, judged, ("MRR@10",))["MRR@10"]))
        assert 0 < points[name]["ms"]["low"] <= points[name]["ms"]["median"] <= points[name]["ms"]["high"]
    assert len({points[name]["MRR@10"]["mean"] for name in points}) == 4  # four different orders
    assert all(name in picture.read_text() for name in points)


def test_bad_input_is_one_line_and_exit_2(tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    common = ["--data", str(corpus), "--output", str(tmp_path / "out.json")]
    models = ["--fast", str(tiny_artifact), "--good", str(tiny_artifact)]
    for options, named in (
        ([*models, "--keep", "50"], "--keep [50], --depth 50"),
        (["--fast", str(tiny_artifact), "--good", f"no/{WORDS[0]}"], "no artifact folder"),
    ):
        assert main([*common, *options]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ")
        assert named in error

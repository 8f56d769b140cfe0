"""recipes.export from the command line: a stock classifier becomes an artifact that ranks as it did."""

from pathlib import Path

import numpy as np
import pytest
from conftest import WORDS
from flashranker import Reranker
from flashranker.artifact import read_manifest
from test_distill import write_corpus
from test_export_architectures import make_classifier

from export.parity import encode_requests, torch_logits
from export.to_onnx import load_checkpoint
from recipes.export import main
from training.load import load_source
from training.metrics import summarise
from training.prepare import first_stage_run, held_out


def options(corpus: Path, tmp_path: Path, output: Path, **more: object) -> list[str]:
    settings = {
        "data": corpus, "output": output, "cache": tmp_path / "cache", "max_length": 32, "depth": 12, "threads": 1,
    } | more  # fmt: skip
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def test_a_classifier_becomes_an_artifact_and_says_where_it_stands(tmp_path: Path) -> None:
    corpus, output = write_corpus(tmp_path / "corpus"), tmp_path / "mine"
    source = make_classifier("bert", tmp_path / "source", labels=2)
    assert main([str(source), *options(corpus, tmp_path, output)]) == 0
    manifest = read_manifest(output)
    assert {gate["name"]: gate["passed"] for gate in manifest.gates if "first stage" not in gate["name"]} == {
        name: True for name in ("fp32 parity", "int8 Kendall tau", "int8 nDCG@10", "size", "batch independence")
    }
    # A random model ranks below BM25, and its card says so.
    assert any("Below its first stage" in notice for notice in manifest.notices)
    assert manifest.lineage["base"]["name"] == str(source)
    assert "data" not in manifest.lineage
    tests = held_out(load_source(str(corpus), False, False), "test", 200, 12, 0)
    expected_bm25 = summarise(first_stage_run(tests.candidates), {q: tests.data.judgments[q] for q in tests.candidates})
    assert manifest.metrics["first stage"]["MRR@10"]["mean"] == expected_bm25["MRR@10"]["mean"]
    requests = [("river", [" ".join(WORDS[i : i + 8]) for i in range(12)])]
    checkpoint = tmp_path / "mine.checkpoint"
    (expected,) = torch_logits(load_checkpoint(checkpoint), encode_requests(output, requests, 32), progress=False)
    found = Reranker(output).score(*requests[0])
    assert np.corrcoef(found, expected)[0, 1] > 0.98

    refused = tmp_path / "refused"
    assert main([str(source), *options(corpus, tmp_path, refused, gate="refuse")]) == 1
    assert not refused.exists()


def test_refusals_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    three = make_classifier("bert", tmp_path / "three", labels=3)
    for model, more, status, message in (
        (three, {}, 1, "refused: " + str(three) + " has 3 labels"),
        (tmp_path / "none", {}, 2, "does not exist"),
        (three, {"depth": 1}, 2, "--depth is 1"),
        ("owner/name", {}, 2, "neither a folder nor in the hub's cache"),
    ):
        assert main([str(model), *options(corpus, tmp_path, tmp_path / "out", **more)]) == status
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert not (tmp_path / "out").exists()

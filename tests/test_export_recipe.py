"""recipes.export from the command line: a stock classifier becomes an artifact that ranks as it did."""

import shutil
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


def test_a_classifier_becomes_an_artifact_and_says_where_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    corpus, output = write_corpus(tmp_path / "corpus"), tmp_path / "mine"
    source = make_classifier("bert", tmp_path / "source", labels=2)
    assert main([str(source), *options(corpus, tmp_path, output)]) == 0
    manifest = read_manifest(output)
    assert {gate["name"]: gate["passed"] for gate in manifest.gates if "first stage" not in gate["name"]} == {
        name: True for name in ("fp32 parity", "int8 Kendall tau", "int8 nDCG@10", "size", "batch independence")
    }
    # A random model ranks below BM25, and its card says so.
    assert f"{output} is ready, though below its first stage (" in capsys.readouterr().out
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

    assert manifest.lineage["base"].get("hub") is None
    assert "base_model" not in (output / "README.md").read_text()

    # A refused run changes nothing that is there, and leaves no second copy of the weights.
    before = {path: path.read_bytes() for path in tmp_path.glob("mine*/**/*") if path.is_file()}
    page = (tmp_path / "mine.report.html").read_bytes()
    assert main([str(source), *options(corpus, tmp_path, output, gate="refuse")]) == 1
    assert {path: path.read_bytes() for path in tmp_path.glob("mine*/**/*") if path.is_file()} == before
    assert (tmp_path / "mine.report.html").read_bytes() == page
    assert "int8 - first stage" in (tmp_path / "mine.refused.html").read_text()
    assert not (tmp_path / ".mine.checkpoint.tmp").exists()
    assert main([str(source), *options(corpus, tmp_path, output)]) == 0
    assert not (tmp_path / "mine.refused.html").exists()


def test_refusals_are_one_line(tmp_path: Path, tiny_artifact: Path, capsys: pytest.CaptureFixture) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    three = make_classifier("bert", tmp_path / "three", labels=3)
    two = make_classifier("mpnet", tmp_path / "two", labels=2)  # counts 80 positions from behind 1
    listed = make_classifier("bert", tmp_path / "listed")
    (listed / "config.json").write_text("[]")
    untyped = make_classifier("bert", tmp_path / "untyped")
    (untyped / "config.json").write_text("{}")  # of which transformers says all that it knows instead
    kept = make_classifier("bert", tmp_path / "own.checkpoint")
    (kept / "notes.md").write_text("mine")
    artifact = shutil.copytree(tiny_artifact, tmp_path / "made")
    make_classifier("bert", tmp_path / "made.checkpoint")
    for model, more, status, message in (
        (three, {}, 1, "refused: " + str(three) + " has 3 labels"),
        (tmp_path / "none", {}, 2, "does not exist"),
        ("builtin", {}, 2, "builtin is an encoder with no head to rank by"),
        (three, {"depth": 1}, 2, "--depth is 1"),
        (three, {"threads": -1}, 2, "--threads is -1: expected 0 or more"),
        ("owner/name", {}, 2, "neither a folder nor in the hub's cache"),
        (three, {"output": kept.with_suffix("")}, 2, "would put its PyTorch weights into"),
        (artifact, {"output": artifact}, 2, "would be replaced by what is made of it"),
        (listed, {}, 1, "can't be read as a model"),
        (untyped, {}, 1, "...): expected a Hugging Face folder"),
        (corpus, {}, 2, f"error: {corpus} is no model: expected a folder with config.json"),
        (artifact, {"output": artifact, "max_length": 8}, 2, "--max_length is 8: expected 16 or more"),
        (three, {"cache": three / "config.json"}, 2, "config.json is a file: expected a folder"),
        (two, {"max_length": 79}, 2, "--max_length is 79: the base has 78 positions"),
    ):
        output = more.pop("output", tmp_path / "out")
        assert main([str(model), *options(corpus, tmp_path, output, **more)]) == status
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert not (tmp_path / "out").exists()
    assert (kept / "notes.md").read_text() == "mine"

"""The fine-tuning recipe: from documents alone to an artifact, and a guard against training that harms."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import WORDS
from flashranker import Reranker
from flashranker.artifact import read_manifest
from test_distill import write_corpus, write_lines
from test_documents import write_documents

from export.verify import Gate
from recipes.finetune import FinetuneConfig, main, notices_of
from recipes.finish import remedies
from recipes.measure import quality_gates
from recipes.settings import MeasuringConfig
from training.train import TrainingResult

BELOW = "int8 - first stage, MRR@10"
SMALL = [
    "--depth", "12", "--candidates", "4", "--max_length", "64", "--train_length", "64", "--queries_per_step", "4",
    "--threads", "1", "--precision", "fp32", "--parity_queries", "10",
]  # fmt: skip


def test_documents_alone_end_in_an_artifact_that_says_so(
    calm_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder, output = write_documents(tmp_path / "docs", 200), tmp_path / "tuned"
    command = ["--documents", str(folder), "--base", str(calm_checkpoint), "--output", str(output), *SMALL]
    # A rate this small leaves the order of the base as it was, which is no worse than it.
    done = main([*command, "--cache", str(tmp_path / "cache"), "--learning_rate", "1e-9", "--gate", "report"])
    said = capsys.readouterr().err
    assert done == 0, said
    # The student is its base, byte for byte, and PyTorch ranks the test queries once for both.
    assert said.count("PyTorch: 100%") == 1
    manifest = read_manifest(output)
    assert list(manifest.metrics) == sorted(["first stage", "base", "student", "fp32", "int8"])
    assert manifest.metrics["base"] == manifest.metrics["student"]
    compared = {gate["name"]: gate["value"] for gate in manifest.gates if gate["name"].startswith("student - base")}
    assert compared == {"student - base, nDCG@10": 0.0, "student - base, MRR@10": 0.0}
    assert any("synthetic queries" in notice for notice in manifest.notices)
    assert "teacher" not in manifest.lineage
    assert set(manifest.lineage["data"]["read"]) == {"together"}
    assert manifest.lineage["data"]["precision"] == "fp32"
    assert "synthetic queries" in (output / "README.md").read_text(encoding="utf-8")
    assert len(Reranker(output).rerank("river bridge", ["river", "coffee"])) == 2


def test_training_that_harms_is_refused_and_the_old_artifact_stays(
    bi_encoder: Path, tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    corpus, output = write_corpus(tmp_path / "corpus"), tmp_path / "tuned"
    shutil.copytree(tiny_artifact, output)
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    # Train and dev call the passage relevant that shares the fewest words with the query; the test queries do not.
    passages, texts = (
        {record["id"]: set(record["text"].split()) for record in map(json.loads, file.read_text().splitlines())}
        for file in (corpus / "corpus.jsonl", corpus / "queries.jsonl")
    )
    for split, numbers in (("train", range(48)), ("dev", range(48, 72))):
        rows = []
        for i in numbers:
            # One of BM25's candidates, that is with a word in common, but with one only.
            worst = next(p for p in passages if len(passages[p] & texts[f"q{i}"]) == 1 and int(p[1:]) in numbers)
            rows.append(f"q{i}\t{worst}\t1")
        (corpus / f"qrels.{split}.tsv").write_text("\n".join(["query\tpassage\tgrade", *rows]) + "\n")
    command = ["--data", str(corpus), "--base", str(bi_encoder), "--output", str(output), *SMALL, "--gate", "report"]
    training = ["--learning_rate", "0.01", "--apart_queries", "0", "--dev_queries", "24"]
    assert main([*command, *training, "--cache", str(tmp_path / "cache")]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("refused: ")
    assert "student - base, MRR@10: -0." in error
    # --gate report was given, and --apart_queries 0.
    assert error.endswith(
        "; a lower --learning_rate, or a --dev that tells more, may help"
        "; more training queries, or a better --teacher, may help"
    )
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    assert not output.with_name("tuned.checkpoint").exists()


@pytest.mark.parametrize(
    ("given", "dev", "said"),
    [
        ({"documents": Path("d")}, None, ["Trained, chosen and measured on synthetic queries"]),
        ({"documents": Path("d"), "eval": "real"}, None, ["Trained and chosen on synthetic queries"]),
        ({"documents": Path("d"), "eval": "real"}, "real", ["Trained on synthetic queries"]),
        ({"data": ["a"]}, None, []),
    ],
)
def test_a_card_says_which_queries_nobody_asked(given: dict[str, Any], dev: str | None, said: list[str]) -> None:
    notices = notices_of(FinetuneConfig(**given), MeasuringConfig(dev=dev))
    assert [notice.partition(", made")[0] for notice in notices] == said


def test_the_gates_of_a_base_by_hand() -> None:
    judgments = {"q": {"a": 1}, "r": {"b": 1}}
    right, wrong = {"a": 2.0, "b": 1.0}, {"a": 1.0, "b": 2.0}
    runs = {
        "first stage": {"q": right, "r": right}, "int8": {"q": right, "r": right},
        "base": {"q": right, "r": wrong}, "student": {"q": right, "r": right},
    }  # fmt: skip
    trained = TrainingResult(Path(), {"together": [(1, 0.5)]}, [(0, 0.5), (1, 0.75)], 0.75, {"together": 8})
    gates = {gate.name: gate for gate in quality_gates(runs, judgments, trained, 24)}
    # The base puts both relevant passages first, the student one of them second: MRR@10 1 against 0.75.
    assert gates["student - base, MRR@10"].value == pytest.approx(-0.25)
    assert gates["student - base, nDCG@10"].value == pytest.approx((1 / np.log2(3) - 1) / 2)
    assert not gates["student - base, MRR@10"].passed
    assert gates["int8 - first stage, MRR@10"].value == 0.0
    del runs["base"]
    assert not any("base" in gate.name for gate in quality_gates(runs, judgments, trained, 24))


def test_a_refusal_says_what_helps_against_the_gates_that_refused() -> None:
    trained = TrainingResult(Path(), {}, [], 0.5, {})

    def gates(*failed: str) -> list[Gate]:
        return [Gate(name, 0.0, 0.0, name not in failed, "", "") for name in ("size", BELOW, "int8 nDCG@10")]

    assert remedies(gates(BELOW), None, False) == "; --gate report publishes it all the same"
    assert remedies(gates(BELOW, "int8 nDCG@10"), trained, True).startswith("; a higher --int8_tau")
    both = remedies(gates(BELOW, "int8 nDCG@10"), trained, False)
    assert [part in both for part in ("more training queries", "--int8_tau", "--gate report")] == [True, True, False]
    assert remedies(gates("size"), trained, False) == ""
    read = replace(trained, read={"imitating": 64, "apart": 32})
    assert remedies([Gate("student - its start, dev MRR@10", -0.1, 0.0, False, "", "")], read, True).startswith(
        "; a lower --imitation_rate or --apart_rate, or a --dev that tells more, may help"
    )


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ([], "expected either --data or --documents"),
        (["--data", "pydocs", "--documents", "docs"], "expected either --data or --documents"),
        (["--documents", "no/such/folder"], "no/such/folder': no such folder"),
        (["--data", "no/such/folder"], "no/such/folder' is no folder"),
        (["--documents", "no/such/folder", "--eval", "no/eval"], "data source 'no/eval' is no folder"),
        (["--data", "caf\udce9"], "'caf\\udce9' is not UTF-8: rename that file or folder"),
        (
            ["--data", "pydocs", "--base", "~nobody-of-that-name/m"],
            "model folder '~nobody-of-that-name/m' does not exist",
        ),
        (["--data", "pydocs", "--test_share", "0.9"], "--test_share is 0.9: expected above 0 to 0.8"),
        (["--data", "pydocs", "--threads", "-1"], "--threads is -1: expected 0 or more"),
        (["--data", "pydocs", "--teacher", "no/such"], "model 'no/such' is neither a folder nor in"),
        (["--data", "pydocs", "--temperature", "0"], "--temperature is 0.0: expected more than 0"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    options: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main([*options, "--output", str(tmp_path / "out"), "--cache", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert named in error
    assert error.count("\n") == 1


def test_titles_of_few_documents_are_too_few(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "docs").mkdir()
    write_lines(tmp_path / "docs" / "a.txt", [{"id": WORDS[0], "text": WORDS[1]}])
    assert main(["--documents", str(tmp_path / "docs"), "--output", str(tmp_path / "out")]) == 2
    assert "expected 30 or more; add documents" in capsys.readouterr().err

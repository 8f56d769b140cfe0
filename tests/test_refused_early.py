"""What distilling refuses before any work is done for it."""

# ruff: noqa: F811  the fixture

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from test_distill import distil, write_corpus, write_lines  # noqa: F401
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from recipes import finetune


def test_a_query_that_the_artifact_could_not_read_is_named_before_any_work(
    distil: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    lines = [json.loads(line) for line in (corpus / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
    lines[80]["text"] = "river bridge " * 15  # 30 tokens of 32, a quarter of which is the passage's
    write_lines(corpus / "queries.jsonl", lines)
    assert distil(tmp_path / "none", "--data", str(corpus)) == 2
    found = capsys.readouterr()
    assert "corpus, query 'q80': the query has 30 tokens, expected at most 21" in found.err
    assert "2/7" not in found.out


def test_a_query_that_the_students_own_words_make_too_long_is_named_before_training(
    distil: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    lines = [json.loads(line) for line in (corpus / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
    lines[80]["text"] = "riverbridge" * 8
    write_lines(corpus / "queries.jsonl", lines)
    options = ["--data", str(corpus), "--base", "scratch", "--tier", "medium", "--queries_per_step", "8"]
    assert distil(tmp_path / "none", *options) == 2
    found = capsys.readouterr()
    assert "corpus, query 'q80': the query has" in found.err
    assert "3/7" in found.out
    assert "4/7" not in found.out


def test_dev_candidates_of_one_kind_are_named_before_any_work(
    distil: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    rows = [f"q{i}\tp{(i + 1 + j) % 96}\t0" for i in range(96) for j in range(5)]
    (corpus / "candidates.tsv").write_text("\n".join(["query\tpassage\tlabel", *rows]) + "\n", encoding="utf-8")
    assert distil(tmp_path / "none", "--data", str(corpus)) == 2
    found = capsys.readouterr()
    assert "all candidates of the 24 dev queries are irrelevant" in found.err
    assert "2/7" not in found.out


def test_data_with_test_queries_alone_lack_train_and_not_dev(
    distil: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    for split in ("train", "dev"):
        (corpus / f"qrels.{split}.tsv").unlink()
    assert distil(tmp_path / "none", "--data", str(corpus)) == 2
    assert "corpus: split 'train' has no query with a relevant passage (queries: train 0, " in capsys.readouterr().err


def test_an_output_that_is_no_artifact_is_refused_before_any_work(
    distil: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "thesis"
    output.mkdir()
    (output / "chapter.txt").write_text("years of work", encoding="utf-8")
    assert distil(output) == 2
    found = capsys.readouterr()
    assert "exists and is no artifact" in found.err
    assert "1/7" not in found.out
    assert (output / "chapter.txt").read_text(encoding="utf-8") == "years of work"


def test_an_output_where_nothing_can_be_is_refused_before_any_work(
    distil: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for output in (tmp_path / "file" / "tiny", Path("/proc/none/tiny")):
        assert distil(output, cache=tmp_path / "cache") == 2
        found = capsys.readouterr()
        assert found.err.startswith(f"error: --output {output}: {output.parent} can't be written (")
        assert "1/7" not in found.out


@pytest.mark.parametrize("option", ["--dev", "--eval"])
def test_a_source_that_is_not_there_is_named_before_another_is_read(
    distil: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture, option: str
) -> None:
    assert distil(tmp_path / "none", option, "no/data") == 2
    found = capsys.readouterr()
    assert "error: data source 'no/data' is no folder and no file, and HF_HUB_OFFLINE is set" in found.err
    assert "1/7" not in found.out


def test_a_student_beyond_its_tier_is_refused_before_it_is_trained(
    distil: Callable[..., int], calm_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    wide = shutil.copytree(calm_checkpoint, tmp_path / "wide")
    tokenizer = AutoTokenizer.from_pretrained(wide)
    settings = json.loads((wide / "config.json").read_text(encoding="utf-8")) | {"intermediate_size": 100_000}
    (wide / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(wide)).save_pretrained(wide)
    tokenizer.save_pretrained(wide)
    # What is cut is measured when it has been.
    for options, seen, unseen in (([], "", "1/7"), (["--layers", "0"], "3/7", "4/7")):
        assert distil(tmp_path / "none", "--base", str(wide), "--tier", "nano", *options) == 1
        found = capsys.readouterr()
        assert "MB or more in int8, and --tier nano has 5: choose --tier small" in found.err
        assert seen in found.out
        assert unseen not in found.out
    paths = ["--output", str(tmp_path / "none"), "--max_length", "32", "--train_length", "32"]
    assert finetune.main(["--documents", "no/such", "--base", str(wide), "--tier", "nano", *paths]) == 1
    assert "and --tier nano has 5: choose --tier small" in capsys.readouterr().err

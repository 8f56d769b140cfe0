"""The recipe from its command line to the artifact, on a corpus of a few dozen words."""

import errno
import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import WORDS
from flashranker import Reranker
from flashranker.artifact import read_manifest
from safetensors.torch import load_file, save_file

from export.parity import encode_requests, torch_logits
from export.to_onnx import load_checkpoint
from recipes.distill import main
from training.backbone import resolve_model
from training.data import InputError

Corpus = dict[str, list[str]]


def write_corpus(folder: Path) -> Path:
    """96 passages of eight words, and for each a query of three of its words; 48 train, 24 dev, 24 test.

    With fewer queries a single swap of two passages would be a large share of the gate on rank agreement.
    """
    generator = random.Random(5)
    folder.mkdir()
    passages = [generator.sample(WORDS, 8) for _ in range(96)]
    queries = [" ".join(generator.sample(passage, 3)) for passage in passages]
    write_lines(folder / "corpus.jsonl", [{"id": f"p{i}", "text": " ".join(words)} for i, words in enumerate(passages)])
    write_lines(folder / "queries.jsonl", [{"id": f"q{i}", "text": text} for i, text in enumerate(queries)])
    for split, numbers in (("train", range(48)), ("dev", range(48, 72)), ("test", range(72, 96))):
        rows = [f"q{i}\tp{i}\t1" for i in numbers]
        (folder / f"qrels.{split}.tsv").write_text("\n".join(["query\tpassage\tgrade", *rows]) + "\n", encoding="utf-8")
    return folder


def write_lines(path: Path, records: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def write_teacher(path: Path) -> Path:
    """A teacher who knows: 4 for the relevant passage, -4 for the others."""
    rows = [f"q{i}\tp{j}\t{4.0 if i == j else -4.0}" for i in range(96) for j in range(96)]
    path.write_text("\n".join(["query_id\tpassage_id\tscore", *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def distil(calm_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., int]:
    """Run the recipe on the miniature with more options behind the usual ones."""
    folder = tmp_path_factory.mktemp("recipe")
    corpus, teacher = write_corpus(folder / "corpus"), write_teacher(folder / "teacher.tsv")

    def run(output: Path, *more: str, cache: Path | None = None) -> int:
        settings = {
            "data": corpus, "teacher": teacher, "base": calm_checkpoint, "output": output,
            "cache": cache or output.parent / "cache", "depth": 12, "candidates": 4, "evaluations": 2,
            "max_length": 32, "train_length": 32, "learning_rate": 1e-3, "queries_per_step": 4, "threads": 1,
        }  # fmt: skip
        options = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        return main([*options, *more])

    return run


def test_report_publishes_a_folder_that_says_what_it_is(distil: Callable[..., int], tmp_path: Path) -> None:
    output = tmp_path / "tiny"
    assert distil(output, "--gate", "report", "--parity_queries", "10") == 0
    manifest = read_manifest(output)
    # fp32 scores every third of the 24 held-out queries.
    queries = {stage: values["MRR@10"]["queries"] for stage, values in manifest.metrics.items()}
    assert queries == {"first stage": 24, "teacher": 24, "student": 24, "fp32": 8, "int8": 24}
    assert 0 < manifest.lineage["run"]["seconds"] < 600
    assert 100 < manifest.lineage["run"]["peak memory in MB"] < 20_000
    assert manifest.metrics["teacher"]["MRR@10"]["mean"] == 1.0
    assert Path(manifest.lineage["teacher"]["name"]).name == "teacher.tsv"
    (parity,) = (gate for gate in manifest.gates if gate["name"] == "fp32 parity")
    assert parity["message"].endswith(f"over {manifest.parity['pairs'] // 3} pairs")
    failed = [gate["name"] for gate in manifest.gates if not gate["passed"]]
    assert all("first stage" in name for name in failed)
    assert len(manifest.notices) == len(failed)
    assert len(Reranker(output).rerank("river bridge", ["river", "coffee"])) == 2
    page = (tmp_path / "tiny.report.html").read_text(encoding="utf-8")
    assert f"{manifest.metrics['int8']['MRR@10']['mean']:.4f}"[:5] in page
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".tiny")]

    weights = (output / "onnx/model.onnx").read_bytes()
    again = tmp_path / "second" / "tiny"
    # Its own cache: everything is computed anew.
    assert distil(again, "--gate", "report", "--parity_queries", "10") == 0
    assert (again / "onnx/model.onnx").read_bytes() == weights


def test_manifest_and_card_say_which_first_stage_it_was(
    distil: Callable[..., int], bi_encoder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "tiny"
    options = ["--first_stage", "dense", "--retriever", str(bi_encoder), "--gate", "report"]
    # Dense candidates score so near each other that one swap, by the processor's roundings, decides int8's gates.
    if distil(output, *options, "--profile", "dot-product") == 1:
        output = tmp_path / ".tiny.staging"
        failed = {gate["name"] for gate in read_manifest(output).gates if not gate["passed"]}
        assert failed <= {
            "int8 Kendall tau",
            "int8 nDCG@10",
            "int8 - first stage, nDCG@10",
            "int8 - first stage, MRR@10",
        }
    assert read_manifest(output).quantization["profile"] == "dot-product"
    lineage, name = read_manifest(output).lineage, f"dense ({bi_encoder})"
    assert [lineage[part]["first stage"] for part in ("data", "measured on")] == [name, name]
    assert (output / "README.md").read_text(encoding="utf-8").count(f"- first stage: {name}") == 2


def test_an_artifact_as_a_base_is_the_checkpoint_beside_it(distil: Callable[..., int], tmp_path: Path) -> None:
    output = tmp_path / "tiny"
    assert distil(output, "--gate", "report") == 0
    (fp32,) = (tmp_path / "cache/runs").glob("*/fp32")
    requests = [("river", [" ".join(WORDS[i : i + 8]) for i in range(12)])]
    checkpoint = resolve_model(str(output))
    assert checkpoint == tmp_path / "tiny.checkpoint"
    (logits,) = torch_logits(load_checkpoint(checkpoint), encode_requests(output, requests, 32))
    assert Reranker(fp32).score(*requests[0]) == pytest.approx(logits, abs=1e-4)
    shutil.rmtree(checkpoint)
    with pytest.raises(InputError, match=r"tiny is an artifact, which holds no PyTorch weights, and .*\.checkpoint is"):
        resolve_model(str(output))


def test_layers_of_the_base_are_chosen(distil: Callable[..., int], calm_checkpoint: Path, tmp_path: Path) -> None:
    distil(tmp_path / "tiny", "--layers", "1")
    (start,) = (tmp_path / "cache/runs").glob("*/start/model.safetensors")
    kept, base = load_file(start), load_file(calm_checkpoint / "model.safetensors")
    name = "bert.encoder.layer.{}.output.dense.weight"
    assert torch.equal(kept[name.format(0)], base[name.format(1)])
    assert name.format(1) not in kept


def test_a_base_that_changed_in_place_is_trained_anew(
    distil: Callable[..., int], calm_checkpoint: Path, tmp_path: Path
) -> None:
    base, output = tmp_path / "base", tmp_path / "tiny"
    shutil.copytree(calm_checkpoint, base)
    distil(output, "--base", str(base))  # whether it passes its gates does not matter here
    (first,) = (tmp_path / "cache/runs").iterdir()
    weights = load_file(base / "model.safetensors")
    weights["bert.encoder.layer.0.output.dense.weight"] *= -1
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    distil(output, "--base", str(base))
    (second,) = set((tmp_path / "cache/runs").iterdir()) - {first}
    trained = [load_file(folder / "together/best/model.safetensors") for folder in (first, second)]
    assert not torch.equal(*(weights["bert.encoder.layer.0.output.dense.weight"] for weights in trained))


def test_official_judgments_of_passages_that_the_eval_folder_lacks_count_in_its_ideal(
    distil: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    corpus, output = write_corpus(tmp_path / "pool"), tmp_path / "tiny"
    for split in ("train", "dev"):
        (corpus / f"qrels.{split}.tsv").unlink()
    rows = "".join(f"q{i}\tabsent{i}\t1\n" for i in range(72, 96))
    with (corpus / "qrels.test.tsv").open("a", encoding="utf-8") as judgments:
        judgments.write(rows)
    assert distil(output, "--gate", "report", "--eval", str(corpus)) == 0
    assert "24 judged passages are not in pool" in capsys.readouterr().out
    # A perfect ranking of what is there: 1 of an ideal 1 + 1 / log2(3).
    assert read_manifest(output).metrics["teacher"]["nDCG@10"]["mean"] == pytest.approx(1 / (1 + 1 / math.log2(3)))


def test_a_failed_gate_leaves_no_artifact(
    distil: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "refused"
    # A random model of two layers, trained for one step, cannot beat BM25 on queries made of a passage's own words.
    assert distil(output, "--limit", "4") == 1
    assert not output.exists()
    error = capsys.readouterr().err
    assert "first stage" in error
    assert error.endswith(
        "; more training queries, or a better --teacher, may help; --gate report publishes it all the same\n"
    )


def test_a_t5_from_scratch_goes_the_whole_way(distil: Callable[..., int], tmp_path: Path) -> None:
    output = tmp_path / "t5"
    assert distil(output, "--tier", "medium", "--base", "scratch", "--gate", "report", "--int8_tau", "0.98") == 0
    manifest = read_manifest(output)
    assert manifest.lineage["base"]["start"] == "2 random T5 layers on a table of words taught by builtin"
    assert all(gate["passed"] for gate in manifest.gates if "first stage" not in gate["name"])
    assert len(Reranker(output).rerank("falcon winter", ["a river", "a falcon"])) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "no/such/folder"], "no/such/folder"),
        (["--limit", "0"], "--limit is 0"),
        (["--parity_queries", "0"], "--parity_queries is 0"),
        (["--candidates", "1"], "--candidates is 1"),
        (["--threads", "-1"], "--threads is -1: expected 0 or more"),
        (["--depth", "1"], "--depth is 1: expected 2 or more"),
        (["--evaluations", "0"], "--evaluations is 0"),
        (["--temperature", "0"], "--temperature is 0.0: expected more than 0"),
        (["--learning_rate", "nan"], "--learning_rate is nan"),
        (["--max_length", "8"], "--max_length is 8: expected 16 or more"),
        (["--max_length", "100"], "--max_length is 100: the base has 64 positions"),
        (["--train_length", "100"], "--train_length is 100: the base has 64 positions"),
        (["--teacher_pool", "3"], "--teacher_pool is 3: expected 0, or 4 (--candidates) or more"),
        (["--false_negative_margin", "nan"], "--false_negative_margin is nan"),
        (["--false_negative_margin", "100"], "none has 3 negatives at least 100.0 below its relevant passage"),
        (["--gbce", "-1"], "--gbce is -1.0: expected 0 or more"),
        (["--gbce_calibration", "1.5"], "--gbce_calibration is 1.5: expected 0 to 1"),
        (["--random_share", "2"], "--random_share is 2"),
        (["--base", "nobody/no-such-model"], "nobody/no-such-model"),
        (["--teacher", "nobody/no-such-model"], "nobody/no-such-model"),
        (["--teacher", "absent.tsv"], "absent.tsv"),
        (["--layers", "2"], "--layers is 2: the base"),
        (["--tier", "nano", "--base", "builtin", "--layers", "2", "0"], "--layers 2 0: a projection takes rising ones"),
        (["--base", "scratch", "--layers", "0"], "--base scratch has a size and words of its own"),
        (["--tier", "medium", "--base", "builtin"], "can't become this tier: expected --base google/flan-t5-base"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    distil: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture, options: list[str], message: str
) -> None:
    output = tmp_path / "none"
    assert distil(output, *options) == 2
    found = capsys.readouterr()
    lines = [line for line in found.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "2/7" not in found.out or "negatives at least" in message
    assert not output.exists()
    assert not (tmp_path / "cache").exists()  # before any work


def test_a_broken_corpus_names_file_and_line(
    distil: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    judgments = corpus / "qrels.dev.tsv"
    for file, old, new, named in (
        (judgments, "q53\tp53", "q53\tnobody", "qrels.dev.tsv"),
        (corpus / "corpus.jsonl", '"id": "p2"', '"id": "p1"', "corpus.jsonl"),
        (corpus / "queries.jsonl", '"id": "q3"', '"id": "q4"', "queries.jsonl"),
        (corpus / "corpus.jsonl", '"text": "', '"text": "", "was": "', "corpus.jsonl"),
    ):
        good = file.read_text(encoding="utf-8")
        file.write_text(good.replace(old, new, 1), encoding="utf-8")
        assert distil(tmp_path / "none", "--data", str(corpus)) == 2
        assert named in capsys.readouterr().err
        file.write_text(good, encoding="utf-8")


def test_a_teacher_with_a_nan_is_named(
    distil: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    teacher = write_teacher(tmp_path / "teacher.tsv")
    teacher.write_text(teacher.read_text(encoding="utf-8").replace("q3\tp3\t4.0", "q3\tp3\tnan", 1), encoding="utf-8")
    assert distil(tmp_path / "none", "--teacher", str(teacher)) == 2
    assert "teacher.tsv" in capsys.readouterr().err


def test_a_full_disk_is_one_line(
    distil: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert distil(tmp_path / "none", "--gate", "report") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()

"""What can be measured: each kind of model ranks as it should, and everything else is refused in one line."""

import json
import shutil
from hashlib import sha256
from pathlib import Path

import onnx
import pytest
from conftest import Evaluate, make_ranking, write_data, write_lines
from sentence_transformers import SentenceTransformer, util

from recipes.evaluate import main
from recipes.rankers import content_hash, find_model
from training.metrics import evaluate


def test_artifact_onnx_folder_and_checkpoint_of_the_same_weights_give_the_same_table(
    measure: Evaluate, tiny_artifact: Path, tiny_checkpoint: Path, bi_encoder: Path, tmp_path: Path
) -> None:
    grades, candidates = make_ranking(5, queries=8)
    data = write_data(tmp_path / "data", grades, candidates)
    foreign = shutil.copytree(tiny_artifact, tmp_path / "foreign")
    (foreign / "flashranker.json").unlink()
    results = measure(tiny_artifact, foreign, f"pytorch={tiny_checkpoint}", f"bi={bi_encoder}", "--data", data)
    kinds = {name: model["kind"] for name, model in results["models"].items()}
    assert kinds == {"tiny": "artifact", "foreign": "ONNX folder", "pytorch": "checkpoint", "bi": "checkpoint"}
    hashes = {name: model["sha256"] for name, model in results["models"].items()}
    onnx = sha256((tiny_artifact / "onnx/model.onnx").read_bytes()).hexdigest()
    assert hashes["tiny"] == hashes["foreign"] == onnx
    assert len(set(hashes.values())) == 3
    for rows in results["data"]["data"]["measures"].values():
        assert rows["tiny"]["by query"] == rows["foreign"]["by query"] == rows["pytorch"]["by query"]
    ndcg = results["data"]["data"]["measures"]["nDCG@10"]
    assert ndcg["tiny"]["by query"] != ndcg["first stage"]["by query"]
    assert ndcg["pytorch"]["minus"]["tiny"]["p (Holm)"] == 1.0
    # The bi-encoder's order by its own library.
    texts = {record["id"]: record["text"] for record in map(json.loads, (data / "corpus.jsonl").open(encoding="utf-8"))}
    queries = {record["id"]: record["text"] for record in map(json.loads, (data / "queries.jsonl").open("rb"))}
    model = SentenceTransformer(str(bi_encoder))
    run = {
        query: {i: float(util.cos_sim(model.encode(queries[query]), model.encode(texts[i]))) for i in ids}
        for query, ids in candidates.items()
    }
    assert ndcg["bi"]["by query"] == pytest.approx(evaluate(run, grades)["nDCG@10"])


def test_weights_beside_a_graph_are_part_of_what_ranks(tiny_artifact: Path, tmp_path: Path) -> None:
    shutil.copyfile(tiny_artifact / "tokenizer.json", tmp_path / "tokenizer.json")
    model = onnx.load(tiny_artifact / "onnx/model.onnx")
    onnx.save_model(model, tmp_path / "model.onnx", save_as_external_data=True, location="all.bin", size_threshold=64)
    found = find_model(str(tmp_path))
    before = content_hash(found)
    blob = bytearray((tmp_path / "all.bin").read_bytes())
    blob[-1] ^= 1
    (tmp_path / "all.bin").write_bytes(blob)
    assert found.kind == "ONNX folder"
    assert content_hash(found) != before


def test_scores_are_kept_and_tokens_bounded(
    measure: Evaluate, tiny_artifact: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    grades, candidates = make_ranking(5, queries=8)
    data = write_data(tmp_path / "data", grades, candidates)
    options = (tiny_artifact, f"pytorch={tiny_checkpoint}", "--data", data, "--max-length", 16)
    rows = measure(*options)["data"]["data"]["measures"]["nDCG@10"]
    # Of a pair of 3 and 16 words, [CLS] and two [SEP], the first 16 tokens leave 10 words of the passage.
    assert rows["tiny"]["by query"] == rows["pytorch"]["by query"]
    full = measure(*options[:-2])["data"]["data"]["measures"]["nDCG@10"]
    assert full["tiny"]["by query"] != rows["tiny"]["by query"]
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "teacher").rglob("*.parquet")}
    assert measure(*options)["data"]["data"]["measures"]["nDCG@10"] == rows
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "teacher").rglob("*.parquet")} == kept
    assert (tmp_path / "cache" / "scores.sqlite").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/such/folder"], "model folder 'no/such/folder' does not exist: pass an existing folder"),
        (["my/own/teacher-mini"], "model folder 'my/own/teacher-mini' does not exist"),
        (["{run}", "--test_share", "0.9"], "--test_share is 0.9: expected above 0 to 0.8"),
        (["gone.trec"], "there is no run file 'gone.trec'"),
        (["x="], "does not exist"),
        (["{data}"], "{data} holds no model: expected an artifact, a checkpoint"),
        (["{run}", "{run}"], "'better' and 'better' would be one name: call one of them otherwise, NAME=MODEL"),
        (["First-Stage={run}"], "'first stage' and 'First-Stage' would be one name"),
        (["{run}", "--data", "no/data"], "data source 'no/data' is no folder"),
        (["{run}", "--data", "{data}", "{data}"], "'tiny' and 'tiny' would be one name: call one of them otherwise"),
        (["{run}", "--measures", "nDGC@10"], "unknown measure 'nDGC@10'"),
        (["~nobody-of-this-name/model"], "model folder '~nobody-of-this-name/model' does not exist"),
        (["{run}", "--depth", "-1"], "--depth is -1: expected 0 or more"),
        (["{run}", "--threads", "-1"], "--threads is -1: expected 0 or more"),
        (["{run}", "--relevant-grade", "0"], "--relevant_grade is 0: expected 1 or more"),
        (["{other}"], "other.run:1: query 'unknown' is in none of the data"),
        (["{run}", "--data", "{none}", "--split", "dev"], "no query of split 'dev' has a judgment above 0"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str], message: str, tiny_ranking: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "other.run").write_text("unknown Q0 a 1 1 tag\n", encoding="utf-8")
    none = write_data(tmp_path / "none", {"q1": {"a": 1}}, {"q1": ["a"]})
    write_lines(none / "queries.jsonl", [{"id": "q1", "text": "river"}, {"id": "q2", "text": "bread"}])
    (none / "qrels.dev.tsv").write_text("query\tpassage\tgrade\nq2\ta\t0\n", encoding="utf-8")
    places = {"data": tiny_ranking[0], "run": tiny_ranking[1], "other": tmp_path / "other.run", "none": none}
    given = [one.format(**places) for one in arguments]
    given += [] if "--data" in given else ["--data", str(tiny_ranking[0])]
    assert main([*given, "--output", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message.format(**places) in error
    assert error.strip().count("\n") == 0
    assert not (tmp_path / "out" / "evaluate.json").exists()


def test_an_unknown_option_is_refused_and_help_shows_the_examples(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["builtin", "--metric", "MAP"])
    assert "unrecognized arguments: --metric" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = capsys.readouterr().out.split("\n")
    example = "python -m recipes.evaluate artifacts/small builtin --data A B C"
    assert f"{example}           # three folders: a zero-shot table too" in shown
    assert any("(default: 512)" in line for line in shown)

"""Measuring any model: tables worked out by hand, other tools' numbers on the same files, planted answers."""

import json
import math
import random
import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import ir_measures
import pytest
from conftest import Evaluate, make_ranking, write_data, write_ranking

SHARED = Path(__file__).parents[2] / "shared" / "data"
ALL = "There is no split 'test': all 5 judged queries are those to measure."
LEARNED = "trained learned from 3 of these queries, if trained on this very data."
CHOSEN = "trained was chosen, quantized and calibrated on some of these queries."


def means(results: Mapping[str, Any], model: str, data: str = "tiny") -> dict[str, float]:
    return {measure: rows[model]["mean"] for measure, rows in results["data"][data]["measures"].items()}


def test_a_table_worked_out_by_hand(
    measure: Evaluate, tiny_ranking: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    results = measure(tiny_ranking[1], "--data", tiny_ranking[0])
    ndcg = (1 / math.log2(3) + 2 / math.log2(4)) / (2 + 1 / math.log2(3)), 1 / math.log2(3)
    first = {"nDCG@10": sum(ndcg) / 3, "MRR@10": 1 / 3, "MAP": (1 / 2 + 2 / 3) / 2 / 3 + 1 / 6, "Recall@100": 2 / 3}
    assert means(results, "first stage") == pytest.approx(first)
    assert means(results, "better") == pytest.approx(dict.fromkeys(first, 2 / 3))
    data = results["data"]["tiny"]
    row = data["measures"]["MRR@10"]["better"]
    assert row["by query"] == {"q1": 1.0, "q2": 1.0, "q3": 0.0}
    # Two queries differ, so two of the four sign flips are as extreme as what was seen.
    found = row["minus"]["first stage"]
    assert (found["difference"], found["p"], found["p (Holm)"]) == pytest.approx((1 / 3, 0.5, 0.5))
    assert (found["better"], found["worse"]) == (2, 0)
    assert [*row["minus"]] == ["first stage"]
    assert (data["queries"], data["pairs"], data["first stage"]) == (3, 5, "candidates.tsv")
    assert data["notes"] == [
        "1 of 4 queries have nothing relevant: left out.",
        "1 of 4 judged passages are not in the corpus: ideal rankings count them.",
        "1 queries have no candidates and count 0.",
        "better does not rank 1 of the queries, which count 0.",
    ]
    shown = capsys.readouterr().out
    assert "\nbetter       3        0.6667 (0.0000 to 1.0000)" in shown
    assert "better - first stage  MRR@10      +0.3333" in shown
    assert "paired randomization test" in shown
    page = (tmp_path / "out" / "evaluate.html").read_text(encoding="utf-8")
    assert all(text in page for text in ("0.6667 (0.0000 to 1.0000)", "better (2)", "better - first stage"))
    assert "http" not in page.replace("http-equiv", "")
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    runs = ["runs/tiny.better.trec", "runs/tiny.first-stage.trec"]
    assert written == ["evaluate.html", "evaluate.json", *runs]
    assert (tmp_path / "out" / runs[1]).read_text(encoding="utf-8").split("\n")[0] == "q1 Q0 n 1 3.0 first-stage"


def test_a_least_relevant_grade(measure: Evaluate, tiny_ranking: tuple[Path, Path]) -> None:
    results = measure(
        tiny_ranking[1], "--data", tiny_ranking[0], "--relevant-grade", 2, "--measures", "MRR@10", "nDCG@10", "MAP"
    )
    assert means(results, "better") == pytest.approx({"MRR@10": 1 / 3, "nDCG@10": 2 / 3, "MAP": 1 / 3})
    assert means(results, "first stage")["MRR@10"] == pytest.approx(1 / 9)
    assert results["data"]["tiny"]["notes"][-2] == "Grades from 2 up count as relevant in MRR@10, MAP."


def test_depth_bounds_what_is_reranked(measure: Evaluate, tiny_ranking: tuple[Path, Path], tiny_artifact: Path) -> None:
    for depth, pairs, recall in ((2, 4, (1 / 2 + 1) / 3), (1, 2, 0.0), (0, 5, 2 / 3)):
        results = measure(tiny_artifact, "--data", tiny_ranking[0], "--depth", depth)
        assert results["data"]["tiny"]["pairs"] == pairs
        for model in ("first stage", "tiny"):
            assert means(results, model)["Recall@100"] == pytest.approx(recall)


def test_a_run_file_is_measured_as_ir_measures_does(measure: Evaluate, tmp_path: Path) -> None:
    grades, candidates = make_ranking(1)
    generator = random.Random(7)
    lines = [f"{q} Q0 {p} 1 {generator.random()} tag\n" for q, ids in candidates.items() for p in ids[:9]]
    generator.shuffle(lines)
    (tmp_path / "a.run").write_text("".join(lines), encoding="utf-8")
    names = ["nDCG@10", "RR@10", "AP", "R@5", "P@3", "Rprec", "nDCG", "Judged@10", "RR(rel=2)@10", "Success@1"]
    results = measure(
        tmp_path / "a.run", "--data", write_data(tmp_path / "data", grades, candidates), "--measures", *names
    )
    assert results["models"]["a"]["sha256"] == sha256((tmp_path / "a.run").read_bytes()).hexdigest()
    parsed = [ir_measures.parse_measure(name) for name in names]
    for name, path in (("a", tmp_path / "a.run"), ("first stage", tmp_path / "out/runs/data.first-stage.trec")):
        for metric in ir_measures.iter_calc(parsed, grades, ir_measures.read_trec_run(str(path))):
            found = results["data"]["data"]["measures"][names[parsed.index(metric.measure)]][name]
            assert found["by query"][metric.query_id] == pytest.approx(metric.value), (name, metric)


def test_a_planted_better_model_wins_and_a_shuffled_control_does_not(measure: Evaluate, tmp_path: Path) -> None:
    grades, candidates = make_ranking(3)
    generator = random.Random(9)
    planted, control = {}, {}
    for query, ids in candidates.items():
        noise = {passage: generator.gauss(0, 1.2) for passage in ids}
        planted[query] = sorted(ids, key=lambda p: -grades[query].get(p, 0) + noise[p])
        control[query] = generator.sample(ids, len(ids))
    data = write_data(tmp_path / "data", grades, candidates)
    runs = [write_ranking(tmp_path / f"{name}.run", one) for name, one in (("planted", planted), ("control", control))]
    results = measure(*runs, "--data", data)
    for rows in (results["data"]["data"]["measures"][name] for name in ("nDCG@10", "MRR@10", "MAP")):
        won, lost = rows["planted"]["minus"]["first stage"], rows["control"]["minus"]["first stage"]
        assert won["low"] > 0.05
        assert won["p (Holm)"] == pytest.approx(2 * won["p"])
        assert won["p (Holm)"] < 0.005
        assert lost["low"] < 0 < lost["high"]
        assert lost["p (Holm)"] == lost["p"] > 0.05
        against = rows["control"]["minus"]["planted"]
        assert against["high"] < -0.05
        assert against["p (Holm)"] == against["p"] < 0.005
        assert [*rows["planted"]["minus"]] == ["first stage"]


def test_several_data_sets_give_a_zero_shot_table(
    measure: Evaluate,
    tiny_ranking: tuple[Path, Path],
    tiny_artifact: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    other = write_data(tmp_path / "second", {"k1": {"c": 1}}, {"k1": ["d", "c"]})
    results = measure(
        tiny_artifact, tiny_ranking[1], "--data", tiny_ranking[0], f"other={other}", "--measures", "MRR@10"
    )
    table = results["zero-shot"]["MRR@10"]
    assert table["first stage"]["sets"] == pytest.approx({"tiny": 1 / 3, "other": 1 / 2})
    assert table["first stage"]["mean"] == pytest.approx(5 / 12)
    ours = table["tiny"]["sets"]
    assert table["tiny"]["mean"] == pytest.approx((ours["tiny"] + ours["other"]) / 2)
    assert table["better"] == {"sets": {"tiny": pytest.approx(2 / 3)}, "mean": None}
    assert results["data"]["other"]["notes"] == [
        "better has no row: its run ranks none of these queries, or is another set's."
    ]
    lines = capsys.readouterr().out.split("\n")
    assert [line.split() for line in lines if line.startswith("better  ")][-1] == ["better", "0.6667", "-", "-"]
    page = (tmp_path / "out" / "evaluate.html").read_text(encoding="utf-8")
    assert "mean over sets" in page
    assert (tmp_path / "out" / "runs" / "other.tiny.trec").is_file()


def test_without_the_split_all_judged_queries_are_measured_or_the_made_split(
    measure: Evaluate, tmp_path: Path, tiny_artifact: Path
) -> None:
    grades, candidates = make_ranking(4, queries=40)
    data = write_data(tmp_path / "data", grades, candidates, split="")
    found = measure(tiny_artifact, "--data", data)["data"]["data"]
    assert found["queries"] == 40
    assert found["notes"] == ["There is no split 'test': all 40 judged queries are those to measure."]
    made = measure(tiny_artifact, "--data", data, "--unsplit", "split")["data"]["data"]
    assert (made["queries"], made["notes"]) == (4, [])
    drawn = {}
    for limit, seed in ((5, 0), (10, 0), (5, 1)):
        limited = measure(tiny_artifact, "--data", data, "--limit", limit, "--seed", seed)["data"]["data"]
        drawn[limit, seed] = set(limited["measures"]["MAP"]["tiny"]["by query"])
        assert limited["queries"] == limit
    assert drawn[5, 0] < drawn[10, 0]
    assert drawn[5, 0] != drawn[5, 1]
    manifest = json.loads((tiny_artifact / "flashranker.json").read_text(encoding="utf-8"))
    trained = shutil.copytree(tiny_artifact, tmp_path / "trained")
    manifest["lineage"] = {"data": {"name": "data"}}
    (trained / "flashranker.json").write_text(json.dumps(manifest), encoding="utf-8")
    notes = measure(trained, "--data", data)["data"]["data"]["notes"]
    assert notes[1].startswith("trained learned from most of these queries, if trained on this very data: --unsplit")
    manifest["lineage"] = {"chosen on": {"name": "data"}}
    (trained / "flashranker.json").write_text(json.dumps(manifest), encoding="utf-8")
    notes = measure(trained, tiny_artifact, "--data", data)["data"]["data"]["notes"]
    assert notes[1:] == ["trained was chosen, quantized and calibrated on some of these queries."]


@pytest.mark.parametrize(
    ("lineage", "split", "expected"),
    [
        ({"data": {"name": "data"}}, "train", [LEARNED]),
        ({"data": {"name": "data"}}, "dev", [CHOSEN]),
        ({"data": {"name": "data"}, "chosen on": {"name": "other"}}, "dev", []),
        ({"chosen on": {"name": "data"}}, "dev", [CHOSEN]),
        ({"chosen on": {"name": "data"}}, "train", []),
        ({"data": {"name": "data"}}, "train only", [LEARNED]),
        ({"data": {"name": "data"}}, "test", [ALL, LEARNED, CHOSEN]),
    ],
)  # fmt: skip
def test_queries_that_a_model_has_seen_are_named(
    lineage: dict[str, Any], split: str, expected: list[str], measure: Evaluate, tmp_path: Path, tiny_artifact: Path
) -> None:
    grades, candidates = make_ranking(4, queries=5)
    data = write_data(tmp_path / "data", grades, candidates, split="")
    header, *rows = (data / "qrels.tsv").read_text(encoding="utf-8").splitlines()
    (data / "qrels.tsv").unlink()
    for name, queries in (("train", ("q0", "q1", "q2")), ("dev", ("q3", "q4")))[: 1 if split == "train only" else 2]:
        kept = [header, *(row for row in rows if row.split("\t")[0] in queries), ""]
        (data / f"qrels.{name}.tsv").write_text("\n".join(kept), encoding="utf-8")
    trained = shutil.copytree(tiny_artifact, tmp_path / "trained")
    manifest = json.loads((trained / "flashranker.json").read_text(encoding="utf-8")) | {"lineage": lineage}
    (trained / "flashranker.json").write_text(json.dumps(manifest), encoding="utf-8")
    found = measure(trained, "--data", data, "--split", split.partition(" ")[0])["data"]["data"]
    assert found["notes"] == expected
    assert found["split"] == ("all" if split == "test" else split.partition(" ")[0])
    limited = measure(trained, "--data", data, "--split", "train", "--limit", "2")["data"]["data"]["notes"]
    assert [note for note in limited if "learned" in note] == ([LEARNED.replace("3", "2")] * ("data" in lineage))


def test_a_run_of_one_set_is_none_of_another_whose_queries_and_passages_have_such_names(
    measure: Evaluate, tmp_path: Path
) -> None:
    # Both number their queries; of the passages that the run ranks the second set knows one of three.
    first = write_data(tmp_path / "first", {"1": {"10": 1}, "2": {"20": 1}}, {"1": ["11", "10"], "2": ["21", "20"]})
    second = write_data(tmp_path / "second", {"1": {"10": 1}, "2": {"99": 1}}, {"1": ["10", "98"], "2": ["97", "99"]})
    run = write_ranking(tmp_path / "mine.run", {"1": ["10", "11"], "2": ["20", "21"]})
    results = measure(run, "--data", first, second, "--measures", "MRR@10")
    assert results["zero-shot"]["MRR@10"]["mine"] == {"sets": {"first": 1.0}, "mean": None}
    alone = measure(run, "--data", second, "--measures", "MRR@10")
    assert alone["data"]["second"]["measures"]["MRR@10"]["mine"]["mean"] == pytest.approx(0.5)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"real data sets are not at {SHARED}")
def test_trec_dl_2019_has_its_published_numbers(measure: Evaluate) -> None:
    folder = SHARED / "msmarco-dl19"
    names = ["bm25.top100", "rankvicuna-7b_bm25.rerank", "repllama.top100"]
    results = measure(*(folder / "runs" / f"{name}.run" for name in names), "--data", folder, "--relevant-grade", 2)
    # nDCG@10, MRR@10 and MAP, both with grades from 2 up, of the official judgments; BM25 and RankVicuna as published.
    expected = [(0.5058, 0.7024, 0.2476), (0.6682, 0.8486, 0.3316), (0.7439, 0.9099, 0.4698)]
    for name, values in zip(names, expected, strict=True):
        found = means(results, name, "msmarco-dl19")
        assert [found[measure] for measure in ("nDCG@10", "MRR@10", "MAP")] == pytest.approx(values, abs=6e-5)
    assert means(results, "first stage", "msmarco-dl19") == pytest.approx(means(results, names[0], "msmarco-dl19"))
    assert results["data"]["msmarco-dl19"]["notes"][0].startswith("3,691 of 9,260 judged passages")

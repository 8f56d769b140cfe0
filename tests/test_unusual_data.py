"""Data that are not the example's: what is left out, where copies lie, what is measured, and which bases have heads."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import WORDS, make_tokenizer
from flashranker.artifact import read_manifest, write_manifest
from sentence_transformers import CrossEncoder
from transformers import BertConfig, BertForSequenceClassification

from recipes import measure, stages
from recipes.distill import teacher_runs
from recipes.finetune import FinetuneConfig, as_the_base
from recipes.hold_out import hold_out
from recipes.lineage import licence
from recipes.settings import MeasuringConfig, TrainingConfig, check
from training.backbone import user_path
from training.candidates import BM25_OR_OWN, find_for_training
from training.data import InputError, RankingData
from training.examples import choose_candidates
from training.mixture import apart_from, mix
from training.neighbours import choose_neighbourhoods
from training.prepare import Held, held_out, make_examples
from training.student import build_student
from training.tiers import TIERS


def make_data(queries: int = 20, answered: int = 20, copies: int = 0) -> RankingData:
    """Query qI asks for pI, the first `answered` only; cI are copies of pI in capitals; dev and test have one each."""
    passages = {f"p{i}": f"river number{i} flows" for i in range(queries)}
    passages |= {f"c{i}": f"RIVER  Number{i} flows" for i in range(copies)}
    passages |= {"dev": "stone bridge", "test": "garden wall", "more": "garden gate", "other": "stone wall"}
    asked = {f"q{i}": f"where is number{i}" for i in range(queries)} | {"d": "which bridge", "t": "which garden wall"}
    grades = {f"q{i}": {f"p{i}": int(i < answered)} for i in range(queries)} | {"d": {"dev": 1}, "t": {"test": 1}}
    splits = {"train": [f"q{i}" for i in range(queries)], "dev": ["d"], "test": ["t"]}
    return RankingData("odd", asked, passages, grades, {}, splits, "")


def taught(data: RankingData, folder: Path, teacher: str | None = None, queries: int = 5, candidates: int = 3) -> list:
    """The queries' texts that examples are made of."""
    made = make_examples(
        data, teacher, folder, queries=queries, depth=10, candidates=candidates, random_share=0.5, teacher_length=16,
        seed=0,
    )  # fmt: skip
    return list(made.dataset["query"])


def test_a_test_query_whose_answers_the_corpus_lacks_counts_0_and_one_of_dev_is_left_out() -> None:
    data = make_data()
    judged = data.judgments | {"q0": {"gone": 1}, "q1": {"gone": 1}, "q2": {"p2": 0, "gone": 0}}
    data = replace(data, judgments=judged, splits={"train": [], "dev": ["d", "q0"], "test": ["t", "q1", "q2"]})
    assert list(held_out(data, "test", 9, 5, 0).candidates) == ["t", "q1"]
    assert list(held_out(data, "dev", 9, 5, 0).candidates) == ["d"]


def test_the_datas_scores_are_no_teacher_where_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--teacher data: odd brings no scores: name a model, or a file of scores"):
        taught(make_data(), tmp_path, "data")


def test_so_many_queries_are_taken_of_those_with_an_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = make_data(queries=20, answered=6)
    assert len(taught(data, tmp_path, queries=5)) == 5
    assert "14 train queries left out, without a relevant passage" in caplog.text


def test_scores_of_the_data_or_of_a_file_decide_which_queries_and_negatives_there_are(tmp_path: Path) -> None:
    data = make_data()
    scored = {f"q{i}": {f"p{i}": 3.0, f"p{i + 1}": 1.0, f"p{i + 2}": 0.5} for i in range(4)}
    scored |= {f"q{i}": {f"p{i}": 1.0} for i in range(9, 20)}  # with nothing to compare
    data = replace(data, judgments=data.judgments | {"q5": {"p5": 1, "p6": 1, "p7": 1}})
    scored["q5"] = {"p5": 1.0, "p6": 1.0, "p7": 1.0}  # nor here
    expected = {f"where is number{i}" for i in range(4)}
    assert set(taught(replace(data, scores=scored), tmp_path, "data", queries=4)) == expected
    file = tmp_path / "scores.tsv"
    rows = [f"{query}\t{passage}\t{score}" for query, row in scored.items() for passage, score in row.items()]
    file.write_text("\n".join(["query_id\tpassage_id\tscore", *rows, "elsewhere\tp1\t2.0", ""]))
    assert set(taught(data, tmp_path, str(file), queries=4)) == expected


def test_copies_of_a_relevant_or_held_out_passage_are_no_negatives() -> None:
    data = make_data(queries=6, copies=6)
    data = replace(data, passages=data.passages | {"copy of test": "Garden wall"})
    lists = {f"q{i}": [f"c{i}", f"p{i}", "copy of test", "more", "p0", "c0", "p1", "c1"] for i in range(6)}
    for query, (positive, *negatives) in choose_candidates(
        data, data.splits["train"], lists, size=6, random_share=0.2, seed=0
    ):
        assert positive == f"p{query[1:]}"
        assert not {f"c{query[1:]}", f"p{query[1:]}", "copy of test", "test"} & set(negatives)
        texts = [" ".join(data.passages[one].casefold().split()) for one in negatives]
        assert len(texts) == 5


def test_no_neighbourhood_holds_a_text_twice() -> None:
    data = make_data(queries=4, copies=4)
    data = replace(data, judgments=data.judgments | {"q1": {"c0": 1}, "q3": {"c2": 1}})
    lists = {query: ["c0", "c2", "p0", "p2"] for query in data.splits["train"]}
    (group,) = choose_neighbourhoods(data, data.splits["train"], lists, size=2, queries=2)
    assert {passage for _, passage in group} == {"p0", "p2"}


def test_queries_without_a_list_of_the_data_are_searched_for_training(caplog: pytest.LogCaptureFixture) -> None:
    data = replace(make_data(), candidates={"q0": ["p5", "p0"], "t": ["test"]})
    found = find_for_training(data, ["q0", "q1"], 3, BM25_OR_OWN)
    assert found["q0"] == ["p5", "p0"]
    assert found["q1"][0] == "p1"
    assert "1 of 2 train queries have no list in candidates.tsv" in caplog.text
    assert held_out(replace(data, candidates={"q0": ["p0"]}), "test", 5, 5, 0).candidates == {"t": []}  # it counts 0


def write(folder: Path, data: RankingData, splits: bool = True) -> str:
    folder.mkdir(parents=True)
    for name, texts in (("corpus", data.passages), ("queries", data.queries)):
        lines = [json.dumps({"_id": key, "text": text}) + "\n" for key, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    rows = {query: [f"{query}\t{p}\t{grade}" for p, grade in row.items()] for query, row in data.judgments.items()}
    named = data.splits.items() if splits else [("", list(data.judgments))]
    for split, ids in named:
        lines = ["query-id\tcorpus-id\tscore", *(row for query in ids for row in rows[query]), ""]
        (folder / f"qrels.{split}.tsv".replace("..", ".")).write_text("\n".join(lines))
    return str(folder)


def shifted(data: RankingData) -> RankingData:
    """The same with other words."""
    return replace(
        data,
        queries={key: text.replace("where is number", "which river is count") for key, text in data.queries.items()},
        passages={key: text.replace("number", "count") for key, text in data.passages.items()},
        judgments={key: grades for key, grades in data.judgments.items() if key.startswith("q")},
    )


def test_all_of_a_source_without_splits_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    other = write(tmp_path / "other", shifted(make_data()), splits=False)
    data = replace(make_data(), candidates={"d": ["dev", "other"]})
    _, _, tests = hold_out(MeasuringConfig(), data, other, "scratch", 64, BM25_OR_OWN)
    assert len(tests.candidates) == 20
    assert "other has no test split: all of its judged queries are taken" in capsys.readouterr().out


def test_queries_that_the_measured_source_shares_are_refused_or_left_out(tmp_path: Path) -> None:
    data = replace(make_data(), candidates={"d": ["dev", "other"]})
    shared = shifted(make_data())
    shared = replace(
        shared, queries=shared.queries | {"q3": "Where is  number7"}, passages=shared.passages | {"p4": "stone bridge"}
    )
    other = write(tmp_path / "other", shared, splits=False)
    with pytest.raises(InputError, match=r"odd: 2 train and dev queries share .* other \(first: 'd'\).*--drop_leaks"):
        hold_out(MeasuringConfig(), data, other, "scratch", 64, BM25_OR_OWN)
    measured = replace(shared, splits={"train": [], "dev": [], "test": ["q3", "q4"]})
    with pytest.raises(InputError, match="all dev queries are shared"):
        apart_from(data, measured, "test", drop=True)
    data = replace(data, splits=data.splits | {"train": data.splits["train"][:-1], "dev": ["d", "q19"]})
    kept = apart_from(data, measured, "test", drop=True).splits
    assert (kept["dev"], kept["test"]) == (["q19"], ["t"])
    assert set(data.splits["train"]) - set(kept["train"]) == {"q7"}


def test_what_is_relevant_to_held_out_queries_of_other_data_is_no_negative(tmp_path: Path) -> None:
    data = replace(make_data(queries=8), candidates={f"q{i}": ["more", "other", "p0", "p1", "p2"] for i in range(8)})
    data = replace(data, unseen=frozenset({"garden gate", "river number1 flows"}))
    config = TrainingConfig(candidates=4, queries_per_step=1, random_share=0.5)
    found = stages.make_taught(None, MeasuringConfig(cache=tmp_path), config, TIERS["small"], data, BM25_OR_OWN)
    for query, (positive, *negatives) in zip(found.dataset["query"], found.dataset["passages"], strict=True):
        assert positive == f"river {query.removeprefix('where is ')} flows"
        assert not {"garden gate", "river number1 flows", "stone bridge", "garden wall"} & set(negatives)


def test_held_out_passages_of_one_source_are_no_negatives_in_another(tmp_path: Path) -> None:
    first = make_data(queries=8)
    second = replace(
        first, name="second", judgments={"q0": {"p0": 1}, "t": {"more": 1}, "d": {"p5": 1}},
        queries={"q0": "where number0 is", "t": "which gate", "d": "which number5"},
        splits={"train": ["q0"], "dev": ["d"], "test": ["t"]},
    )  # fmt: skip
    first = replace(first, judgments={q: grades for q, grades in first.judgments.items() if q not in ("q0", "q5")},
                    splits=first.splits | {"train": [f"q{i}" for i in (1, 2, 3, 4, 6, 7)]})  # fmt: skip
    found = make_examples(
        mix([(first, 1.0), (second, 1.0)]), None, tmp_path, queries=20, depth=10, candidates=6, random_share=1.0,
        teacher_length=16, seed=0,
    )  # fmt: skip
    assert len(found.dataset) == 7
    for _, *negatives in found.dataset["passages"]:
        assert not {"garden gate", "river number5 flows", "stone bridge", "garden wall"} & set(negatives)


def test_scores_that_leave_held_out_candidates_out_leave_the_teachers_row_out(capsys: pytest.CaptureFixture) -> None:
    data = replace(make_data(), scores={"t": {"test": 1.0}})
    assert teacher_runs("data", Held(data, {"t": ["test"]}), Path("cache"), 16) == {"teacher": {"t": {"test": 1.0}}}
    assert teacher_runs("data", Held(data, {"t": ["test", "more"]}), Path("cache"), 16) == {}
    assert "the teacher itself is not measured: odd has no score for 1 of 2 pairs" in capsys.readouterr().out
    with pytest.raises(InputError, match="no/such"):
        teacher_runs("no/such/model", Held(data, {"t": ["test"]}), Path("cache"), 16)


def test_a_tier_climbs_to_its_own_tau_unless_told_otherwise(calm_checkpoint: Path, tmp_path: Path) -> None:
    generator = random.Random(0)
    passages = {f"p{i}": " ".join(generator.sample(WORDS, 8)) for i in range(40)}
    asked = {f"q{i}": " ".join(generator.sample(WORDS, 2)) for i in range(4)}
    grades = {query: {f"p{i}": 1} for i, query in enumerate(asked)}
    data = RankingData("planted", asked, passages, grades, {}, {"dev": list(asked)}, "")
    dev = Held(data, {query: list(passages)[10 * i : 10 * i + 10] for i, query in enumerate(asked)})
    dev = replace(dev, data=replace(data, judgments={f"q{i}": {f"p{10 * i}": 1} for i in range(4)}))

    def climbed_to(tier: str, tau: float | None) -> float:
        workspace = tmp_path / f"{tier}{tau}"
        workspace.mkdir()
        exported = measure.export(
            calm_checkpoint, workspace / "out", workspace, dev, tier=tier, max_length=64, limit_megabytes=5.0,
            target_tau=tau, profile="portable",
        )  # fmt: skip
        return exported.quantization["target_tau"]

    assert [climbed_to("nano", None), climbed_to("small", None), climbed_to("nano", 0.9)] == [0.995, 0.985, 0.9]


def test_a_file_of_scores_in_the_home_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    rows = [f"q{i}\tp{j}\t{i == j:d}" for i in range(3) for j in range(3)]
    (tmp_path / "scores.tsv").write_text("\n".join(["query_id\tpassage_id\tscore", *rows, ""]))
    assert len(taught(make_data(), tmp_path / "cache", "~/scores.tsv")) == 3
    with pytest.raises(InputError, match="there is no such file of scores"):
        taught(make_data(), tmp_path / "cache", "~/absent.tsv")


def test_a_file_of_scores_of_other_ids_is_named(tmp_path: Path) -> None:
    file = tmp_path / "scores.tsv"
    file.write_text("query_id\tpassage_id\tscore\nelsewhere\tp1\t2.0\n")
    with pytest.raises(InputError, match="the file of scores has no query with a passage of odd"):
        taught(make_data(), tmp_path, str(file))


def test_held_out_queries_without_two_candidates_are_refused_before_training() -> None:
    data = replace(make_data(), candidates={"d": ["other", "dev"], "t": ["test"]})
    with pytest.raises(InputError, match="none of 1 held-out queries has two candidates or more"):
        hold_out(MeasuringConfig(), data, None, "scratch", 64, BM25_OR_OWN)
    data = replace(data, candidates=data.candidates | {"t": ["test", "more"]})
    assert len(hold_out(MeasuringConfig(), data, None, "scratch", 64, BM25_OR_OWN)) == 3


def with_head(folder: Path, labels: int) -> Path:
    tokenizer = make_tokenizer(folder)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, num_labels=labels,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_cross_encoder_saved_by_sentence_transformers_keeps_its_head(tmp_path: Path, bi_encoder: Path) -> None:
    plain, saved = tmp_path / "plain", tmp_path / "saved"
    plain.mkdir()
    CrossEncoder(str(with_head(plain, 1))).save_pretrained(str(saved))
    assert (saved / "modules.json").is_file()  # as a bi-encoder has one
    assert build_student(str(saved), tmp_path / "a").endswith("with its own or a fresh head")
    pair = [("river", "stone bridge")]
    assert CrossEncoder(str(tmp_path / "a")).predict(pair) == pytest.approx(CrossEncoder(str(saved)).predict(pair))
    assert build_student(str(bi_encoder), tmp_path / "b").endswith("starting from its similarity")


def test_a_head_of_several_labels_is_refused_before_any_work(tmp_path: Path) -> None:
    folder = with_head(tmp_path, 2)
    with pytest.raises(InputError, match=r"has a head of 2 labels, expected one: `python -m recipes.export`"):
        check(MeasuringConfig(), TIERS["small"], tmp_path / "out", str(folder), TrainingConfig())
    check(MeasuringConfig(), TIERS["small"], tmp_path / "out", str(folder))  # for recipes.export


def test_an_artifact_is_tuned_in_its_own_tier_and_length(tiny_artifact: Path, tmp_path: Path) -> None:
    def chosen(base: Path | str, tier: str | None = None, length: int | None = None) -> tuple[str, int]:
        return as_the_base(FinetuneConfig(base=str(base), tier=tier), length)

    assert chosen(tiny_artifact) == ("nano", 64)
    assert chosen(tiny_artifact, length=32) == ("nano", 32)
    assert chosen(tiny_artifact, tier="small") == ("small", TIERS["small"].max_length)
    assert chosen(Path(f"{tiny_artifact}.checkpoint")) == ("nano", 64)
    assert chosen("~nobody-of-that-name/m") == ("small", TIERS["small"].max_length)
    assert chosen("builtin") == ("small", TIERS["small"].max_length)
    manifest = replace(read_manifest(tiny_artifact), lineage={"data": {"name": "notes", "licence": "CC BY-NC 4.0"}})
    noted = tmp_path / "noted"
    noted.mkdir()
    write_manifest(noted, manifest)
    assert licence(str(noted)) == licence(f"{noted}.checkpoint") == "CC BY-NC 4.0"
    assert (user_path("~/m"), user_path("~nobody-of-that-name/m")) == (
        Path.home() / "m",
        Path("~nobody-of-that-name/m"),
    )
    assert licence("~nobody-of-that-name/m") == licence(str(tmp_path)) == "see the model's own card"
    odd = tmp_path / "odd"
    odd.mkdir()
    write_manifest(odd, replace(read_manifest(tiny_artifact), tier="home-made"))
    assert chosen(odd) == ("small", TIERS["small"].max_length)

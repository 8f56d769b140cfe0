"""What is never trained on: held-out passages and copies of them, by whatever stage; and which queries are left."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Dataset
from test_unusual_data import make_data, shifted, taught, write

from export.licence import licence_of, parts_of
from recipes import stages
from recipes.hold_out import choosing, fingerprint_of_held, hold_out
from recipes.lineage import trace
from recipes.settings import MeasuringConfig, TrainingConfig, check
from training.candidates import BM25_OR_OWN, FirstStage, find_for_training
from training.data import InputError, fingerprint, held_texts, trainable
from training.imitation import texts_to_imitate
from training.load import with_texts
from training.mixture import mix
from training.neighbours import neighbourhood_dataset
from training.prepare import Examples, Held, make_examples, make_neighbourhoods
from training.tiers import TIERS
from training.train import TrainingResult


def test_scored_negatives_that_can_not_be_used_do_not_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = make_data(queries=12, copies=12)
    # q0 to q3 have two negatives; of the others one is a copy of the answer, or held out, or a copy of that.
    data = replace(data, passages=data.passages | {"again": "Garden  WALL"})
    unusable = {4: "c4", 5: "test", 6: "again", 7: "dev"}
    scored = {f"q{i}": {f"p{i}": 2.0, "more": 1.0, "other": 0.0} for i in range(4)}
    scored |= {f"q{i}": {f"p{i}": 2.0, "more": 1.0, passage: 0.0} for i, passage in unusable.items()}
    data = replace(data, scores=scored)
    assert sorted(taught(data, tmp_path, "data", queries=4)) == [f"where is number{i}" for i in range(4)]
    assert "8 train queries left out, without a relevant passage and 2 negatives with scores" in caplog.text


def test_too_few_usable_queries_are_refused_before_the_teacher_works(tmp_path: Path) -> None:
    config, measuring = TrainingConfig(queries_per_step=4), MeasuringConfig(cache=tmp_path)
    data = make_data(queries=20, answered=3)
    with pytest.raises(InputError, match="3 training queries are fewer than the 4 of a step"):
        stages.make_taught("no-such-teacher", measuring, config, TIERS["small"], data, BM25_OR_OWN)
    scored = {f"q{i}": {f"p{i}": 2.0, "more": 1.0 + i // 3, "other": 0.0 + 2 * (i // 3)} for i in range(6)}
    with pytest.raises(InputError, match="3 training queries are fewer than the 4 of a step"):
        make_examples(
            replace(make_data(), scores=scored), "data", tmp_path, queries=20, depth=5, candidates=2, random_share=0.0,
            teacher_length=16, seed=0, pool=3, margin=0.5, step=4,
        )  # fmt: skip


def test_a_student_imitates_no_held_out_passage_of_any_source() -> None:
    one = make_data(queries=3)
    two = replace(one, passages=one.passages | {"copy": "GARDEN wall"}, splits=one.splits | {"dev": [], "test": []})
    data = replace(mix([(one, 1.0), (two, 1.0)]), unseen=frozenset({"garden gate"}))
    read = set(texts_to_imitate(data, 200, seed=0))
    assert read == {
        *(f"where is number{i}" for i in range(3)), *(f"river number{i} flows" for i in range(3)), "stone wall"
    }  # fmt: skip
    assert held_texts(data) == {"stone bridge", "garden wall", "garden gate", "which bridge", "which garden wall"}
    assert sorted(trainable(two)) == sorted(two.passages)
    assert fingerprint(data) != fingerprint(replace(data, unseen=frozenset()))


def test_further_plain_texts_are_imitated_and_named_with_their_licence(tmp_path: Path) -> None:
    files = [tmp_path / name / "corpus.jsonl" for name in ("one", "ms-marco")]
    for file, texts in zip(files, (["stone tower", "Garden  Wall"], ["iron gate"]), strict=True):
        file.parent.mkdir()
        file.write_text("".join(json.dumps({"_id": str(i), "text": text}) + "\n" for i, text in enumerate(texts)))
    (tmp_path / "one" / "LICENSE").mkdir()
    (tmp_path / "one" / "LICENSE.txt").write_bytes(b"\nCC BY-SA 4.0 \xff\n")
    data = with_texts(make_data(queries=1), [str(file) for file in files])
    assert set(texts_to_imitate(data, 90, seed=0)) == {
        "where is number0", "river number0 flows", "garden gate", "stone wall", "stone tower", "iron gate"
    }  # fmt: skip
    assert len({fingerprint(one) for one in (data, replace(data, texts={}), make_data(queries=1))}) == 2
    held, trained = Held(data, {}), TrainingResult(tmp_path, {}, [(0, 0.25), (9, 0.5)], 0.5, {})
    found, chosen_elsewhere = (
        trace(
            data, Examples(Dataset.from_dict({}), "", [], False, {}, {}, 0), dev, held, BM25_OR_OWN, trained,
            base="builtin", start="", teacher=None, languages=None, precision="fp32", began=0.0,
        )
        for dev in (None, Held(replace(data, name="elsewhere"), {}))
    )  # fmt: skip
    assert "chosen on" not in found
    assert chosen_elsewhere["chosen on"] == {"name": "elsewhere", "licence": "", "first stage": "BM25"}
    assert found["data"]["dev MRR@10 by step"] == [(0, 0.25), (9, 0.5)]
    assert {part: licence_of(found, part) for part in parts_of(found) if part.startswith("texts")} == {
        f"texts.{files[0]}": "CC BY-SA 4.0 \ufffd", f"texts.{files[1]}": "MS MARCO's terms: non-commercial research"
    }  # fmt: skip
    for tier, texts, imitated, message in (
        ("small", files, None, "--texts: texts are imitated by nano from the built-in backbone alone"),
        ("small", None, 64, "--imitated_texts: texts are imitated by nano"),
        ("nano", files, 0, "--imitated_texts is 0, expected more for the --texts"),
        ("nano", [*files, str(tmp_path)], None, f"--texts {tmp_path} is no file"),
    ):
        with pytest.raises(InputError, match=message):
            check(
                MeasuringConfig(),
                TIERS[tier],
                tmp_path,
                "builtin",
                TrainingConfig(texts=texts, imitated_texts=imitated),
            )
    check(
        MeasuringConfig(), TIERS["nano"], tmp_path / "fine", "builtin", TrainingConfig(texts=files, imitated_texts=64)
    )


def test_all_that_the_measured_source_holds_out_is_unseen_however_few_queries_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = make_data(queries=6)
    grades = {f"q{i}": {f"p{i}": 1} for i in range(6)}
    measured = replace(
        measured, judgments=grades,
        queries={query: text.replace("where is", "which river has") for query, text in measured.queries.items()},
        passages={key: text.replace("river", "wide river") for key, text in measured.passages.items()},
    )  # fmt: skip
    data = replace(make_data(), candidates={"d": ["dev", "other"]})
    config = MeasuringConfig(test_queries=2, test_depth=3)
    source = write(tmp_path / "wide", replace(measured, splits={"test": list(grades)}))
    found, _, tests = hold_out(config, data, source, "scratch", 64, BM25_OR_OWN)
    assert len(tests.candidates) == 2
    answers, questions = (
        {text.format(i) for i in range(6)} for text in ("wide river number{} flows", "which river has number{}")
    )
    assert found.unseen == answers | questions
    assert "    only 2 test queries of wide: its figures can't tell much\n" in capsys.readouterr().out
    monkeypatch.setattr("recipes.hold_out.FEW", 2)
    hold_out(config, data, source, "scratch", 64, BM25_OR_OWN)
    assert "test queries of" not in capsys.readouterr().out


def test_checkpoints_are_chosen_on_queries_of_another_source(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def holding(source: str, evaluated: str | None = None, drop: bool = False) -> tuple[set[str], frozenset[str]]:
        config = MeasuringConfig(dev=source, dev_queries=9)
        found, dev, _ = hold_out(config, data, evaluated, "scratch", 64, BM25_OR_OWN, drop)
        return set(dev.candidates), found.unseen

    data = replace(make_data(), candidates={"t": ["test", "more"]})
    grades = {f"q{i}": {f"p{i}": 1, "more": 0} for i in range(3)} | {"d": {"dev": 2}}
    other = shifted(make_data())
    other = replace(
        other, judgments=grades, candidates={query: [*found, "other"] for query, found in grades.items()},
        passages=other.passages | {"p0": "River number7  flows"},
    )  # fmt: skip
    whole = write(tmp_path / "whole", replace(other, splits={"test": list(grades)}))
    with pytest.raises(InputError, match=r"odd: 1 train and dev queries share .* dev queries of whole.*--drop_leaks"):
        holding(whole)
    chosen, unseen = holding(whole, drop=True)
    assert chosen == set(grades)
    assert unseen == {
        "river number7 flows", "river count1 flows", "river count2 flows", "stone bridge",
        *(f"which river is count{i}" for i in range(3)), "which bridge",
    }  # fmt: skip
    assert "whole has no dev split: all of its judged queries are taken" in capsys.readouterr().out
    split = write(tmp_path / "split", replace(other, splits={"dev": ["q1"], "test": ["q2"]}))
    both = {f"{text} count{i}{more}" for i in (1, 2) for text, more in (("river", " flows"), ("which river is", ""))}
    assert holding(split) == holding(split, split) == ({"q1"}, both)
    # What is measured of the data themselves never chooses.
    leaking = replace(other, passages=other.passages | {"p1": "garden wall"})
    third = write(tmp_path / "third", replace(leaking, splits={"dev": ["q1", "q2"]}))
    with pytest.raises(InputError, match=r"third: 1 train and dev queries share .* test queries of odd"):
        holding(third)
    assert holding(third, drop=True)[0] == {"q2"}
    assert choosing(MeasuringConfig(dev=third), data, data, True)[1].splits["dev"] == ["q2"]
    assert holding(whole, split, drop=True)[0] == {"q0", "q1", "d"}  # q2 is measured
    # Train queries of another source matter to nobody, and two of them hold out what both do.
    leaking = replace(leaking, judgments={"q1": {"p1": 1}, "q9": {"p9": 1}})
    fourth = write(tmp_path / "fourth", replace(leaking, splits={"train": ["q1"], "dev": ["q9"]}))
    chosen, unseen = holding(fourth, split)
    assert chosen == {"q9"}
    assert {"river count9 flows", "river count2 flows"} < unseen
    assert holding(fourth)[0] == {"q9"}


def test_all_that_measuring_reads_of_held_out_queries_is_in_their_fingerprint() -> None:
    data = make_data()
    held = Held(data, {"t": ["test", "more"]})
    others = [
        Held(data, {"t": ["more", "test"]}), Held(data, {"d": ["test", "more"]}),
        Held(replace(data, queries=data.queries | {"t": "which wall"}), held.candidates),
        Held(replace(data, passages=data.passages | {"more": "iron gate"}), held.candidates),
        Held(replace(data, judgments=data.judgments | {"t": {"test": 2}}), held.candidates),
    ]  # fmt: skip
    assert len({fingerprint_of_held(one) for one in (held, *others)}) == 6
    elsewhere = replace(data, passages=data.passages | {"p0": "not read"})
    assert fingerprint_of_held(Held(elsewhere, held.candidates)) == fingerprint_of_held(held)


def test_neighbourhoods_begin_with_queries_that_have_an_answer() -> None:
    data = make_data(queries=200, answered=20)
    assert len(make_neighbourhoods(data, queries=20, size=4, seed=0)) == 5


def test_a_copy_of_an_answer_is_graded_as_the_answer() -> None:
    data = make_data(queries=4, copies=2)
    data = replace(data, judgments=data.judgments | {"q1": {"c0": 2}})
    (row,) = neighbourhood_dataset(data, [[("q0", "p0"), ("q1", "c0"), ("q2", "p2")]])
    assert row["label"] == [[1.0, 1.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 1.0]]


def test_queries_for_which_bm25_finds_nothing_are_not_told_to_lack_a_list(caplog: pytest.LogCaptureFixture) -> None:
    listed = replace(make_data(queries=4), candidates={f"q{i}": [f"p{i}"] for i in range(3)})
    searched = replace(make_data(queries=4), queries=make_data(queries=4).queries | {"q0": "!?", "q1": "zebra"})
    data = mix([(replace(listed, name="a"), 1.0), (replace(searched, name="b"), 1.0)], drop_leaks=True)
    wanted = ["a/q0", "b/q0", "b/q1", "a/q3"]
    found = find_for_training(data, wanted, 3, FirstStage())
    assert list(found) == wanted
    assert found["a/q0"] == ["a/p0"]
    assert found["b/q0"] == found["b/q1"] == []
    assert found["a/q3"][0] == "a/p3"
    assert "a: 1 of 2 train queries have no list in candidates.tsv" in caplog.text
    assert "b:" not in caplog.text

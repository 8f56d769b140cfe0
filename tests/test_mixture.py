"""Mixed data: the grammar of weights, ids that never collide, shares, and walls between the sources."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flashranker.artifact import read_manifest
from test_distill import write_corpus
from test_finetune import SMALL

from export.licence import card_licence, objections, parts_of, strictest
from recipes.finetune import main as finetune
from recipes.publish import main as publish
from training.candidates import FirstStage, find_candidates, name_first_stage
from training.data import InputError, RankingData, Source, by_weight, limit_queries
from training.mixture import load_mixture, mix, parts, split_weight
from training.neighbours import seeds_in_order
from training.prepare import make_examples


def make_source(name: str, queries: int, licence: str = "MIT") -> RankingData:
    """Query qI asks for "NAME word wI" and passage pI has it; p0 and q0 of two sources have one id and two texts."""
    texts = {f"q{i}": f"{name} word w{i}" for i in range(queries)}
    passages = {f"p{i}": f"{name} word w{i} again" for i in range(queries)}
    judgments = {f"q{i}": {f"p{i}": 1} for i in range(queries)}
    ids = list(texts)
    splits = {"train": ids[: queries - 4], "dev": ids[-4:-2], "test": ids[-2:]}
    return RankingData(name, texts, passages, judgments, {}, splits, licence)


def counts(ids: list[str]) -> tuple[int, int]:
    return sum(one.startswith("a/") for one in ids), sum(one.startswith("b/") for one in ids)


@pytest.mark.parametrize(
    ("given", "source", "weight"),
    [
        ("pydocs", "pydocs", 1.0),
        ("pydocs:2", "pydocs", 2.0),
        ("OWNER/NAME", "OWNER/NAME", 1.0),
        ("OWNER/NAME:0.5", "OWNER/NAME", 0.5),
        ("OWNER/NAME:CONFIG", "OWNER/NAME:CONFIG", 1.0),
        ("OWNER/NAME:CONFIG:3", "OWNER/NAME:CONFIG", 3.0),
        ("OWNER/NAME:v1.1", "OWNER/NAME:v1.1", 1.0),
        ("OWNER/NAME:2024:1", "OWNER/NAME:2024", 1.0),
        ("some/folder.jsonl:10", "some/folder.jsonl", 10.0),
        ("C:/data", "C:/data", 1.0),
    ],
)
def test_a_number_behind_the_last_colon_is_a_weight(given: str, source: str, weight: float) -> None:
    assert split_weight(given) == (source, weight)


def test_what_exists_is_a_source_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "set:2").mkdir()
    assert split_weight(f"{tmp_path}/set:2") == (f"{tmp_path}/set:2", 1.0)
    assert split_weight(f"{tmp_path}/set:2:3") == (f"{tmp_path}/set:2", 3.0)


def test_bad_weights_and_a_source_named_twice_are_refused() -> None:
    for given in ("pydocs:0", "", " :2"):
        with pytest.raises(InputError, match="expected SOURCE, or SOURCE:WEIGHT with a weight above 0"):
            split_weight(given)
    with pytest.raises(InputError, match="'a' is named twice: name it once, with a larger weight, a:2"):
        load_mixture(["a", "b", "a:3"], lambda name: make_source(name, 9))


def test_one_source_stays_as_it_is() -> None:
    assert load_mixture(["a:7"], lambda name: make_source(name, 9)) == make_source("a", 9)


def test_equal_ids_are_two_and_everything_keeps_its_place() -> None:
    first = replace(make_source("a", 6), candidates={"q0": ["p1", "p0"]}, scores={"q0": {"p0": 1.5}})
    data = mix([(first, 2.0), (make_source("b", 5, "CC BY 4.0"), 1.0)])
    assert data.queries["a/q0"] == "a word w0"
    assert data.queries["b/q0"] == "b word w0"
    assert (len(data.queries), len(data.passages)) == (11, 11)
    assert data.judgments["b/q3"] == {"b/p3": 1}
    assert data.candidates == {"a/q0": ["a/p1", "a/p0"]}
    assert data.scores == {"a/q0": {"a/p0": 1.5}}
    assert data.splits == {
        "train": ["a/q0", "a/q1", "b/q0"], "dev": ["a/q2", "a/q3", "b/q1", "b/q2"],
        "test": ["a/q4", "a/q5", "b/q3", "b/q4"],
    }  # fmt: skip
    assert data.sources == {"a": Source("a", "MIT", 2.0), "b": Source("b", "CC BY 4.0", 1.0)}
    again = parts(data)[1]
    assert (again.queries, again.splits["dev"]) == ({f"b/q{i}": f"b word w{i}" for i in range(5)}, ["b/q1", "b/q2"])
    assert parts(first) == [first]


def test_sources_of_one_name_are_told_apart() -> None:
    other = replace(make_source("b", 6), name="a")
    data = mix([(make_source("a", 6), 1.0), (other, 1.0), (replace(make_source("c d", 6), name="x/y z"), 1.0)])
    assert list(data.sources) == ["a", "a-2", "x-y-z"]
    assert data.queries["a-2/q1"] == "b word w1"


def test_every_limit_gives_each_source_its_share_until_it_has_no_more() -> None:
    data = mix([(make_source("a", 44), 2.0), (make_source("b", 104), 1.0)])
    for limit, expected in ((3, (2, 1)), (30, (20, 10)), (60, (40, 20)), (90, (40, 50)), (500, (40, 100))):
        assert counts(limit_queries(data, "train", limit, seed=1).splits["train"]) == expected
    drawn = [set(limit_queries(data, "train", 30, seed).splits["train"]) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert counts(seeds_in_order(data, 0)[:30]) == (20, 10)
    assert seeds_in_order(data, 0) != seeds_in_order(data, 1)
    assert by_weight(make_source("a", 9), ["q3", "q1"]) == ["q3", "q1"]


def test_a_leak_between_sources_is_refused_or_dropped() -> None:
    first, second = make_source("a", 9), make_source("b", 9)
    held = second.splits["test"][0]
    leaking = replace(second, queries=second.queries | {held: "A  word W1"})
    with pytest.raises(InputError, match=r"1 of 10 train queries share .*first: 'a/q1'.*drop_leaks=True"):
        mix([(first, 1.0), (leaking, 1.0)])
    assert mix([(first, 1.0), (leaking, 1.0)], drop_leaks=True).splits["train"][:2] == ["a/q0", "a/q2"]
    passage = replace(second, passages=second.passages | {"p" + held[1:]: first.passages["p2"]})
    with pytest.raises(InputError, match="first: 'a/q2'"):
        mix([(first, 1.0), (passage, 1.0)])


def test_candidates_and_negatives_come_from_the_querys_own_source(tmp_path: Path) -> None:
    first = replace(make_source("a", 20), candidates={"q0": ["p3", "p0"]})
    data = mix([(first, 1.0), (make_source("b", 20), 1.0)])
    found = find_candidates(data, ["b/q1", "a/q0"], 15)
    assert list(found) == ["b/q1", "a/q0"]
    assert found["a/q0"] == ["a/p3", "a/p0"]
    # "word" is in all passages of both sources.
    assert len(found["b/q1"]) == 15
    assert {one[:2] for one in found["b/q1"]} == {"b/"}
    assert name_first_stage(data, FirstStage()) == "a: candidates.tsv, b: BM25"
    assert name_first_stage(data, FirstStage("bm25")) == "BM25"
    examples = make_examples(
        data, None, tmp_path, queries=24, depth=5, candidates=6, random_share=0.6, teacher_length=32,
        seed=0,
    )  # fmt: skip
    assert examples.sources == {"a": 12, "b": 12}
    for query, passages in zip(examples.dataset["query"], examples.dataset["passages"], strict=True):
        assert {text[0] for text in passages} == {query[0]}
    # The sources take turns at random, not one after the other.
    order = [query[0] == "a" for query in examples.dataset["query"]]
    assert 3 <= int(np.sum(order[:12])) <= 9


def test_every_source_of_mixed_data_may_object() -> None:
    sources = {
        "open": {"name": "open", "licence": "MIT"},
        "half": {"name": "half", "licence": "CC BY-SA 4.0"},
        "ms": {"name": "msmarco", "licence": "MIT"},
    }
    lineage = {"base": {"name": "x", "licence": "MIT"}, "data": {"name": "mix", "licence": "MIT", "sources": sources}}
    half, marco = objections(lineage, "mit")
    assert half.startswith("data.half 'half' (CC BY-SA 4.0) asks for the same licence")
    assert marco.startswith("data.ms 'msmarco' (MS MARCO's terms: non-commercial research) is for non-commercial")
    assert strictest(lineage) == "MS MARCO's terms: non-commercial research"
    assert card_licence(lineage) == "other"
    assert list(parts_of(lineage)) == ["base", "data.open", "data.half", "data.ms"]
    del sources["half"], sources["ms"]
    assert objections(lineage, "mit") == []
    assert card_licence(lineage) == "mit"
    sources["open"]["licence"] = ""
    (unknown,) = objections(lineage, "mit")
    assert "--stated data.open=LICENCE" in unknown


def test_a_model_of_two_sources_names_both_and_is_published_by_the_terms_of_both(
    calm_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name, licence in (("one", "MIT"), ("two", "CC BY-NC 4.0")):
        (write_corpus(tmp_path / name) / "LICENSE").write_text(licence + "\n", encoding="utf-8")
    given = ["--data", f"{tmp_path / 'one'}:3", f"{tmp_path / 'two'}:1", "--base", str(calm_checkpoint)]
    output = tmp_path / "mixed"
    places = ["--output", str(output), "--cache", str(tmp_path / "cache"), "--gate", "report", "--limit", "16"]
    assert finetune([*given, *places, *SMALL, "--learning_rate", "1e-9"]) == 0
    data = read_manifest(output).lineage["data"]
    assert data["sources"] == {
        "one": {"name": "one", "licence": "MIT", "weight": 3.0, "queries": 12, "share": 0.75},
        "two": {"name": "two", "licence": "CC BY-NC 4.0", "weight": 1.0, "queries": 4, "share": 0.25},
    }
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "licence: CC BY-NC 4.0" in card
    capsys.readouterr()
    check = [str(output), "owner/name", "--check", "--licence", "apache-2.0", "--stated", "base=MIT"]
    assert publish(check) == 1
    assert "data.two 'two' (CC BY-NC 4.0) is for non-commercial use" in capsys.readouterr().err
    assert publish([*check, "data.two=MIT"]) == 0
    assert publish([*check, "data=MIT"]) == 2
    assert "has no data: leave it out, or name one of base, data.one, data.two" in capsys.readouterr().err

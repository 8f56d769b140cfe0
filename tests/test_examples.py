"""Which candidates a training query gets."""

from pathlib import Path

import numpy as np
import pytest

from training.data import InputError, RankingData
from training.examples import Example, Scored, as_dataset, choose_by_teacher, choose_candidates
from training.prepare import Examples, make_examples


def make_data(queries: int = 40) -> RankingData:
    """Query qI is answered by pI, a held-out query by h0 and h1, and no query by n0."""
    passages = {f"p{i}": f"text {i}" for i in range(queries)} | {"h0": "held", "h1": "out", "n0": "never judged"}
    judgments = {f"q{i}": {f"p{i}": 1} for i in range(queries)} | {"test": {"h0": 1, "h1": 2}}
    names = {query: f"question {query}" for query in judgments}
    train = [f"q{i}" for i in range(queries)]
    return RankingData("planted", names, passages, judgments, {}, {"train": train, "dev": [], "test": ["test"]}, "")


def choose(
    random_share: float, ranked: list[str] | None = None, seed: int = 0, queries: int = 40
) -> list[tuple[str, list[str]]]:
    data = make_data()
    chosen = data.splits["train"][:queries]
    lists = {query: ranked or [f"p{i}" for i in range(40)] + ["h0"] for query in chosen}
    return choose_candidates(data, chosen, lists, size=6, random_share=random_share, seed=seed)


def test_the_relevant_passage_leads_and_no_other_is_relevant_or_held_out() -> None:
    for query, passages in choose(0.4):
        assert passages[0] == "p" + query[1:]
        assert len(set(passages)) == 6
        assert not {"h0", "h1"} & set(passages)


def test_hard_negatives_come_from_every_part_of_the_ranking() -> None:
    # Five negatives out of 39 ranked ones: one from each fifth.
    for query, passages in choose(0.0):
        ranked = [f"p{i}" for i in range(40) if f"p{i}" != passages[0]]
        places = [ranked.index(passage) for passage in passages[1:]]
        fifths = np.searchsorted([7, 15, 23, 31], places, side="right").tolist()
        assert fifths == [0, 1, 2, 3, 4], query


def test_negatives_come_from_the_whole_corpus_however_few_queries_are_trained_on() -> None:
    # A pool of the chosen queries' own passages would leave a small run without hard negatives.
    seen = {passage for seed in range(40) for _, passages in choose(0.4, seed=seed, queries=2) for passage in passages}
    assert seen == {f"p{i}" for i in range(40)} | {"n0"}
    assert choose(0.0, ranked=["n0", "h0"], queries=1)[0][1][1] == "n0"


def test_the_queries_come_in_random_order() -> None:
    order = [int(query[1:]) for query, _ in choose(0.4)]
    assert sorted(order) == list(range(40))
    assert abs(np.corrcoef(order, range(40))[0, 1]) < 0.5


def test_random_negatives_fill_up_a_short_ranking() -> None:
    for _, passages in choose(0.0, ranked=["p1", "p2"]):
        assert len(passages) == 6
        assert {"p1", "p2"} <= set(passages)


def test_the_seed_decides() -> None:
    assert choose(0.4, seed=1) == choose(0.4, seed=1)
    assert choose(0.4, seed=1) != choose(0.4, seed=2)


def pools(data: RankingData, seed: int = 0) -> list[Scored]:
    """Each query's answer at logit 2, and 24 other passages in random order at -11.5, -10.5, ... 11.5."""
    draw = np.random.default_rng(seed)
    found = []
    for query in data.splits["train"]:
        others = draw.permutation([passage for passage in data.passages if passage != "p" + query[1:]])[:24].tolist()
        found.append(Scored(query, ["p" + query[1:], *others], [2.0, *(draw.permutation(24) - 11.5).tolist()]))
    return found


def test_negatives_come_from_every_part_of_the_teachers_range() -> None:
    data = make_data()
    kept, counts = choose_by_teacher(data, pools(data), size=5, margin=None, seed=0)
    for one, pool in zip(kept, pools(data), strict=True):
        logits = dict(zip(pool.passages, pool.logits, strict=True))
        assert one.passages[0] == pool.passages[0]
        assert one.logits == [logits[passage] for passage in one.passages]
        assert np.searchsorted([-6, 0, 6], one.logits[1:]).tolist() == [3, 2, 1, 0], one
    assert len({tuple(one.logits) for one in kept}) > 30  # drawn, and not the parts' tops
    assert counts == {
        "negatives in the pools": 960, "dropped as false negatives": 0, "negatives kept": 160, "queries kept": 40,
        "queries left out": 0,
    }  # fmt: skip


def test_what_the_teacher_takes_for_an_answer_is_dropped_unless_it_is_judged() -> None:
    data = RankingData("planted", {}, {}, {"a": {"yes": 1, "no": 0}, "b": {"yes": 2}}, {}, {}, "")
    names = ["yes", "no", "p4", "p1", "p2", "p3"]
    both = [Scored("a", names, [2.0, 9.0, 1.2, 1.0, -3.0, 0.5]), Scored("b", names[:5], [2.0, 1.3, 1.2, 1.0, -3.0])]
    kept, counts = choose_by_teacher(data, both, size=4, margin=1.0, seed=0)
    # Above 2 - 1: p4 of a; "no" and p4 of b, which has two left and needs three. At the limit itself p1 stays.
    (first,) = kept
    assert first.passages[:2] == ["yes", "no"]
    assert set(first.passages[2:]) <= {"p1", "p2", "p3"}
    assert counts == {
        "negatives in the pools": 9, "dropped as false negatives": 3, "negatives kept": 3, "queries kept": 1,
        "queries left out": 1,
    }  # fmt: skip
    (exact,), _ = choose_by_teacher(data, both[:1], size=5, margin=1.0, seed=0)
    assert exact == Scored("a", ["yes", "no", "p1", "p3", "p2"], [2.0, 9.0, 1.0, 0.5, -3.0])


def mined(folder: Path, **settings: object) -> Examples:
    """Examples of a teacher who scores 8 passages of every query above its answer, those of even numbers below 16."""
    data, teacher = make_data(), folder / "teacher.tsv"
    rows = [
        f"{query}\t{passage}\t{5.0 if 'p' + query[1:] == passage else 6.0 if passage in FALSE else -float(place)}"
        for query in data.splits["train"] for place, passage in enumerate(data.passages)
    ]  # fmt: skip
    teacher.write_text("\n".join(["query_id\tpassage_id\tscore", *rows, ""]), encoding="utf-8")
    usual = {
        "queries": 40, "depth": 40, "candidates": 5, "random_share": 0.25, "teacher_length": 32,
        "seed": 0,
    }  # fmt: skip
    return make_examples(data, str(teacher), folder, **(usual | settings))  # type: ignore[arg-type]


FALSE = {f"p{i}" for i in range(0, 16, 2)}


def negatives(examples: Examples) -> list[str]:
    return [passage.replace("text ", "p") for passages in examples.dataset["passages"] for passage in passages[1:]]


def test_false_negatives_stay_out_of_the_examples_and_are_counted(tmp_path: Path) -> None:
    plain, pooled = mined(tmp_path), mined(tmp_path, pool=16)
    assert set(negatives(plain)) & FALSE
    assert set(negatives(pooled)) & FALSE
    assert plain.mining == {"candidates": 5, "depth": 40, "random share": 0.25}
    clean = mined(tmp_path, margin=0.0)
    assert not set(negatives(clean)) & FALSE
    assert clean.mining["teacher's pool"] == 15
    assert clean.mining["negatives in the pools"] == 14 * 40
    assert clean.mining["dropped as false negatives"] > 40
    assert clean.mining["queries kept"] == len(clean.dataset) == 40
    assert [len(passages) for passages in clean.dataset["passages"]] == [5] * 40
    # Above the answer by no more than 1 is within this margin.
    assert set(negatives(mined(tmp_path, margin=-1.0))) & FALSE


def test_mining_needs_a_teacher(tmp_path: Path) -> None:
    data = make_data()
    for settings in ({"pool": 16}, {"margin": 0.0}):
        with pytest.raises(InputError, match="rest on a teacher's scores: add --teacher"):
            make_examples(
                data, None, tmp_path, queries=4, depth=5, candidates=5, random_share=0.0, teacher_length=32,
                seed=0, **settings,  # type: ignore[arg-type]
            )  # fmt: skip


def test_a_label_is_teacher_logits_then_grades() -> None:
    dataset = as_dataset([Example("q", ["a", "b"], [1.5, -2.0], [1, 0])])
    assert dataset.column_names == ["query", "passages", "label"]
    assert dataset[0]["label"] == [[1.5, -2.0], [1.0, 0.0]]

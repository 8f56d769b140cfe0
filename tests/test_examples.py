"""Which candidates a training query gets."""

import numpy as np

from training.data import RankingData
from training.examples import Example, as_dataset, choose_candidates


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


def test_a_label_is_teacher_logits_then_grades() -> None:
    dataset = as_dataset([Example("q", ["a", "b"], [1.5, -2.0], [1, 0])])
    assert dataset.column_names == ["query", "passages", "label"]
    assert dataset[0]["label"] == [[1.5, -2.0], [1.0, 0.0]]

"""Neighbourhoods: who competes with whom, and what the grades of a group say."""

from training.data import RankingData
from training.neighbours import choose_neighbourhoods, neighbourhood_dataset, seeds_in_order

SEEDS = [f"q{i}" for i in range(12)]
ALIKE = {"q0": ["p4", "h0", "p8", "p0", "p2"], "q1": ["p4", "p5", "p9"], "q3": ["p1"]}


def make_data() -> RankingData:
    """Query qI is answered by pI, and q0 by p2 as well, better; a held-out query by h0."""
    passages = {f"p{i}": f"text {i}" for i in range(12)} | {"h0": "held"}
    judgments = {f"q{i}": {f"p{i}": 1} for i in range(12)} | {"test": {"h0": 1}}
    judgments["q0"]["p2"] = 2
    names = {query: f"question {query}" for query in judgments}
    return RankingData("planted", names, passages, judgments, {}, {"train": SEEDS, "dev": [], "test": ["test"]}, "")


def groups(size: int, queries: int) -> list[list[str]]:
    chosen = choose_neighbourhoods(make_data(), SEEDS, ALIKE, size=size, queries=queries)
    assert all(passage == "p" + query[1:] for group in chosen for query, passage in group)
    return [[query for query, _ in group] for group in chosen]


def test_a_seed_takes_the_queries_of_its_candidates_best_first_and_once() -> None:
    # q4 is gone when q1 looks for it; q1 finds q5 and q9; q3's only neighbour is taken, so the last ones fill up.
    assert groups(3, 12) == [["q0", "q4", "q8"], ["q1", "q5", "q9"], ["q3", "q11", "q10"]]


def test_groups_end_when_enough_queries_are_used() -> None:
    assert groups(3, 4) == [["q0", "q4", "q8"], ["q1", "q5", "q9"]]
    assert groups(3, 3) == [["q0", "q4", "q8"]]


def test_too_few_queries_make_no_group() -> None:
    assert groups(13, 100) == []


def test_grades_tell_that_a_neighbours_passage_is_relevant_too() -> None:
    data = make_data()
    row = neighbourhood_dataset(data, [[("q0", "p0"), ("q2", "p2"), ("q5", "p5")]])[0]
    assert row["queries"] == ["question q0", "question q2", "question q5"]
    assert row["passages"] == ["text 0", "text 2", "text 5"]
    assert row["label"] == [[1.0, 2.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


def test_seeds_are_the_train_queries_shuffled_by_the_seed() -> None:
    data = make_data()
    assert sorted(seeds_in_order(data, 0)) == sorted(SEEDS)
    assert seeds_in_order(data, 0) == seeds_in_order(data, 0)
    assert len({tuple(seeds_in_order(data, seed)) for seed in range(9)}) == 9


def planted(judgments: dict[str, dict[str, int]]) -> list[list[tuple[str, str]]]:
    names, passages = ({key: f"text {key}" for key in keys} for keys in (judgments, "abxyzw"))
    splits = {"train": list(judgments), "dev": [], "test": []}
    data = RankingData("planted", names, passages, judgments, {}, splits, "")
    lists = {query: list("abxyzw") for query in judgments}
    return choose_neighbourhoods(data, list(judgments), lists, size=2, queries=100)


def test_queries_that_share_an_answer_take_turns() -> None:
    found = planted({"a1": {"a": 1}, "a2": {"a": 1}, "b1": {"b": 1}, "b2": {"b": 1}})
    assert found == [[("a1", "a"), ("b1", "b")], [("a2", "a"), ("b2", "b")]]


def test_a_query_comes_again_with_its_next_answer() -> None:
    # r has three answers and q two: the third finds no other query to compete with.
    found = planted({"q": {"x": 1, "y": 2}, "r": {"z": 1, "w": 1, "a": 1}})
    assert found == [[("q", "x"), ("r", "z")], [("q", "y"), ("r", "w")]]

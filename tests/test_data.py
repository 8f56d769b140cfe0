"""Ranking data: splits that cannot leak, limits that draw alike, fingerprints that change with every part."""

import logging
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data import (
    InputError,
    RankingData,
    check_leaks,
    find_leaks,
    fingerprint,
    limit_queries,
    split_queries,
    with_missing_splits,
    without_leaks,
)


def make_data(relevant: dict[str, list[str]], texts: dict[str, str] | None = None) -> RankingData:
    """Data without splits: query id -> relevant passages; `texts` overrides texts of queries and passages."""
    texts = texts or {}
    passages = {passage_id: f"passage {passage_id}" for ids in relevant.values() for passage_id in ids}
    return RankingData(
        "made",
        {query_id: texts.get(query_id, f"query {query_id}") for query_id in relevant},
        {passage_id: texts.get(passage_id, text) for passage_id, text in passages.items()},
        {query_id: dict.fromkeys(ids, 1) for query_id, ids in relevant.items()},
        {},
        {},
        "none",
    )


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=2, unique=True), min_size=30, max_size=80))
def test_made_splits_cover_every_query_once_and_never_leak(relevant: list[list[int]]) -> None:
    data = make_data({f"q{i}": [f"p{j}" for j in ids] for i, ids in enumerate(relevant)})
    try:
        splits = split_queries(data)
    except InputError:
        return  # everything hangs together: there is no split without a leak
    assert sorted(q for ids in splits.values() for q in ids) == sorted(data.queries)
    assert all(len(splits[name]) <= len(data.queries) // 10 for name in ("dev", "test"))
    sides: dict[str, set[str]] = {}
    for name, ids in splits.items():
        for query_id in ids:
            for passage_id in data.judgments[query_id]:
                sides.setdefault(passage_id, set()).add(name)
    assert all(len(names) == 1 for names in sides.values())


def test_made_splits_do_not_depend_on_the_order_of_the_files() -> None:
    relevant = {f"q{i}": [f"p{i // 2}"] for i in range(100)}
    splits = split_queries(make_data(relevant))
    again = split_queries(make_data(dict(reversed(relevant.items()))))
    assert {name: set(ids) for name, ids in splits.items()} == {name: set(ids) for name, ids in again.items()}
    assert {name: len(ids) for name, ids in splits.items()} == {"train": 80, "dev": 10, "test": 10}
    assert all((f"q{i}" in splits["test"]) == (f"q{i + 1}" in splits["test"]) for i in range(0, 100, 2))
    half = split_queries(make_data(relevant), 0.5)
    assert {name: len(ids) for name, ids in half.items()} == {"train": 40, "dev": 10, "test": 50}
    assert set(splits["test"]) <= set(half["test"])  # a larger share keeps what a smaller one held out


def test_queries_joined_by_equal_text_stay_together() -> None:
    relevant = {f"q{i}": [f"p{i}"] for i in range(40)}
    for i in range(20):  # q0 with q20 by the text of the query, q1 with q21 by that of the passage, and so on
        key, twin = (f"q{i}", f"q{i + 20}") if i % 2 == 0 else (f"p{i}", f"p{i + 20}")
        texts = {key: f"The same {i}", twin: f"the  SAME {i}"}
        splits = split_queries(make_data(relevant, texts))
        assert [name for name, ids in splits.items() if f"q{i}" in ids and f"q{i + 20}" in ids], (key, twin)


def test_a_missing_split_is_taken_from_train_and_leaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    data = make_data({f"q{i}": [f"p{i // 2}"] for i in range(100)})
    ids = list(data.queries)
    given = replace(data, splits={"train": ids[:80], "dev": [], "test": ids[80:]})
    found = with_missing_splits(given, 0.5)
    assert {name: len(queries) for name, queries in found.splits.items()} == {"train": 72, "dev": 8, "test": 20}
    assert found.splits["test"] == ids[80:]
    assert all((f"q{i}" in found.splits["dev"]) == (f"q{i + 1}" in found.splits["dev"]) for i in range(0, 80, 2))
    assert "of 80 train queries 8 for dev were taken" in caplog.text
    halved = with_missing_splits(replace(data, splits={"train": ids[:80], "dev": ids[80:], "test": []}), 0.5)
    assert {name: len(queries) for name, queries in halved.splits.items()} == {"train": 40, "dev": 20, "test": 40}
    whole = replace(data, splits={"train": ids[:60], "dev": ids[60:80], "test": ids[80:]})
    assert with_missing_splits(whole, 0.5) is whole
    unlearned = replace(data, splits={"train": [], "dev": [], "test": ids})
    assert with_missing_splits(unlearned) is unlearned


def test_data_that_hangs_together_cannot_be_split() -> None:
    with pytest.raises(InputError, match=r"40 judged queries make 1 groups .*qrels.dev.tsv"):
        split_queries(make_data({f"q{i}": ["hub", f"p{i}"] for i in range(40)}))


@pytest.mark.parametrize(
    ("texts", "leaks"),
    [
        ({}, []),
        ({"a": "Same  query", "c": "same query"}, ["a"]),  # text of a query, train and test
        ({"pb": "Same passage", "pd": "same\tPASSAGE"}, ["b"]),  # text of a passage, train and dev
        ({"c": "same query", "d": "same query"}, []),  # dev and test only
    ],
)
def test_leaks_are_found_refused_and_dropped(
    texts: dict[str, str], leaks: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    data = make_data({"a": ["pa"], "b": ["pb"], "c": ["pc"], "d": ["pd"]}, texts)
    data = replace(data, splits={"train": ["a", "b"], "dev": ["d"], "test": ["c"]})
    assert find_leaks(data) == leaks
    with caplog.at_level(logging.WARNING):
        clean = without_leaks(data)
    assert clean.splits == data.splits | {"train": [q for q in ("a", "b") if q not in leaks]}
    check_leaks(clean)
    assert ("1 of 2 train queries left out" in caplog.text) == bool(leaks)
    if leaks:
        with pytest.raises(InputError, match=r"1 of 2 train queries share .*drop_leaks=True"):
            check_leaks(data)


def test_an_irrelevant_passage_on_both_sides_is_no_leak() -> None:
    data = make_data({"a": ["pa", "both"], "b": ["pb", "both"]})
    data = replace(data, splits={"train": ["a"], "dev": [], "test": ["b"]})
    assert find_leaks(data) == ["a"]
    data.judgments["b"]["both"] = 0
    assert find_leaks(data) == []


def test_a_limit_draws_by_seed_and_larger_limits_keep_the_smaller_draw() -> None:
    data = make_data({f"q{i}": [f"p{i}"] for i in range(50)})
    data = replace(data, splits={"train": sorted(data.queries), "dev": ["q1"], "test": []})
    few, more = (limit_queries(data, "train", limit, seed=3).splits["train"] for limit in (5, 20))
    assert (len(few), len(more)) == (5, 20)
    assert set(few) < set(more)
    assert few == sorted(few)
    assert few != limit_queries(data, "train", 5, seed=4).splits["train"]
    assert limit_queries(data, "train", 500) == data
    assert limit_queries(data, "train", 5).splits["dev"] == ["q1"]
    for limit in (0, -3):
        with pytest.raises(InputError, match=f"limit of train queries is {limit}; give 1 or more"):
            limit_queries(data, "train", limit)
    with pytest.raises(InputError, match="unknown split 'eval'; give one of train, dev, test"):
        limit_queries(data, "eval", 3)


def test_the_fingerprint_changes_with_every_part_and_not_with_order_or_name() -> None:
    data = make_data({"a": ["pa", "pb"], "b": ["pb"]})
    data = replace(data, candidates={"a": ["pa", "pb"]}, splits={"train": ["a", "b"], "dev": [], "test": []})
    same = replace(data, name="other", licence="x", queries=dict(reversed(data.queries.items())))
    assert fingerprint(same) == fingerprint(data)
    others = [
        replace(data, queries=data.queries | {"a": "query A"}),
        replace(data, passages=data.passages | {"pc": "x"}),
        replace(data, judgments=data.judgments | {"b": {"pb": 2}}),
        replace(data, candidates={"a": ["pb", "pa"]}),
        replace(data, candidates={"apa": ["pb"]}),
        replace(data, splits=data.splits | {"train": ["b", "a"]}),
        replace(data, splits={"train": ["a"], "dev": ["b"], "test": []}),
    ]
    shifted = [replace(data, queries={"a": "bc"}), replace(data, queries={"ab": "c"})]
    assert fingerprint(shifted[0]) != fingerprint(shifted[1])
    assert len({fingerprint(other) for other in [data, *others]}) == len(others) + 1

"""Metrics: hand-computed values, an independent computation, ties, the bootstrap on planted data."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data import InputError
from training.metrics import (
    bootstrap_interval,
    evaluate,
    holm,
    mean,
    paired_bootstrap,
    paired_permutation,
    parse_measures,
    run_from_scores,
)

JUDGMENTS = {"q1": {"a": 2, "b": 1, "unretrieved": 1}, "q2": {"x": 1}, "q3": {"z": 1}}
RUN = {"q1": {"n": 0.9, "b": 0.8, "a": 0.7}, "q2": {"m": 3.0, "x": -1.0}, "unjudged": {"a": 1.0}}


def test_hand_computed_values() -> None:
    values = evaluate(RUN, JUDGMENTS)
    ideal = 2 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)  # the passage never retrieved counts too
    assert values["nDCG@10"]["q1"] == pytest.approx((1 / math.log2(3) + 2 / math.log2(4)) / ideal)
    assert values["nDCG@10"]["q2"] == pytest.approx(1 / math.log2(3))
    assert values["MRR@10"] == pytest.approx({"q1": 0.5, "q2": 0.5, "q3": 0.0})
    assert mean(values["MRR@10"]) == pytest.approx(1 / 3)
    unsorted = evaluate(RUN, dict(reversed(JUDGMENTS.items())))
    assert [*unsorted["MRR@10"]] == [*unsorted["nDCG@10"]] == ["q3", "q2", "q1"]


def test_a_query_without_any_result_counts_zero_and_an_unjudged_one_does_not_count() -> None:
    values = evaluate({"q2": {}, "unjudged": {"a": 1.0}}, JUDGMENTS, ["nDCG@10", "R@100"])
    assert values == {measure: {"q1": 0.0, "q2": 0.0, "q3": 0.0} for measure in ("nDCG@10", "R@100")}


def test_expected_reciprocal_rank_by_hand_whatever_the_queries_are_called() -> None:
    # Its library takes what follows the last hyphen for the query, and wants a number there. Chapelle et al. 2009:
    # grade 2 of 4 satisfies with 3/16, grade 1 with 1/16.
    judged = {"PLAIN-1": {"a": 2}, "OTHER-1": {"c": 1}, "what is it": {"a": 1}}
    ranked = {"PLAIN-1": {"a": 1.0, "b": 0.5}, "OTHER-1": {"d": 3.0, "c": 2.0}, "unjudged": {"a": 1.0}}
    values = evaluate(ranked, judged, ["ERR@10"])["ERR@10"]
    assert values == pytest.approx({"PLAIN-1": 3 / 16, "OTHER-1": 1 / 32, "what is it": 0.0}, abs=1e-4)


def test_cutoff_ten() -> None:
    run = {"q": {f"p{rank}": -float(rank) for rank in range(1, 13)}}
    assert evaluate(run, {"q": {"p10": 1}})["MRR@10"]["q"] == pytest.approx(0.1)
    assert evaluate(run, {"q": {"p11": 1}}) == {"nDCG@10": {"q": 0.0}, "MRR@10": {"q": 0.0}}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_agrees_with_a_plain_computation_on_random_runs(seed: int) -> None:
    generator = np.random.default_rng(seed)
    passages = [f"p{number}" for number in range(20)]
    # Scores from a handful of values: most are tied, and the run's order must decide.
    scores = dict(zip(generator.permutation(passages)[:15], generator.integers(0, 4, 15) / 4, strict=True))
    grades = {str(passage): int(generator.integers(0, 4)) for passage in generator.permutation(passages)[:8]}
    order = sorted(scores, key=lambda passage: -scores[passage])[:10]
    gain = sum(grades.get(passage, 0) / math.log2(rank + 2) for rank, passage in enumerate(order))
    best = sorted(grades.values(), reverse=True)[:10]
    ideal = sum(grade / math.log2(rank + 2) for rank, grade in enumerate(best))
    reciprocal = next((1 / (rank + 1) for rank, p in enumerate(order) if grades.get(p, 0) > 0), 0.0)
    values = evaluate({"q": {str(p): float(s) for p, s in scores.items()}}, {"q": grades})
    assert values["nDCG@10"]["q"] == pytest.approx(gain / ideal if ideal else 0.0)
    assert values["MRR@10"]["q"] == pytest.approx(reciprocal)


@pytest.mark.parametrize("candidates", [["a", "b", "c"], ["c", "b", "a"]])
def test_ties_keep_the_candidates_order_whatever_the_ids(candidates: list[str]) -> None:
    run = run_from_scores({"q": candidates}, {"q": [0.5, 0.5, 0.5]})
    assert list(run["q"]) == candidates
    for measured in (run, {"q": dict.fromkeys(candidates, 0.5)}):
        for rank, relevant in enumerate(candidates, start=1):
            values = evaluate(measured, {"q": {relevant: 1}})
            assert values["MRR@10"]["q"] == pytest.approx(1 / rank)
            assert values["nDCG@10"]["q"] == pytest.approx(1 / math.log2(rank + 1))


def test_scores_that_differ_below_single_precision_are_not_ties() -> None:
    run = run_from_scores({"q": ["a", "b"]}, {"q": [1.0, 1.0 + 1e-12]})
    assert list(run["q"]) == ["b", "a"]
    assert evaluate({"q": {"a": 1.0, "b": 1.0 + 1e-12}}, {"q": {"b": 1}})["MRR@10"]["q"] == 1.0


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"q": [1.0]}, "2 candidates need as many scores, got 1"),
        ({}, "got none"),
        ({"q": [1.0, math.nan]}, "passage 'b': score nan"),
        ({"q": [math.inf, 1.0]}, "passage 'a': score inf"),
    ],
)
def test_scores_that_do_not_fit_are_refused(scores: dict[str, list[float]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_from_scores({"q": ["a", "b"]}, scores)


def test_other_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="unknown measure 'nDGC@10'"):
        evaluate(RUN, JUDGMENTS, ["nDGC@10"])
    with pytest.raises(InputError, match="no judgments"):
        evaluate(RUN, {})
    with pytest.raises(InputError, match="listed twice"):
        run_from_scores({"q": ["a", "a"]}, {"q": [1.0, 2.0]})
    with pytest.raises(InputError, match="same queries"):
        paired_bootstrap({"q1": 1.0}, {"q2": 1.0})


def test_interval_covers_the_planted_mean_about_95_times_in_100() -> None:
    generator = np.random.default_rng(7)
    covered = 0
    for trial in range(300):
        values = dict(enumerate(generator.beta(2, 3, size=60)))  # mean 0.4
        low, high = bootstrap_interval({str(key): value for key, value in values.items()}, trial, 1000)
        covered += low <= 0.4 <= high
    assert 0.91 <= covered / 300 <= 0.98


def test_interval_is_deterministic_and_has_the_width_of_theory() -> None:
    values = {str(i): value for i, value in enumerate(np.random.default_rng(1).normal(0.5, 0.2, size=500))}
    low, high = bootstrap_interval(values, seed=3)
    assert (low, high) == bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)
    deviation = float(np.std(list(values.values()))) / math.sqrt(500)
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.05)


def test_p_is_uniform_without_a_difference_and_small_with_a_planted_one() -> None:
    generator = np.random.default_rng(11)
    false_alarms = 0
    for trial in range(300):
        pairs = generator.normal(0.5, 0.2, size=(40, 2))
        a, b = ({str(i): value for i, value in enumerate(column)} for column in pairs.T)
        false_alarms += paired_bootstrap(a, b, trial, 1000).p < 0.05
    assert 0.02 <= false_alarms / 300 <= 0.09
    shared = generator.uniform(size=200)  # queries differ far more than the two systems do
    b = {str(i): value for i, value in enumerate(shared)}
    a = {str(i): value + 0.02 + generator.normal(0, 0.05) for i, value in enumerate(shared)}
    found = paired_bootstrap(a, b)
    assert found.p < 0.001
    assert 0 < found.low < found.difference < found.high
    assert found.difference == pytest.approx(mean(a) - mean(b))


def test_p_agrees_with_the_t_test() -> None:
    from scipy.stats import ttest_rel

    generator = np.random.default_rng(5)
    a, b = generator.normal(0.5, 0.2, 100), generator.normal(0.45, 0.2, 100)
    found = paired_bootstrap(dict(enumerate_strings(a)), dict(enumerate_strings(b)))
    assert found.p == pytest.approx(ttest_rel(a, b).pvalue, abs=0.015)


def enumerate_strings(values: np.ndarray) -> list[tuple[str, float]]:
    return [(str(index), float(value)) for index, value in enumerate(values)]


def test_differences_without_variance() -> None:
    a = {str(i): 0.5 for i in range(5)}
    assert paired_bootstrap(a, a).p == 1.0
    assert paired_bootstrap(a, dict.fromkeys(a, 0.25)).p == pytest.approx(2**-4)
    assert paired_bootstrap({"only": 1.0}, {"only": 0.0}).p == 1.0


def test_the_least_relevant_grade_holds_for_what_knows_relevant_or_not_alone() -> None:
    names = ["MRR@10", "MAP", "Recall@2", "P@2", "nDCG@10", "AP(rel=1)"]
    one, two = (evaluate(RUN, JUDGMENTS, names, relevant=grade) for grade in (1, 2))
    # q1 ranks n, b (grade 1), a (grade 2); nothing of grade 2 is left for q2.
    assert {name: one[name]["q1"] for name in names} == pytest.approx(
        {"MRR@10": 1 / 2, "MAP": (1 / 2 + 2 / 3) / 3, "Recall@2": 1 / 3, "P@2": 1 / 2}
        | {"nDCG@10": one["nDCG@10"]["q1"], "AP(rel=1)": (1 / 2 + 2 / 3) / 3}
    )
    assert {name: two[name]["q1"] for name in names} == pytest.approx(
        {"MRR@10": 1 / 3, "MAP": 1 / 3, "Recall@2": 0, "P@2": 0}
        | {"nDCG@10": one["nDCG@10"]["q1"], "AP(rel=1)": (1 / 2 + 2 / 3) / 3}
    )
    assert two["MRR@10"]["q2"] == 0
    assert one["MRR@10"]["q2"] == 0.5


@pytest.mark.parametrize(
    "name", ["P", "nDCG(foo=1)@10", "nDCG@ten", "AP@", "", "1", "MRR MRR", "StRecall", "AP(2)", "nDCG@0", "MRR@0"]
)
def test_every_measure_that_can_not_be_computed_is_bad_input(name: str) -> None:
    with pytest.raises(InputError, match="measure"):
        parse_measures([name])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=7))
def test_the_randomization_test_counts_every_sign_flip(sixteenths: list[int]) -> None:
    differences = np.array(sixteenths) / 16
    flips = np.array([*itertools.product([-1, 1], repeat=len(differences))])
    expected = np.mean(np.abs(flips @ differences) >= abs(differences.sum()))
    a, b = dict(enumerate_strings(differences)), dict.fromkeys(map(str, range(len(differences))), 0.0)
    assert paired_permutation(a, b) == pytest.approx(expected)
    assert paired_permutation(b, a) == pytest.approx(expected)


def test_the_randomization_test_by_drawn_flips() -> None:
    from scipy.stats import ttest_rel

    generator = np.random.default_rng(5)
    a, b = generator.normal(0.5, 0.2, 100), generator.normal(0.45, 0.2, 100)
    systems = dict(enumerate_strings(a)), dict(enumerate_strings(b))
    assert paired_permutation(*systems) == pytest.approx(ttest_rel(a, b).pvalue, abs=0.015)
    assert paired_permutation(*systems, seed=1) == paired_permutation(*systems, seed=1)
    assert paired_permutation(*systems, seed=1) != paired_permutation(*systems, seed=2)
    # A planted difference in each of 20 queries: no draw of 999 is as extreme, and p is still not 0.
    assert paired_permutation(dict.fromkeys(map(str, range(20)), 1.0), dict.fromkeys(map(str, range(20)), 0.0),
                              resamples=999) == pytest.approx(2 / 1000)  # fmt: skip


def test_the_randomization_test_errs_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    false_alarms = 0
    for trial in range(200):
        pairs = generator.choice([0, 1 / 3, 1 / 2, 1], size=(30, 2))
        a, b = (dict(enumerate_strings(column)) for column in pairs.T)
        false_alarms += paired_permutation(a, b, trial, 299) < 0.05
    assert 0.01 <= false_alarms / 200 <= 0.09


def test_holm_by_hand() -> None:
    # 3 * 0.01, 2 * 0.03, and 0.04, which may not fall below the one before it.
    assert holm({"b": 0.04, "a": 0.01, "c": 0.03}) == pytest.approx({"b": 0.06, "a": 0.03, "c": 0.06})
    assert [*holm({"b": 0.04, "a": 0.01})] == ["b", "a"]
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm({"a": 0.2}) == {"a": 0.2}
    assert holm({}) == {}

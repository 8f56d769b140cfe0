"""BM25 as the first stage: hand-computed scores, ties, depth and refusals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data import InputError, RankingData
from training.first_stage import _best, bm25_candidates, bm25_run

PASSAGES = {"p1": "red apple", "p2": "green apple apple", "p3": "blue sky over the sea"}


def ranking_data(queries: dict[str, str], passages: dict[str, str] = PASSAGES) -> RankingData:
    return RankingData("small", queries, passages, {}, {}, {}, "none")


def test_scores_equal_the_formula_computed_by_hand() -> None:
    # Lengths without stopwords ("the"): 2, 3 and 4, mean 3. "apple" is in 2 of 3 passages, "red" in 1.
    apple, red = math.log(1 + 1.5 / 2.5), math.log(1 + 2.5 / 1.5)

    def frequency(count: int, length: int) -> float:
        return count / (count + 0.9 * (1 - 0.4 + 0.4 * length / 3))

    run = bm25_run(ranking_data({"q": "The red APPLE?"}), ["q"])
    assert list(run["q"]) == ["p1", "p2"]
    assert run["q"]["p1"] == pytest.approx((apple + red) * frequency(1, 2), rel=1e-6)
    assert run["q"]["p2"] == pytest.approx(apple * frequency(2, 3), rel=1e-6)


def test_equal_scores_are_in_order_of_passage_id_whatever_the_order_of_the_corpus() -> None:
    names = ["d", "a", "c", "e", "b"]
    passages = dict.fromkeys(names, "same words here") | {"z": "other text"}
    for order in (passages, dict(reversed(passages.items()))):
        assert bm25_candidates(ranking_data({"q": "words"}, order), ["q"], depth=3) == {"q": ["a", "b", "c"]}


def test_passages_without_a_shared_word_are_not_retrieved() -> None:
    queries = {"sea": "the sea", "none": "zebra", "stop": "the of and"}
    run = bm25_candidates(ranking_data(queries), ["none", "sea", "stop"], depth=3)
    assert run == {"none": [], "sea": ["p3"], "stop": []}
    assert list(run) == ["none", "sea", "stop"]


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(1, 35))
def test_best_is_the_head_of_a_full_stable_sort(values: list[int], depth: int) -> None:
    expected = sorted((i for i, value in enumerate(values) if value > 0), key=lambda i: -values[i])[:depth]
    assert _best(np.array(values, dtype=np.float32), depth).tolist() == expected


def test_bad_input_is_refused_with_the_remedy() -> None:
    data = ranking_data({"q": "red"})
    with pytest.raises(InputError, match="depth is 0; give 1 or more"):
        bm25_run(data, ["q"], depth=0)
    with pytest.raises(InputError, match="unknown query id 'q7'"):
        bm25_run(data, ["q", "q7"])
    with pytest.raises(InputError, match="no word in 2 passages"):
        bm25_run(ranking_data({"q": "red"}, {"a": "the", "b": "?"}), ["q"])

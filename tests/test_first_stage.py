"""BM25 as the first stage: hand-computed scores, ties, depth and refusals; fused rankings."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data import InputError, RankingData
from training.first_stage import _best, _tokenize, bm25_candidates, bm25_run, fuse

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


def test_scripts_without_spaces_and_korean_are_cut_into_pairs() -> None:
    texts = ["東京都の本 in 2024年", "本", "서울에서 왔다", "ไป", "Tokyo の の", "", "ญี่ปุ่น", "か\u3099く"]
    assert _tokenize(texts) == [
        ["東京", "京都", "都の", "の本", "2024", "年年"], ["本本"], ["서울", "울에", "에서", "왔다"], ["ไป"],
        ["tokyo", "のの", "のの"], [], ["ญี", "ี่", "่ป", "ปุ", "ุ่", "่น"], ["がく"],
    ]  # fmt: skip


def test_marks_on_letters_and_joiners_belong_to_a_word() -> None:
    texts = ["हिन्दी भाषा में", "شَمْس", "தமிழ் மொழி", "می\u200cشد", "❤️\u200d🔥 it's a_b x 2nd", "Ce\u0301cile"]
    assert _tokenize(texts) == [
        ["हिन्दी", "भाषा", "में"], ["شَمْس"], ["தமிழ்", "மொழி"], ["می\u200cشد"], ["a_b", "2nd"], ["cécile"]
    ]  # fmt: skip


def test_a_clause_is_found_by_a_part_of_it() -> None:
    passages = {
        "a": "東京都は日本の首都です。",
        "b": "大阪は日本の都市です。",
        "c": "서울에서 왔다",
        "d": "부산에서 왔다",
    }
    data = RankingData("ja ko", {"q": "東京", "r": "서울은"}, passages, {}, {}, {}, "")
    assert bm25_candidates(data, ["q", "r"]) == {"q": ["a"], "r": ["c"]}


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


def test_fusion_by_hand() -> None:
    fused = fuse([["a", "b", "c"], ["c", "a", "d"]])
    # a: 1/61 + 1/62, c: 1/63 + 1/61, b: 1/62, d: 1/63
    assert list(fused) == ["a", "c", "b", "d"]
    assert fused == pytest.approx({"a": 0.0325225, "c": 0.0322665, "b": 0.0161290, "d": 0.0158730}, abs=1e-7)
    assert list(fuse([["d", "b"], ["c", "a"]])) == ["d", "c", "b", "a"]  # equal sums: the first ranking leads


rankings = st.lists(st.lists(st.integers(0, 12), unique=True, max_size=10), min_size=1, max_size=4)


@given(rankings, st.randoms())
def test_fusion_does_not_depend_on_the_order_of_lists_or_on_names(lists: list[list[int]], random: Any) -> None:
    fused = fuse(lists)
    shuffled = random.sample(lists, len(lists))
    assert fuse(shuffled) == pytest.approx(fused)
    assert fuse([[f"p{item}" for item in ranking] for ranking in lists]) == {f"p{i}": s for i, s in fused.items()}
    assert list(fused.values()) == sorted(fused.values(), reverse=True)
    assert fused.keys() == {item for ranking in lists for item in ranking}


@given(rankings)
def test_what_is_first_in_all_lists_stays_first_and_one_list_keeps_its_order(lists: list[list[int]]) -> None:
    assert next(iter(fuse([[99, *ranking] for ranking in lists]))) == 99
    assert list(fuse([lists[0]])) == lists[0]

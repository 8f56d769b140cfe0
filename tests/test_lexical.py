"""Lexical warm-up examples: where queries and negatives come from, and what is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data import InputError
from training.lexical import lexical_examples

FILLERS = ["of", "to", "42", "is", "--", "x_1"]


def _text(number: int, words: int) -> str:
    """Words that no other text has ("q" + letters), with tokens in between that no query may hold."""
    name = "".join(chr(ord("a") + int(digit)) for digit in f"{number:03d}")
    parts = []
    for position in range(words):
        place = "".join(chr(ord("a") + int(digit)) for digit in f"{position:03d}")
        parts.append(f"({name}{place})," if position % 2 else FILLERS[(number + position) % len(FILLERS)])
    return " ".join(parts)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=4, max_size=12),
    negatives=st.integers(1, 3),
    window=st.integers(6, 24),
    seed=st.integers(0, 2**32),
)
def test_query_words_come_from_the_positive_window_and_negatives_from_other_texts(
    lengths: list[int], negatives: int, window: int, seed: int
) -> None:
    texts = [_text(number, length) for number, length in enumerate(lengths)]
    # Every text twice: a copy of the relevant text must never be a negative.
    usable = [text for text in texts if len(text.split()) >= window]
    if len(usable) <= negatives:
        with pytest.raises(InputError, match=f"got {len(usable)} usable"):
            lexical_examples(texts * 2, 5, negatives=negatives, window=window, seed=seed)
        return
    examples = lexical_examples(texts * 2, 5, negatives=negatives, window=window, seed=seed)
    assert len(examples) == 5
    for example in examples:
        words = example.query.split()
        inside = {token.strip("(),") for token in example.passages[0].split()}
        assert 2 <= len(words) <= 5
        assert len(set(words)) == len(words)
        assert set(words) <= {word for word in inside if len(word) == 6}
        owners = [
            next(number for number, text in enumerate(texts) if f" {passage} " in f" {text} ")
            for passage in example.passages
        ]
        assert len(set(owners)) == negatives + 1 == len(example.passages)
        assert all(len(passage.split()) == window for passage in example.passages)
        assert example.teacher == [4.0, *[-4.0] * negatives]
        assert example.grades == [1, *[0] * negatives]


def test_all_query_lengths_windows_and_texts_are_drawn() -> None:
    texts = [_text(number, 60) for number in range(12)]
    examples = lexical_examples(texts, 600)
    assert {len(example.query.split()) for example in examples} == {2, 3, 4, 5}
    starts = {texts[n].find(e.passages[0]) for e in examples for n in range(12) if e.passages[0] in texts[n]}
    assert len(starts) > 30  # of the 37 windows of a text, whose offsets differ little between texts
    assert {n for e in examples for n in range(12) if e.passages[0] in texts[n]} == set(range(12))
    # Drawn, not read off: otherwise the order of the words would give the window away.
    ordered = [
        sorted(example.query.split(), key=example.passages[0].find) == example.query.split() for example in examples
    ]
    assert 0.1 < sum(ordered) / len(ordered) < 0.5  # expected (1/2 + 1/6 + 1/24 + 1/120) / 4 = 0.18


def test_the_seed_alone_decides() -> None:
    texts = [_text(number, 40) for number in range(10)]
    first = lexical_examples(texts, 20, seed=3)
    assert first == lexical_examples(list(texts), 20, seed=3)
    assert first[:5] == lexical_examples(texts, 5, seed=3)
    assert first != lexical_examples(texts, 20, seed=4)


def test_a_text_without_two_query_words_in_a_window_is_skipped() -> None:
    texts = [_text(number, 40) for number in range(8)]
    same = " ".join(["Word", "word"] * 30)
    apart = " ".join(["alpha", *["of"] * 40, "beta"])
    # Would hang, or give a query of one word, if either were drawn as the relevant text.
    examples = lexical_examples([*texts, same, apart], 300)
    assert not any("of of of" in p or "word" in p.lower() for e in examples for p in e.passages)
    with pytest.raises(InputError, match="got 7 usable ones out of 9"):
        lexical_examples([*texts[:7], same, apart], 1)


@pytest.mark.parametrize("bad", [{"count": -1}, {"count": 1, "negatives": 0}, {"count": 1, "window": 1}])
def test_sizes_that_make_no_example_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"{list(bad)[-1]} is {list(bad.values())[-1]}, expected"):
        lexical_examples([_text(number, 40) for number in range(10)], **bad)

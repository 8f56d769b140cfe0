"""Generated inputs end in a result or a named exception, and never change a bit of what stands beside them.

FUZZ_INPUTS=100000 make test ARGS="tests/test_runtime_fuzz.py"    # as many as for a release, three minutes
"""

import os
import random
from pathlib import Path
from typing import Any

import pytest
from conftest import WORDS
from flashranker import FlashRankerError, InputError, Reranker

INPUTS = int(os.environ.get("FUZZ_INPUTS", "3000"))
# Ranges that text processing trips over: controls, surrogates, right-to-left, combining marks, joiners and directions,
# emoji, CJK, private use, the last planes.
RANGES = [
    (0x00, 0x1F), (0x20, 0x7E), (0x7F, 0xA0), (0xD800, 0xDFFF), (0x590, 0x6FF), (0x300, 0x36F), (0x200B, 0x206F),
    (0x1F300, 0x1FAFF), (0x4E00, 0x9FFF), (0xE000, 0xE0FF), (0xFFF0, 0xFFFF), (0x10FF00, 0x10FFFF),
]  # fmt: skip
NO_TEXT: list[Any] = [None, 3, 2.5, b"bytes", ["list"], {"body": "no text"}, {"text": None}, {"text": 7}, {}]
MEGABYTE_EVERY = 500


def generated_text(chance: random.Random, number: int) -> str:
    if number % MEGABYTE_EVERY == MEGABYTE_EVERY - 1:
        unit = chance.choice(["a", "bread ", "\x00", "\U0001f600", "\u0645 ", "\ud800", "((", "\u4e00"])
        return unit * (1_000_000 // len(unit))
    parts = []
    for _ in range(chance.randrange(6)):
        low, high = chance.choice(RANGES)
        parts.append("".join(chr(chance.randint(low, high)) for _ in range(chance.randrange(12))))
        parts.append(chance.choice([" ", "", *WORDS]))
    return "".join(parts)


def test_generated_inputs_end_in_a_result_or_a_named_error(tiny_artifact: Path) -> None:
    cut, windows = Reranker(tiny_artifact), Reranker(tiny_artifact, long="maxp")
    chance, errors = random.Random(0), list[str]()
    known = cut.score("time", ["bread lock"])[0]
    for number in range(INPUTS):
        ranker = windows if chance.random() < 0.1 else cut
        texts: list[Any] = [generated_text(chance, number) for _ in range(1 + chance.randrange(2))]
        query = chance.choice(["time", "time", generated_text(chance, 0)])
        if chance.random() < 0.05:
            texts[0] = chance.choice(NO_TEXT)
        passages = [*texts, "bread lock"]
        copy = list(passages)
        try:
            hits = ranker.rerank(query, passages, top_n=chance.choice([None, None, 1, 50, 0]))
        except FlashRankerError as error:
            errors.append(str(error))
            continue
        finally:
            assert passages == copy
        assert all(0 <= hit.score <= 1 and abs(hit.logit) < 1e6 for hit in hits)
        assert [hit.logit for hit in hits] == sorted((hit.logit for hit in hits), reverse=True)
        if query == "time":
            assert {hit.logit for hit in hits if hit.index == len(texts)} <= {known}
    assert INPUTS / 20 < len(errors) < INPUTS / 2
    assert [error for error in errors if len(error.splitlines()) != 1 or len(error) > 500] == []


@pytest.mark.parametrize("query", ["\x00" * 50, "\u200b\u200d", "\ud800" * 3, " \u3000 "])
def test_a_query_without_a_word_is_refused(tiny_artifact: Path, query: str) -> None:
    with pytest.raises(InputError, match="the query"):
        Reranker(tiny_artifact).rerank(query, ["bread", ""])


def test_one_endless_word_is_one_unknown_word(tiny_artifact: Path) -> None:
    ranker = Reranker(tiny_artifact)
    assert ranker.score("a" * 100_000, ["bread"]) == ranker.score("\u4e9c", ["bread"])

"""Lexical warm-up: made-up examples from which a small student first learns to match words.

A two-layer cross-encoder does not start to compare query with passage on ranking data alone; on these it
does, within some hundred steps. They need texts only, no judgments.
"""

import random
import re
from collections.abc import Sequence

from training.data import InputError
from training.examples import Example

MIN_QUERY_WORDS = 2
MAX_QUERY_WORDS = 5
# Eight logits apart, so that a softmax over a handful of passages is all but certain and yet within reach,
# and symmetric, as the probability of an undecided pair is a half.
TEACHER_LOGIT = 4.0

# Runs of letters; words of one or two are nearly all function words, which match anything.
_QUERY_WORD = re.compile(r"[^\W\d_]{3,}")


def lexical_examples(
    texts: Sequence[str], count: int, *, negatives: int = 7, window: int = 24, seed: int = 0
) -> list[Example]:
    """`count` examples: 2 to 5 words of a window of `window` words of a text, which is the relevant passage.

    The words are distinct without case, have three letters or more, and come in random order. The
    `negatives` others are windows of as many other texts, each drawn anew. A text counts once, and only with
    at least `window` words and two usable words within one window. The teacher's logits are +4 and -4.
    The same texts and seed give the same examples.

    Raises InputError for a size below 1 or fewer than `negatives` + 1 usable texts.
    """
    for name, value, least in (("count", count, 0), ("negatives", negatives, 1), ("window", window, 2)):
        if value < least:
            raise InputError(f"lexical examples: {name} is {value}, expected {least} or more")
    split = [text.split() for text in dict.fromkeys(texts)]
    usable = [words for words in split if len(words) >= window and _has_query(words, window)]
    if len(usable) < negatives + 1:
        raise InputError(
            f"lexical examples with {negatives} negatives need {negatives + 1} distinct texts of {window} "
            f"words or more, got {len(usable)} usable ones out of {len(texts)}: pass more texts or a shorter window"
        )
    # Not numpy: drawing a few of many without replacement costs it time in the number of texts.
    generator = random.Random(seed)
    teacher = [TEACHER_LOGIT] + [-TEACHER_LOGIT] * negatives
    grades = [1] + [0] * negatives
    examples = []
    for _ in range(count):
        positive, *others = generator.sample(usable, negatives + 1)
        while True:
            relevant = _window(positive, window, generator)
            words = _query_words(relevant)
            if len(words) >= MIN_QUERY_WORDS:
                break
        drawn = generator.sample(words, min(generator.randint(MIN_QUERY_WORDS, MAX_QUERY_WORDS), len(words)))
        passages = [relevant, *(_window(other, window, generator) for other in others)]
        examples.append(Example(" ".join(drawn), passages, list(teacher), list(grades)))
    return examples


def _window(words: list[str], window: int, generator: random.Random) -> str:
    start = generator.randint(0, len(words) - window)
    return " ".join(words[start : start + window])


def _query_words(text: str) -> list[str]:
    """Distinct words of three letters or more, in order; of two that differ by case only, the last."""
    return list({word.casefold(): word for word in _QUERY_WORD.findall(text)}.values())


def _has_query(words: list[str], window: int) -> bool:
    """Whether some window holds two different query words, told from neighbours among all of them."""
    last, place = "", -window
    for position, token in enumerate(words):
        for found in _QUERY_WORD.findall(token):
            word = found.casefold()
            if last not in ("", word) and position - place < window:
                return True
            last, place = word, position
    return False

"""Passages to token ids: word by word with a memory of words seen, where the tokenizer reads words one by one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from flashranker.inputs import encodable

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# What BERT's tokenizer never joins: it splits at these blanks, and takes each ASCII punctuation mark by itself. What
# lies between them is left to the library, whatever script it is in.
WORD = re.compile(r"[^ \t\n\r!-/:-@\[-`{-~]+|[!-/:-@\[-`{-~]")
WORDS_KEPT = 50_000  # some 10 MB
LONGEST_KEPT = 40  # characters
WORDS_AT_ONCE = 4_096

Read = Callable[[str], np.ndarray]  # a passage's token ids, int64 (tokens,), without special tokens


def passage_reader(tokenizer: Tokenizer) -> Read:
    """How passages become token ids with this tokenizer, from any thread: the same ids as it gives by itself.

    A WordPiece tokenizer with BERT's normalizer and pre-tokenizer gives a word the same ids wherever it stands, so
    words are looked up, and only new ones are tokenized.
    """
    parts = [tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.model]
    added = tokenizer.get_added_tokens_decoder()
    # Tokens that no word becomes.
    separators = [
        number
        for number, token in added.items()
        if not WORD.fullmatch(token.content)
        and not token.content.startswith(getattr(parts[2], "continuing_subword_prefix", ""))
        and token.content != getattr(parts[2], "unk_token", None)
    ]
    if (
        [type(part).__name__ for part in parts] != ["BertNormalizer", "BertPreTokenizer", "WordPiece"]
        or any(token.normalized for token in added.values())  # sought in the normalized text, which is not seen here
        or any(set(token.content) & set(" \t\n\r") for token in added.values())  # blanks are put between words here
        or not separators
    ):
        return lambda passage: token_ids(tokenizer, passage)
    special = [token.content for token in added.values()]
    number, separator = separators[0], f" {added[separators[0]].content} "
    words: dict[str, bytes] = {}  # a word's ids, int64

    def read(passage: str) -> np.ndarray:
        text = encodable(passage)
        if any(content in text for content in special):  # "[SEP]" within a text is one token
            return token_ids(tokenizer, text)
        found = WORD.findall(text)
        kept = list(map(words.get, found))
        parts = [ids for ids in kept if ids is not None]
        if len(parts) < len(kept):
            new = list(dict.fromkeys(word for word, ids in zip(found, kept, strict=True) if ids is None))
            known: dict[str, bytes] = {}
            # In parts, because the library takes hundreds of bytes for each token of a text.
            for part in (new[start : start + WORDS_AT_ONCE] for start in range(0, len(new), WORDS_AT_ONCE)):
                known.update(zip(part, split(token_ids(tokenizer, separator.join(part)), number), strict=True))
            if len(words) + len(known) > WORDS_KEPT:
                words.clear()
            kept_now = (item for item in known.items() if len(item[0]) <= LONGEST_KEPT)
            words.update(islice(kept_now, WORDS_KEPT))
            parts = [known[word] if ids is None else ids for word, ids in zip(found, kept, strict=True)]
        return np.frombuffer(b"".join(parts), np.int64)

    return read


def token_ids(tokenizer: Tokenizer, passage: str) -> np.ndarray:
    """Token ids of a passage by the tokenizer itself, int64 (tokens,), without special tokens."""
    # A batch of one, because it lets other Python threads go on meanwhile and skips the character offsets.
    (tokens,) = tokenizer.encode_batch_fast([encodable(passage)], add_special_tokens=False)
    return np.array(tokens.ids, np.int64)


def split(ids: np.ndarray, separator: int) -> Iterator[bytes]:
    """The bytes of what lies before, between and behind the separators; n of them give n + 1 parts."""
    start = 0
    for place in np.flatnonzero(ids == separator).tolist():
        yield ids[start:place].tobytes()
        start = place + 1
    yield ids[start:].tobytes()

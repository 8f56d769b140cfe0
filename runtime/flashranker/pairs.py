"""Query and passage text to model inputs: the query whole, the passage cut on its right where it must be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flashranker.errors import ArtifactError, InputError
from flashranker.inputs import encodable
from flashranker.words import token_ids

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Frame:
    """A tokenized query with its special tokens: what stands around a passage, and how long that may be."""

    ids_before: np.ndarray  # all int64 (tokens,)
    ids_after: np.ndarray
    types_before: np.ndarray
    types_after: np.ndarray
    passage_types: np.ndarray  # of a passage that fills the room
    room: int  # tokens


def load_tokenizer(path: Path) -> Tokenizer:
    """Load tokenizer.json without its padding and truncation; ArtifactError if it cannot join pairs."""
    from tokenizers import Tokenizer  # here, and not above: see session.py

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ArtifactError(f"{path} is no tokenizer ({error}): export the artifact again") from error
    if tokenizer.post_processor is None:
        raise ArtifactError(f"{path} has no post_processor, expected one that joins pairs: export it again")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def frame_query(tokenizer: Tokenizer, query: str, max_length: int) -> Frame:
    """Tokenize a query once for all its passages.

    A quarter of `max_length` is kept for the passage: a query that leaves less, or that has no token at all
    (say, control characters alone), raises InputError. It is never cut.
    """
    count = len(token_ids(tokenizer, query))
    if count == 0:
        raise InputError(f"the query {query[:40]!r} has no token for this model, expected words: rephrase it")
    # Before its offsets are made, which for a query of megabytes take gigabytes.
    limit = max_length - tokenizer.num_special_tokens_to_add(is_pair=True) - max_length // 4
    if count > limit:
        raise InputError(
            f"the query has {count} tokens, expected at most {limit} (a quarter of max_length "
            f"{max_length} is kept for the passage): shorten the query"
        )
    tokens = tokenizer.encode(encodable(query), add_special_tokens=False)
    # The query stands in for the passage: the tokenizer's own template then says what goes around one.
    pair = tokenizer.post_process(tokens, tokens)
    place = [position for position, sequence in enumerate(pair.sequence_ids) if sequence == 1]
    start, stop = place[0], place[-1] + 1
    room = max_length - (len(pair) - len(place))
    ids, types = np.array(pair.ids, np.int64), np.array(pair.type_ids, np.int64)
    return Frame(ids[:start], ids[stop:], types[:start], types[stop:], np.full(room, types[start]), room)


def join(tokenizer: Tokenizer, frame: Frame, passage: str) -> tuple[dict[str, np.ndarray], bool]:
    """Return the inputs of one pair, int64 (1, length) without padding, and whether the passage was cut.

    The same as `tokenizer.encode(query, passage)` with truncation "only_second", of the query's frame.
    """
    ids = token_ids(tokenizer, passage)
    return framed(frame, ids[: frame.room]), len(ids) > frame.room


def windows(ids: np.ndarray, room: int) -> list[np.ndarray]:
    """Cut a passage's token ids into windows of at most `room` tokens that overlap by a quarter.

    As few as cover it all, the overlap made larger rather than the last window short: a short window would be judged
    on a sentence or two. A passage that fits is one window.
    """
    if len(ids) <= room:
        return [ids]
    step = room - room // 4
    count = 1 - (room - len(ids)) // step  # 1 + ceil((len - room) / step)
    last = len(ids) - room
    return [ids[start : start + room] for start in (last * i // (count - 1) for i in range(count))]


def framed(frame: Frame, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Model inputs, int64 (1, length), of the query with a passage's token ids in its frame."""
    joined = np.concatenate((frame.ids_before, ids, frame.ids_after))[None]
    types = np.concatenate((frame.types_before, frame.passage_types[: len(ids)], frame.types_after))[None]
    return {"input_ids": joined, "attention_mask": np.ones_like(joined), "token_type_ids": types}

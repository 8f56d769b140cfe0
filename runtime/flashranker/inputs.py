"""What a caller may ask for: every check is made before anything runs, and no input is changed."""

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from flashranker.errors import InputError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Request:
    """One checked query with its passages as given and their texts, in the same order."""

    query: str
    passages: list[Any]
    texts: list[str]


def check_request(query: Any, passages: Any, where: str = "") -> Request:
    """Return the request, or raise InputError; `where` stands before each message, such as "request 3: "."""
    if not isinstance(query, str):
        raise InputError(f"{where}the query is {_kind(query)}, expected a string: pass the text to search for")
    if not query.strip():
        raise InputError(f"{where}the query is empty, expected words to search for: skip reranking without them")
    if isinstance(passages, (str, bytes, Mapping)) or not isinstance(passages, Iterable):
        raise InputError(
            f"{where}passages is {_kind(passages)}, expected a list of strings or mappings: put it in a list"
        )
    given = list(passages)
    return Request(_plain(query), given, [_text(passage, f"{where}passage {i}") for i, passage in enumerate(given)])


def check_requests(requests: Any) -> list[Request]:
    """Return the requests of a list of (query, passages), or raise InputError naming the one at fault."""
    if isinstance(requests, (str, bytes, Mapping)) or not isinstance(requests, Iterable):
        raise InputError(f"requests is {_kind(requests)}, expected a list of (query, passages): put it in a list")
    checked = []
    for number, request in enumerate(requests):
        if not isinstance(request, (tuple, list)) or len(request) != 2:
            raise InputError(f"request {number} is {_kind(request)}, expected a pair: pass (query, passages)")
        query, passages = request
        checked.append(check_request(query, passages, f"request {number}: "))
    return checked


def check_count(value: Any, name: str, low: int, high: int | None = None) -> int:
    """Return `value` as an int from `low` to `high` (None: no limit), or raise InputError on `name`."""
    bounds = f"an integer of {low} or more" if high is None else f"an integer from {low} to {high}"
    try:
        count = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = None
    if count is None or count < low or (high is not None and count > high):
        # Python writes no integer of thousands of digits.
        shown = f"{value!r:.60}" if count is None or abs(count) < 1 << 200 else f"of {count.bit_length()} bits"
        raise InputError(f"{name} is {shown}, expected {bounds}: change it or leave it out")
    return count


def encodable(text: str) -> str:
    """Return `text` as the tokenizer can take it: surrogate pairs joined, lone surrogates as U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _text(passage: Any, where: str) -> str:
    text = passage
    if isinstance(passage, Mapping):
        if "text" not in passage:
            raise InputError(f'{where} has no "text", expected a string under that key: add it')
        text, where = passage["text"], f'{where}\'s "text"'
    if not isinstance(text, str):
        raise InputError(f'{where} is {_kind(text)}, expected a string or a mapping with "text": drop or fix it')
    return _plain(text)


def _plain(text: str) -> str:
    """The text alone: what is derived from str may carry a whole document, which the memory of tokens would keep."""
    return str.__str__(text)


def _kind(value: Any) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


def check_items(items: Iterable[Any], kind: type[Item], name: str) -> list[Item]:
    """Return `items` as a list, or raise InputError unless each is a `kind`; `name` is the argument's."""
    if isinstance(items, (str, bytes, Mapping)) or not isinstance(items, Iterable):
        raise InputError(f"{name} is {items!r:.40}, expected a list of {kind.__name__}: put it in a list")
    given = list(items)
    for number, item in enumerate(given):
        if not isinstance(item, kind):
            raise InputError(f"{name}[{number}] is {item!r:.40}, expected a {kind.__name__}: wrap it in one")
    return given

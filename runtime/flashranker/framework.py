"""What the modules that need an extra share: langchain.py, llama_index.py, haystack.py and hub.py."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from flashranker.cascade import Cascade
from flashranker.errors import InputError
from flashranker.inputs import check_count
from flashranker.reranker import Reranker

Item = TypeVar("Item")


def not_installed(extra: str, error: ImportError) -> ImportError:
    """The error to raise where importing a framework failed with `error`: it names the command that installs it."""
    module = extra.replace("-", "_")
    return ImportError(f'flashranker.{module} found no usable {extra} ({error}): pip install "flashranker[{extra}]"')


def as_ranker(model: Any, **settings: Any) -> Reranker | Cascade:
    """A ranker as it is; anything else as the path of a model, loaded with these settings and errors of `Reranker`."""
    return model if isinstance(model, (Reranker, Cascade)) else Reranker(model, **settings)


def check_top(value: Any, name: str) -> int | None:
    """Return how many to keep (None: all), or raise InputError on `name`."""
    return None if value is None else check_count(value, name, 1)


def check_items(items: Iterable[Any], kind: type[Item], name: str) -> list[Item]:
    """Return `items` as a list, or raise InputError unless each is a `kind`; `name` is the argument's."""
    if isinstance(items, (str, bytes, Mapping)) or not isinstance(items, Iterable):
        raise InputError(f"{name} is {items!r:.40}, expected a list of {kind.__name__}: put it in a list")
    given = list(items)
    for number, item in enumerate(given):
        if not isinstance(item, kind):
            raise InputError(f"{name}[{number}] is {item!r:.40}, expected a {kind.__name__}: wrap it in one")
    return given

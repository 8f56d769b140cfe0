"""What the modules that need an extra share: langchain.py, llama_index.py, haystack.py and hub.py."""

from typing import Any

from flashranker.cascade import Cascade
from flashranker.inputs import check_count
from flashranker.reranker import Reranker


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

"""The models of a command line: NAME=MODEL, and MODEL,MODEL for a cascade."""

from collections.abc import Callable, Sequence
from pathlib import Path

from flashranker.cascade import Cascade
from flashranker.errors import InputError
from flashranker.reranker import Reranker

Ranker = Reranker | Cascade


def open_models(given: Sequence[str], open_model: Callable[[str], Ranker]) -> dict[str, Ranker]:
    """Open each; its name is what stands before "=", or else its folders' names. Raises InputError for a name twice."""
    models: dict[str, Ranker] = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not equals or not name or Path(one).exists():
            path, name = (
                one,
                ",".join(Path(part).resolve().name for part in ([one] if Path(one).is_dir() else one.split(","))),
            )
        if name in models:
            raise InputError(f"two models are called {name!r}: put another name before one, NAME={path}")
        models[name] = open_model(path)
    return models

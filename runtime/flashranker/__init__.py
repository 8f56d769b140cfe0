"""FlashRanker: rerank search results on a CPU with small int8 cross-encoders."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashranker.artifact import Manifest
    from flashranker.cache import ScoreCache
    from flashranker.cascade import Cascade
    from flashranker.errors import (
        ArtifactError,
        CacheError,
        FlashRankerError,
        FormatError,
        InputError,
        ModelNotFoundError,
    )
    from flashranker.reranker import Hit, Reranker

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "CacheError",
    "Cascade",
    "FlashRankerError",
    "FormatError",
    "Hit",
    "InputError",
    "Manifest",
    "ModelNotFoundError",
    "Reranker",
    "ScoreCache",
    "__version__",
]

# numpy takes three quarters of the time that all of it takes: a name is looked for when it is first used (PEP 562).
_MODULES = {
    "Manifest": "artifact", "ScoreCache": "cache", "Cascade": "cascade", "Hit": "reranker", "Reranker": "reranker"
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

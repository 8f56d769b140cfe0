"""FlashRanker: rerank search results on a CPU with small int8 cross-encoders."""

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

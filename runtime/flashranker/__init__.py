"""FlashRanker: rerank search results on a CPU with small int8 cross-encoders."""

from flashranker.artifact import Manifest
from flashranker.errors import ArtifactError, FlashRankerError, FormatError, InputError, ModelNotFoundError
from flashranker.reranker import Hit, Reranker

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "FlashRankerError",
    "FormatError",
    "Hit",
    "InputError",
    "Manifest",
    "ModelNotFoundError",
    "Reranker",
    "__version__",
]

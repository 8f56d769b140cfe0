"""FlashRank's interface (0.2): change `from flashrank import ...` to `from flashranker.compat import ...`.

On the same folder the scores are FlashRank's for a passage by itself: the sigmoid of the logit, not a calibrated
probability. In a list FlashRank's int8 scores depend a little on the other passages; these do not. What else differs is
what surprised its users: the passages given are not changed, scores are plain floats, an empty list gives an empty
list, the passage and never the query is cut, and nothing is downloaded.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flashranker.artifact import MANIFEST_NAME, SHORTEST_LENGTH, read_manifest
from flashranker.errors import InputError
from flashranker.foreign import describe_foreign
from flashranker.inputs import check_count, check_items
from flashranker.reranker import Reranker, sigmoid


class RerankRequest:
    """A query and passages: mappings with a "text", and whatever else the caller wants back."""

    def __init__(self, query: str | None = None, passages: Sequence[Mapping[str, Any]] | None = None) -> None:
        self.query = query
        self.passages = [] if passages is None else passages


class Ranker:
    """`Ranker(model_name, cache_dir)` loads the folder `cache_dir/model_name`: FlashRank's own, or an artifact.

    The defaults are FlashRank's, so a model that it has downloaded is found. `max_length` is in tokens, cut to what the
    model reads. Raises the errors of `Reranker`.
    """

    def __init__(
        self,
        model_name: str = "ms-marco-TinyBERT-L-2-v2",
        cache_dir: str | Path = "/tmp",
        max_length: int = 512,
        log_level: str = "INFO",
    ) -> None:
        if not isinstance(model_name, str) or not isinstance(cache_dir, (str, Path)):
            raise InputError(
                f"the model is {model_name!r} in {cache_dir!r}, expected a name and a folder: pass strings"
            )
        folder = Path(cache_dir) / model_name
        longest = check_count(max_length, "max_length", SHORTEST_LENGTH)
        # Path.is_file raises for a name that is too long.
        foreign = not os.path.isfile(folder / MANIFEST_NAME)
        manifest = describe_foreign(folder)[1] if foreign else read_manifest(folder)
        self.ranker = Reranker(folder, foreign=foreign, max_length=min(longest, manifest.max_length))

    def rerank(self, request: RerankRequest) -> list[dict[str, Any]]:
        """Copies of the passages with a "score" in 0..1, best first.

        Raises InputError for a passage that is no mapping, as FlashRank fails on it, and all that `Reranker` refuses.
        """
        if request.query is None:
            raise InputError("the request has no query, expected a string: pass RerankRequest(query=..., passages=...)")
        passages = check_items(request.passages, Mapping, "passages")  # type: ignore[type-abstract]
        hits = self.ranker.rerank(request.query, passages)
        return [{**hit.passage, "score": sigmoid(hit.logit)} for hit in hits]

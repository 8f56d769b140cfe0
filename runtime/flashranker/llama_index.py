"""Rerank inside LlamaIndex: `FlashRankerPostprocessor("artifacts/nano", top_n=5)` among the node_postprocessors."""

import os
from typing import Any

from flashranker.cascade import Cascade
from flashranker.errors import InputError
from flashranker.framework import as_ranker, check_top, not_installed
from flashranker.inputs import check_items
from flashranker.reranker import Hit, Reranker

try:
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
except ImportError as error:
    raise not_installed("llama-index", error) from error


class FlashRankerPostprocessor(BaseNodePostprocessor):
    """The `top_n` (None: all) nodes most relevant to a query, best first.

    What comes back are copies whose score is the calibrated probability. Their metadata also has "logit" and, where the
    node came with a score, "retrieval_score"; neither is shown to an LLM or an embedding. The nodes given are not
    changed. `model` is the path of an artifact folder, or a Reranker or Cascade. It reads a node's text alone, or with
    the metadata that `metadata_mode` puts before it (MetadataMode.EMBED: what an embedding sees).

    Raises the errors of `Reranker`, as its methods do.
    """

    ranker: Reranker | Cascade
    top_n: int | None = None
    metadata_mode: MetadataMode = MetadataMode.NONE

    # Checked here and not by pydantic, whose ValidationError would hide the named errors.
    def __init__(
        self,
        model: str | os.PathLike[str] | Reranker | Cascade,
        top_n: int | None = None,
        metadata_mode: MetadataMode = MetadataMode.NONE,
    ) -> None:
        if metadata_mode not in list(MetadataMode):
            modes = ", ".join(mode.value for mode in MetadataMode)
            raise InputError(f"metadata_mode is {metadata_mode!r}, expected one of {modes}: which metadata to read")
        fields: dict[str, Any] = {
            "top_n": check_top(top_n, "top_n"),
            "ranker": as_ranker(model),
            "metadata_mode": metadata_mode,
        }
        super().__init__(**fields)

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex reports this component."""
        return "FlashRankerPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        given = check_items(nodes, NodeWithScore, "nodes")
        return _ranked(given, self.ranker.rerank(_query(query_bundle), self._texts(given), self.top_n))

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        given = check_items(nodes, NodeWithScore, "nodes")
        return _ranked(given, await self.ranker.arerank(_query(query_bundle), self._texts(given), self.top_n))

    def _texts(self, nodes: list[NodeWithScore]) -> list[str]:
        return [scored.node.get_content(self.metadata_mode) for scored in nodes]


def _query(bundle: QueryBundle | None) -> str:
    if bundle is None:
        raise InputError("there is no query, expected one to rank by: pass query_str or query_bundle")
    return bundle.query_str


def _ranked(nodes: list[NodeWithScore], hits: list[Hit]) -> list[NodeWithScore]:
    return [_scored(nodes[hit.index], hit) for hit in hits]


def _scored(given: NodeWithScore, hit: Hit) -> NodeWithScore:
    node = given.node
    added = {"logit": hit.logit}
    if given.score is not None:
        added["retrieval_score"] = given.score
    hidden = {
        name: list(dict.fromkeys([*getattr(node, name), *added]))
        for name in ("excluded_llm_metadata_keys", "excluded_embed_metadata_keys")
    }
    copy = node.model_copy(update={"metadata": {**node.metadata, **added}, **hidden})
    return given.model_copy(update={"node": copy, "score": hit.score})

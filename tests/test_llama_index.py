"""`FlashRankerPostprocessor` in LlamaIndex: scored copies of nodes, in the order of `Reranker.rerank`."""

import asyncio
import copy
from pathlib import Path

import pytest
from conftest import WORDS, import_error_without, readme_snippet
from flashranker import Cascade, InputError, ModelNotFoundError, Reranker
from flashranker.llama_index import FlashRankerPostprocessor
from llama_index.core.schema import IndexNode, MetadataMode, NodeRelationship, NodeWithScore, QueryBundle, TextNode

QUERY = "time water"
TEXTS = [f"{word} {other}" for word in WORDS[:6] for other in WORDS[6:12]]


def nodes() -> list[NodeWithScore]:
    """Nodes that came with a score and have a neighbour, but for the first, an IndexNode without a score."""
    made: list[TextNode] = [IndexNode(id_="n0", text=TEXTS[0], metadata={"source": "0.md"}, index_id="other")]
    for number, text in enumerate(TEXTS[1:], 1):
        node = TextNode(id_=f"n{number}", text=text, metadata={"source": f"{number}.md"})
        node.relationships[NodeRelationship.PREVIOUS] = made[-1].as_related_node_info()
        made.append(node)
    return [NodeWithScore(node=node, score=number / 100 if number else None) for number, node in enumerate(made)]


def test_nodes_are_scored_copies_in_the_order_of_rerank(tiny_artifact: Path) -> None:
    given = nodes()
    before = copy.deepcopy(given)
    found = FlashRankerPostprocessor(tiny_artifact, top_n=7).postprocess_nodes(given, query_str=QUERY)
    assert given == before
    hits = Reranker(tiny_artifact).rerank(QUERY, TEXTS)
    assert len(found) == 7
    everything = FlashRankerPostprocessor(str(tiny_artifact)).postprocess_nodes(given, QueryBundle(QUERY))
    assert everything[:7] == found
    assert [scored.score for scored in everything] == [hit.score for hit in hits]
    for scored, hit in zip(everything, hits, strict=True):
        source = given[hit.index]
        added = {"logit": hit.logit, "retrieval_score": hit.index / 100}
        if hit.index == 0:
            del added["retrieval_score"]
        assert type(scored.node) is type(source.node)
        assert scored.node.metadata == {"source": f"{hit.index}.md", **added}
        changed = {"metadata", "excluded_llm_metadata_keys", "excluded_embed_metadata_keys"}
        assert scored.node.model_dump(exclude=changed) == source.node.model_dump(exclude=changed)
        for mode in (MetadataMode.LLM, MetadataMode.EMBED):  # the scores are not for a model to read
            assert scored.node.get_content(mode) == source.node.get_content(mode)
    assert FlashRankerPostprocessor(tiny_artifact).postprocess_nodes([], query_str=QUERY) == []


def test_a_second_pass_keeps_the_score_of_the_first(tiny_artifact: Path) -> None:
    postprocessor = FlashRankerPostprocessor(tiny_artifact)
    once = postprocessor.postprocess_nodes(nodes(), query_str="lock")
    twice = postprocessor.postprocess_nodes(once, query_str=QUERY)
    before = {scored.node_id: scored.score for scored in once}
    assert {scored.node_id: scored.metadata["retrieval_score"] for scored in twice} == before
    assert {tuple(scored.node.excluded_llm_metadata_keys) for scored in twice} == {("logit", "retrieval_score")}


def test_a_ranker_with_settings_of_its_own_is_used_as_it_is(tiny_artifact: Path) -> None:
    long = [
        NodeWithScore(node=TextNode(text="bread time water " * 20)),
        NodeWithScore(node=TextNode(text="lock " * 40)),
    ]
    for ranker in (
        Reranker(tiny_artifact, max_length=16, long="maxp"),
        Cascade([Reranker(tiny_artifact, max_length=16), Reranker(tiny_artifact)], keep=1),
    ):
        hits = ranker.rerank("lock", [scored.node.get_content() for scored in long])
        found = FlashRankerPostprocessor(ranker).postprocess_nodes(long, query_str="lock")
        assert [scored.metadata["logit"] for scored in found] == [hit.logit for hit in hits]
        assert [scored.node_id for scored in found] == [long[hit.index].node_id for hit in hits]


def test_metadata_is_read_only_when_asked_for(tiny_artifact: Path) -> None:
    given = [
        NodeWithScore(node=TextNode(text=text, metadata={"title": title, "path": "river"}))
        for text, title in (("lock", "bread"), ("time", "water"))
    ]
    for scored in given:
        scored.node.excluded_embed_metadata_keys = ["path"]
    ranker = Reranker(tiny_artifact)
    for mode, texts in (
        (MetadataMode.NONE, ["lock", "time"]),
        (MetadataMode.EMBED, ["title: bread\n\nlock", "title: water\n\ntime"]),
    ):
        found = FlashRankerPostprocessor(ranker, metadata_mode=mode).postprocess_nodes(given, query_str=QUERY)
        assert [scored.metadata["logit"] for scored in found] == [hit.logit for hit in ranker.rerank(QUERY, texts)]
    assert FlashRankerPostprocessor(ranker).metadata_mode == MetadataMode.NONE


def test_async_gives_the_same_and_leaves_the_loop_free(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    postprocessor = FlashRankerPostprocessor(tiny_artifact, top_n=5)
    expected = postprocessor.postprocess_nodes(nodes(), query_str=QUERY)
    monkeypatch.setattr(Reranker, "rerank", lambda *_: pytest.fail("arerank was not used"))
    assert asyncio.run(postprocessor.apostprocess_nodes(nodes(), query_str=QUERY)) == expected


def test_bad_input_is_named(tiny_artifact: Path) -> None:
    postprocessor = FlashRankerPostprocessor(tiny_artifact)
    with pytest.raises(InputError, match=r"nodes\[1\] is TextNode.*expected a NodeWithScore"):
        postprocessor.postprocess_nodes([nodes()[0], TextNode(text="bread")], query_str=QUERY)  # type: ignore[list-item]
    with pytest.raises(InputError, match="nodes is None, expected a list of NodeWithScore"):
        postprocessor.postprocess_nodes(None, query_str=QUERY)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="there is no query"):
        postprocessor.postprocess_nodes(nodes())
    with pytest.raises(InputError, match="the query is empty"):
        asyncio.run(postprocessor.apostprocess_nodes(nodes(), query_str=""))
    with pytest.raises(InputError, match="top_n is 0"):
        FlashRankerPostprocessor(tiny_artifact, top_n=0)
    with pytest.raises(InputError, match="metadata_mode is 'some', expected one of all, embed, llm, none"):
        FlashRankerPostprocessor(tiny_artifact, metadata_mode="some")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="model is 5, expected the path"):
        FlashRankerPostprocessor(5)  # type: ignore[arg-type]
    with pytest.raises(ModelNotFoundError, match="absent"):
        FlashRankerPostprocessor(tiny_artifact / "absent")


def test_without_llama_index_the_import_names_the_command() -> None:
    message = import_error_without("llama_index", "flashranker.llama_index")
    assert message.endswith("No module named 'llama_index'): pip install \"flashranker[llama-index]\"")


def test_the_readmes_snippet_runs(tiny_artifact: Path) -> None:
    names = readme_snippet("LlamaIndex", tiny_artifact)
    texts, query = names["texts"], names["query"]
    hits = Reranker(tiny_artifact).rerank(query, texts, top_n=2)
    found = [(scored.text, scored.score) for scored in names["response"].source_nodes]
    assert found == [(texts[hit.index], hit.score) for hit in hits]

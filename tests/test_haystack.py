"""`FlashRankerComponent` in Haystack: run, saved with its pipeline and loaded again."""

import asyncio
import copy
from pathlib import Path

import pytest
import yaml
from conftest import WORDS, import_error_without, readme_snippet
from flashranker import Cascade, InputError, ModelNotFoundError, Reranker
from flashranker.haystack import FlashRankerComponent
from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.core.errors import DeserializationError
from haystack.document_stores.in_memory import InMemoryDocumentStore

QUERY = "time water"
TEXTS = [f"{word} {other}" for word in WORDS[:6] for other in WORDS[6:12]]
OWN = "flashranker.haystack"


def documents() -> list[Document]:
    """Documents whose ids are hashes of their content, but for the first, and which came with a score."""
    return [
        Document(id="" if number else "first", content=text, meta={"source": f"{number}.md"}, score=number / 100)
        for number, text in enumerate(TEXTS)
    ]


def test_documents_are_scored_copies_in_the_order_of_rerank(tiny_artifact: Path) -> None:
    given = documents()
    before = copy.deepcopy(given)
    component = FlashRankerComponent(str(tiny_artifact), top_k=7)
    found = component.run(QUERY, given)["documents"]  # with no warm_up before it
    assert given == before
    hits = Reranker(tiny_artifact).rerank(QUERY, TEXTS)
    expected = [
        Document(
            id=given[hit.index].id,
            content=TEXTS[hit.index],
            meta={"source": f"{hit.index}.md", "logit": hit.logit},
            score=hit.score,
        )
        for hit in hits
    ]
    assert found == expected[:7]
    assert component.run(QUERY, given, top_k=3) == {"documents": expected[:3]}
    assert component.run(QUERY, given, top_k=9) == {"documents": expected[:9]}
    assert FlashRankerComponent(tiny_artifact).run(QUERY, given) == {"documents": expected}
    assert component.run(QUERY, []) == {"documents": []}


def test_a_model_is_loaded_once_and_when_it_is_needed(tiny_artifact: Path) -> None:
    absent = FlashRankerComponent(tiny_artifact / "absent")
    with pytest.raises(ModelNotFoundError, match="absent"):
        absent.warm_up()
    component = FlashRankerComponent(tiny_artifact, max_length=16, long="maxp", threads=1)
    component.warm_up()
    loaded = component._ranker
    assert isinstance(loaded, Reranker)
    assert (loaded.max_length, loaded.long, loaded.threads) == (16, "maxp", 1)
    component.warm_up()
    component.run(QUERY, documents())
    assert component._ranker is loaded


def test_a_ranker_with_settings_of_its_own_is_used_as_it_is(tiny_artifact: Path) -> None:
    long = [Document(content="bread time water " * 20), Document(content="lock " * 40)]
    for ranker in (
        Reranker(tiny_artifact, max_length=16, long="maxp"),
        Cascade([Reranker(tiny_artifact, max_length=16), Reranker(tiny_artifact)], keep=1),
    ):
        hits = ranker.rerank("lock", [str(document.content) for document in long])
        component = FlashRankerComponent(ranker)
        found = component.run("lock", long)["documents"]
        assert [document.meta["logit"] for document in found] == [hit.logit for hit in hits]
        assert [document.id for document in found] == [long[hit.index].id for hit in hits]
        with pytest.raises(InputError, match="the model was given as an object, expected a path to save"):
            component.to_dict()
    with pytest.raises(InputError, match=r"settings came with <flashranker.*expected them with a path only"):
        FlashRankerComponent(Reranker(tiny_artifact), max_length=16)


def pipeline_of(component: FlashRankerComponent) -> Pipeline:
    store = InMemoryDocumentStore()
    store.write_documents(documents())
    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(store, top_k=20))
    pipeline.add_component("reranker", component)
    pipeline.connect("retriever.documents", "reranker.documents")
    return pipeline


def test_a_pipeline_goes_to_yaml_and_back(tiny_artifact: Path) -> None:
    pipeline = pipeline_of(FlashRankerComponent(tiny_artifact, top_k=5, max_length=32, long="maxp"))
    text = pipeline.dumps()
    assert yaml.safe_load(text)["components"]["reranker"] == {
        "type": "flashranker.haystack.FlashRankerComponent",
        "init_parameters": {
            "model": str(tiny_artifact), "top_k": 5, "threads": None, "max_length": 32, "long": "maxp", "foreign": False
        },
    }  # fmt: skip
    loaded = Pipeline.loads(text, allowed_modules=[OWN])
    assert loaded.dumps() == text
    query = "river sort open"
    request = {"retriever": {"query": query}, "reranker": {"query": query}}
    first = pipeline.run(request, include_outputs_from={"retriever"})
    stored, found = first["retriever"]["documents"], first["reranker"]["documents"]
    ranker = Reranker(tiny_artifact, max_length=32, long="maxp")
    hits = ranker.rerank(query, [document.content for document in stored], top_n=5)
    order = [stored[hit.index].id for hit in hits]
    assert order != [document.id for document in stored[:5]]  # or the retriever alone would pass
    assert [document.id for document in found] == order
    assert [document.score for document in found] == [hit.score for hit in hits]
    assert loaded.run(request)["reranker"]["documents"] == found
    assert asyncio.run(loaded.run_async(request))["reranker"]["documents"] == found
    with pytest.raises(DeserializationError, match="allowlist"):  # why the README says allowed_modules
        Pipeline.loads(text)


def test_async_gives_the_same_and_leaves_the_loop_free(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    component = FlashRankerComponent(tiny_artifact, top_k=5)
    expected = component.run(QUERY, documents(), top_k=6)
    monkeypatch.setattr(Reranker, "rerank", lambda *_: pytest.fail("arerank was not used"))
    assert asyncio.run(component.run_async(QUERY, documents(), top_k=6)) == expected


def test_bad_input_is_named(tiny_artifact: Path) -> None:
    component = FlashRankerComponent(tiny_artifact)
    with pytest.raises(InputError, match=r"documents\[1\] is 'bread', expected a Document"):
        component.run(QUERY, [*documents()[:1], "bread"])  # type: ignore[list-item]
    with pytest.raises(InputError, match="documents is None, expected a list of Document"):
        component.run(QUERY, None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="passage 1 is None"):
        component.run(QUERY, [*documents()[:1], Document(content=None)])
    with pytest.raises(InputError, match="the query is empty"):
        asyncio.run(component.run_async("", documents()))
    with pytest.raises(InputError, match="top_k is 0"):
        component.run(QUERY, documents(), top_k=0)
    with pytest.raises(InputError, match="top_k is 0"):
        FlashRankerComponent(tiny_artifact, top_k=0)
    with pytest.raises(InputError, match="model is 5, expected the path"):
        FlashRankerComponent(5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="long is 'whole'"):
        FlashRankerComponent(tiny_artifact, long="whole").warm_up()


def test_without_haystack_the_import_names_the_command() -> None:
    message = import_error_without("haystack", OWN)
    assert message.endswith("No module named 'haystack'): pip install \"flashranker[haystack]\"")


def test_the_readmes_snippet_runs(tiny_artifact: Path) -> None:
    names = readme_snippet("Haystack", tiny_artifact)
    request = {"retriever": {"query": names["query"]}, "reranker": {"query": names["query"]}}
    stored = names["pipeline"].run(request, include_outputs_from={"retriever"})["retriever"]["documents"]
    hits = Reranker(tiny_artifact).rerank(names["query"], [document.content for document in stored], top_n=2)
    found = names["result"]["reranker"]["documents"]
    assert [(document.id, document.score) for document in found] == [(stored[hit.index].id, hit.score) for hit in hits]
    assert len(found) == 2
    assert names["loaded"].run(request)["reranker"]["documents"] == found

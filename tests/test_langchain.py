"""`FlashRankerCompressor` in LangChain, alone and over real FAISS and Chroma stores."""

import asyncio
import copy
import json
from pathlib import Path
from string import ascii_lowercase

import chromadb
import pytest
from conftest import WORDS, import_error_without, readme_snippet
from flashranker import Cascade, InputError, ModelNotFoundError, Reranker
from flashranker.langchain import FlashRankerCompressor
from langchain_chroma import Chroma
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_community.vectorstores import FAISS
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

QUERY = "time water"
TEXTS = [f"{word} {other}" for word in WORDS[:6] for other in WORDS[6:12]]


class Letters(Embeddings):
    """How often each letter occurs: what is spelled alike lies close."""

    def embed_query(self, text: str) -> list[float]:
        return [float(text.count(letter)) for letter in ascii_lowercase]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]


def documents() -> list[Document]:
    return [
        Document(id=f"d{number}", page_content=text, metadata={"source": f"{text}.md", "page": number})
        for number, text in enumerate(TEXTS)
    ]


def test_documents_are_scored_copies_in_the_order_of_rerank(tiny_artifact: Path) -> None:
    given = documents()
    before = copy.deepcopy(given)
    found = FlashRankerCompressor(tiny_artifact, top_n=7).compress_documents(given, QUERY)
    assert given == before
    assert found == [
        Document(
            id=f"d{hit.index}",
            page_content=TEXTS[hit.index],
            metadata={
                "source": f"{TEXTS[hit.index]}.md", "page": hit.index, "relevance_score": hit.score, "logit": hit.logit
            },
        )
        for hit in Reranker(tiny_artifact).rerank(QUERY, TEXTS, top_n=7)
    ]  # fmt: skip
    assert len(found) == 7
    json.dumps([document.metadata for document in found])
    everything = FlashRankerCompressor(str(tiny_artifact))
    assert len(everything.compress_documents(tuple(given), QUERY)) == len(TEXTS)
    assert everything.compress_documents([], QUERY) == []
    # A second pass takes the place of the first one's scores.
    assert FlashRankerCompressor(tiny_artifact).compress_documents(found, QUERY) == found


def test_a_ranker_with_settings_of_its_own_is_used_as_it_is(tiny_artifact: Path) -> None:
    long = [Document(page_content="bread time water " * 20), Document(page_content="lock " * 40)]
    for ranker in (
        Reranker(tiny_artifact, max_length=16, long="maxp"),
        Cascade([Reranker(tiny_artifact, max_length=16), Reranker(tiny_artifact)], keep=1),
    ):
        hits = ranker.rerank("lock", [document.page_content for document in long])
        found = FlashRankerCompressor(ranker).compress_documents(long, "lock")
        assert [document.metadata["logit"] for document in found] == [hit.logit for hit in hits]
        assert [document.page_content for document in found] == [long[hit.index].page_content for hit in hits]


def test_async_gives_the_same_and_leaves_the_loop_free(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compressor = FlashRankerCompressor(tiny_artifact, top_n=5)
    expected = compressor.compress_documents(documents(), QUERY)
    monkeypatch.setattr(Reranker, "rerank", lambda *_: pytest.fail("arerank was not used"))
    assert asyncio.run(compressor.acompress_documents(documents(), QUERY)) == expected


@pytest.mark.parametrize("kind", ["faiss", "chroma"])
def test_a_store_behind_a_compression_retriever_is_reordered(kind: str, tiny_artifact: Path) -> None:
    store: VectorStore
    if kind == "faiss":
        store = FAISS.from_documents(documents(), Letters())
    else:
        store = Chroma.from_documents(documents(), Letters(), client=chromadb.EphemeralClient())
    first = store.as_retriever(search_kwargs={"k": 20})
    stored = first.invoke(QUERY)
    assert len(stored) == 20
    hits = Reranker(tiny_artifact).rerank(QUERY, [document.page_content for document in stored], top_n=5)
    order = [stored[hit.index].id for hit in hits]
    assert order != [document.id for document in stored[:5]]  # or the store alone would pass

    compressor = FlashRankerCompressor(tiny_artifact, top_n=5)
    retriever = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=first)
    found = retriever.invoke(QUERY)
    assert [document.id for document in found] == order
    assert [document.metadata["relevance_score"] for document in found] == [hit.score for hit in hits]
    for document in found:
        assert document.metadata["source"] == f"{document.page_content}.md"
        assert document.id == f"d{document.metadata['page']}"
    assert asyncio.run(retriever.ainvoke(QUERY)) == found


def test_bad_input_is_named(tiny_artifact: Path) -> None:
    compressor = FlashRankerCompressor(tiny_artifact)
    with pytest.raises(InputError, match=r"documents\[1\] is 'bread', expected a Document"):
        compressor.compress_documents([*documents()[:1], "bread"], QUERY)  # type: ignore[list-item]
    for wrong in (None, "bread"):
        with pytest.raises(InputError, match="expected a list of Document"):
            compressor.compress_documents(wrong, QUERY)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the query is empty"):
        asyncio.run(compressor.acompress_documents(documents(), " "))
    with pytest.raises(InputError, match="top_n is 0"):
        FlashRankerCompressor(tiny_artifact, top_n=0)
    with pytest.raises(InputError, match="model is 5, expected the path"):
        FlashRankerCompressor(5)  # type: ignore[arg-type]
    with pytest.raises(ModelNotFoundError, match="absent"):
        FlashRankerCompressor(tiny_artifact / "absent")


def test_without_langchain_the_import_names_the_command() -> None:
    message = import_error_without("langchain_core", "flashranker.langchain")
    assert message.endswith("No module named 'langchain_core'): pip install \"flashranker[langchain]\"")


def test_the_readmes_snippet_runs(tiny_artifact: Path) -> None:
    names = readme_snippet("LangChain", tiny_artifact)
    texts, query = names["texts"], names["query"]
    hits = Reranker(tiny_artifact).rerank(query, texts, top_n=2)
    assert [document.page_content for document in names["documents"]] == [texts[hit.index] for hit in hits]

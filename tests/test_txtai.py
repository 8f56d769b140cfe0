"""The README's recipe for txtai, whose pipeline takes a function."""

from pathlib import Path

from conftest import readme_snippet
from flashranker import Reranker


def test_the_readmes_snippet_runs(tiny_artifact: Path) -> None:
    names = readme_snippet("txtai and rerankers", tiny_artifact)
    stored = [row["text"] for row in names["embeddings"].search(names["query"], 20)]
    hits = Reranker(tiny_artifact).rerank(names["query"], stored)
    assert len(stored) == 2
    assert [(row["text"], row["score"]) for row in names["results"]] == [(stored[h.index], h.score) for h in hits]

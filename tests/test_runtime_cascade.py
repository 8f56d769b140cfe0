"""`Cascade`: the fast ranker orders all, the better one the best of them."""

import asyncio
from pathlib import Path

import pytest
from conftest import WORDS, negated_artifact
from flashranker import Cascade, InputError, Reranker

PASSAGES = [f"{word} {other}" for word in WORDS[:6] for other in WORDS[6:12]]


@pytest.fixture(scope="module")
def rankers(tiny_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Reranker]:
    """A ranker, and one whose logits are the other's negated: it orders everything the other way round."""
    folder = negated_artifact(tiny_artifact, tmp_path_factory.mktemp("cascade") / "negated")
    return [Reranker(tiny_artifact, threads=2), Reranker(folder, threads=2)]


def test_the_best_are_ordered_anew_and_the_rest_follow(rankers: list[Reranker]) -> None:
    first, second = rankers
    plain = first.rerank("time", PASSAGES)
    hits = Cascade(rankers, keep=10).rerank("time", PASSAGES)
    # The second ranker turns the first ten round, and nothing else changes.
    assert [hit.index for hit in hits] == [hit.index for hit in [*plain[:10][::-1], *plain[10:]]]
    for hit in hits[:10]:
        assert hit.logit == second.score("time", [PASSAGES[hit.index]])[0]
        assert hit.passage is PASSAGES[hit.index]
    assert hits[10:] == plain[10:]
    assert Cascade(rankers, keep=10).rerank("time", PASSAGES, top_n=3) == hits[:3]
    assert Cascade(rankers, keep=99).rerank("time", PASSAGES) == second.rerank("time", PASSAGES)
    assert asyncio.run(Cascade(rankers, keep=10).arerank("time", PASSAGES, top_n=12)) == hits[:12]
    assert Cascade(rankers).rerank("time", []) == []


def test_three_rankers_keep_fewer_and_fewer(rankers: list[Reranker]) -> None:
    plain = [hit.index for hit in rankers[0].rerank("time", PASSAGES)]
    hits = Cascade([*rankers, rankers[0]], keep=[10, 4]).rerank("time", PASSAGES)
    turned = plain[:10][::-1]
    assert [hit.index for hit in hits] == [*turned[:4][::-1], *turned[4:], *plain[10:]]


def test_a_query_that_a_later_ranker_refuses_is_refused_before_the_first_runs(
    rankers: list[Reranker], tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, narrow = rankers[0], Reranker(tiny_artifact, max_length=16)
    query = " ".join(WORDS[:10])
    assert len(first.rerank(query, PASSAGES)) == len(PASSAGES)
    monkeypatch.setattr(first, "_run", lambda *_: pytest.fail("the first ranker ran"))
    with pytest.raises(InputError, match="the query has 10 tokens, expected at most"):
        Cascade([first, narrow]).rerank(query, PASSAGES)
    with pytest.raises(InputError, match="the query has 10 tokens, expected at most"):
        asyncio.run(Cascade([first, narrow]).arerank(query, PASSAGES))


def test_bad_settings_are_named(rankers: list[Reranker]) -> None:
    for given in (rankers[:1], rankers[0], [rankers[0], "nano"], None):
        with pytest.raises(InputError, match="expected two or more Reranker"):
            Cascade(given)  # type: ignore[arg-type]
    for keep in (0, [5, 3], [True], None, 10.0, ["a"]):
        with pytest.raises(InputError, match="keep is"):
            Cascade(rankers, keep=keep)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="keep is"):
        Cascade([*rankers, rankers[0]], keep=[3, 5])
    with pytest.raises(InputError, match="top_n is 0"):
        Cascade(rankers).rerank("time", PASSAGES, top_n=0)

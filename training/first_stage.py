"""The first stage: BM25 over the whole corpus, and how several rankings become one."""

import re
import unicodedata
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from typing import TypeVar

import bm25s
import numpy as np
import regex
from tqdm import tqdm

from training.data import InputError, RankingData

# Anserini's and Lucene's usual setting for passages (Robertson & Zaragoza 2009).
K1 = 0.9
B = 0.4
RRF_K = 60  # the constant of the paper
# Thai, Lao, Myanmar, Khmer; Japanese and Chinese: scripts that put no space between words.
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
# Korean has spaces, and endings at its words: pairs of syllables find what whole words miss.
PAIRED = re.compile(f"{UNSPACED.pattern[:-1]}\uac00-\ud7af]+")
# Marks belong to a word, the vowels of Hindi and Tamil are such, as do the two joiners; Python's \w leaves them out.
WORD = regex.compile(rf"[\p{{L}}\p{{N}}_][\p{{L}}\p{{N}}\p{{M}}_\u200c\u200d]+|{UNSPACED.pattern}{{2}}")
Item = TypeVar("Item", bound=Hashable)


def bm25_run(
    data: RankingData, query_ids: Iterable[str], depth: int = 50, k1: float = K1, b: float = B
) -> dict[str, dict[str, float]]:
    """Search the whole corpus for each query: query id -> passage id -> BM25 score, best first.

    Words are runs of two or more letters, digits or marks on them, lower-cased, without English stopwords and without
    stemming; Korean and scripts without spaces are cut into overlapping pairs of characters, as Lucene's CJK analyzer
    does. Equal scores are ordered by passage id, so the run does not depend on the order of the corpus. Passages that
    share no word with the query are not retrieved: a query may get fewer than `depth` of them, or none.

    Raises InputError for a depth below 1, an unknown query id, or a corpus in which no word is left.
    """
    wanted = list(query_ids)
    check_search(data, wanted, depth, "BM25")
    if not wanted:
        return {}

    passage_ids = np.array(sorted(data.passages), dtype=object)
    index = bm25_index([data.passages[passage_id] for passage_id in passage_ids], data.name, k1, b)
    run = {}
    for query_id in tqdm(wanted, desc="BM25", unit="query"):
        found = bm25_search(index, data.queries[query_id], depth)
        run[query_id] = {passage_ids[i]: score for i, score in found.items()}
    return run


def check_search(data: RankingData, query_ids: Sequence[str], depth: int, what: str) -> None:
    """Raise InputError for a depth below 1 or an unknown query id; `what` is the search's name."""
    if depth < 1:
        raise InputError(f"{data.name}: {what} depth is {depth}; give 1 or more")
    unknown = next((query_id for query_id in query_ids if query_id not in data.queries), None)
    if unknown is not None:
        raise InputError(f"{data.name}: {what} was asked for unknown query id {unknown!r}; give ids of its queries")


def bm25_index(passages: Sequence[str], name: str, k1: float = K1, b: float = B) -> bm25s.BM25:
    """An index of texts, in memory. Raises InputError, with the corpus's `name`, where no word is left in them."""
    corpus = _tokenize(passages)
    if not any(corpus):
        raise InputError(f"{name}: BM25 finds no word in {len(corpus)} passages; check the text of the corpus")
    index = bm25s.BM25(method="lucene", k1=k1, b=b, backend="numpy")
    index.index(corpus, show_progress=False)
    return index


def bm25_search(index: bm25s.BM25, query: str, depth: int) -> dict[int, float]:
    """Position of a passage -> BM25 score, best first, equal scores in the order of the passages; as `bm25_run`."""
    known = [word for word in _tokenize([query])[0] if word in index.vocab_dict]
    if not known:
        return {}
    scores = index.get_scores(known)
    return {int(i): float(scores[i]) for i in _best(scores, depth)}


def bm25_candidates(data: RankingData, query_ids: Iterable[str], depth: int = 50) -> dict[str, list[str]]:
    """Candidate lists for RankingData: query id -> up to `depth` passage ids, best first. See `bm25_run`."""
    return {query_id: list(scores) for query_id, scores in bm25_run(data, query_ids, depth).items()}


def fuse(rankings: Iterable[Sequence[Item]], k: float = RRF_K) -> dict[Item, float]:
    """Reciprocal rank fusion: item -> sum of 1 / (k + rank) over the rankings that have it, best first.

    Ranks count from 1; of equal sums that item is first which comes first in the first ranking that has one of them.
    Cormack, Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods",
    SIGIR 2009.
    """
    scores: dict[Item, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, start=1):
            scores[item] = scores.get(item, 0.0) + 1 / (k + rank)
    return dict(sorted(scores.items(), key=lambda entry: -entry[1]))


def _tokenize(texts: Sequence[str]) -> list[list[str]]:
    spaced = [PAIRED.sub(_bigrams, unicodedata.normalize("NFC", text)) for text in texts]
    words = [" ".join(WORD.findall(text)) for text in spaced]
    return bm25s.tokenize(words, stopwords="en", token_pattern=r"\S+", return_ids=False, show_progress=False)


def _bigrams(run: re.Match[str]) -> str:
    """Every two neighbours of a run as a word, or its only character twice, as words of one letter are left out."""
    text = run[0]
    return f" {' '.join(one + other for one, other in pairwise(text)) or text * 2} "


def _best(scores: np.ndarray, depth: int) -> np.ndarray:
    """Indices of the `depth` highest positive scores, best first; ties in index order."""
    floor = np.partition(scores, -depth)[-depth] if depth < len(scores) else 0.0
    found = np.flatnonzero((scores >= floor) & (scores > 0))
    return found[np.argsort(-scores[found], kind="stable")][:depth]

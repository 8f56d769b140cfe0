"""Training examples: which candidates of which queries a student sees, with the teacher's logits and the grades."""

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from datasets import Dataset

from training.data import RankingData, first_of_text, relevant_passages, source_of, trainable

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """One query with K passages, relevant ones first: raw teacher logits and grades, K of each."""

    query: str
    passages: list[str]
    teacher: list[float]
    grades: list[int]


class Scored(NamedTuple):
    """A training query with K passages, the relevant one first, and the teacher's raw logit of each, K."""

    query_id: str
    passages: list[str]
    logits: list[float]


def usable_queries(data: RankingData, least: int) -> list[str]:
    """Train queries with a relevant passage; with `least`, one that `data.scores` know beside `least` - 1 negatives."""
    allowed, first = frozenset(trainable(data)), first_of_text(data)

    def is_usable(query: str) -> bool:
        relevant, scored = relevant_passages(data, query), data.scores.get(query, {})
        if not least:
            return bool(relevant)
        known = any(passage in scored for passage in relevant)
        return known and len(negatives_among(scored, relevant, allowed, first)) >= least - 1

    return [query for query in data.splits["train"] if is_usable(query)]


def negatives_among(
    passages: Iterable[str], relevant: Sequence[str], allowed: Collection[str], first: Mapping[str, str]
) -> list[str]:
    """Those of the passages that are allowed and neither relevant nor copies of what is; `first`: `first_of_text`."""
    judged = {first[passage] for passage in relevant}
    return [passage for passage in passages if passage in allowed and first[passage] not in judged]


def left_out(data: RankingData, usable: Sequence[str], lacking: str) -> None:
    """Log how many train queries, of which sources, can't be learned from."""
    kept = set(usable)
    gone = [query for query in data.splits["train"] if query not in kept]
    if gone:
        by_source = Counter(source_of(query) for query in gone) if data.sources else {}
        names = "".join(f", {count} of {label}" for label, count in by_source.items())
        _log.warning("%s: %d train queries left out, without %s%s", data.name, len(gone), lacking, names)


def too_few(queries: int, step: int) -> str:
    """What is wrong with so few queries, and the remedy."""
    return f"{queries} training queries are fewer than the {step} of a step: give more, or lower --queries_per_step"


def choose_candidates(
    data: RankingData,
    query_ids: Sequence[str],
    candidates: Mapping[str, Sequence[str]],
    *,
    size: int,
    random_share: float,
    seed: int,
    scored_only: bool = False,
    at_least: int | None = None,
) -> list[tuple[str, list[str]]]:
    """(query id, K = `size` passage ids) for each query: one relevant passage, then negatives.

    Hard negatives are drawn from equal parts of the first stage's ranking, so that its whole range is seen and not only
    its top (stratified sampling; arXiv 2604.04734); what the data judge irrelevant stands in front of that ranking.
    `random_share` of the negatives comes from any other passage. With `scored_only` all K come from those that
    `data.scores` knows for the query. Where there are fewer than K of them, `at_least` (by default K) are enough.
    Passages that are relevant to a query of another split stay unseen: in `pydocs`, the held-out packages; so do copies
    of them (`data.trainable`). A copy of a relevant passage is no negative. The queries come in random order, because
    neighbours in the data are often alike; one without a relevant passage is left out.
    """
    generator = np.random.default_rng(seed)
    first = first_of_text(data)
    pool = trainable(data)
    allowed, texts = set(pool), len({first[passage] for passage in pool})
    chosen = []
    for query_id in generator.permutation(np.array(query_ids, dtype=object)):
        scored = data.scores.get(query_id, {})
        relevant = relevant_passages(data, query_id)
        positives = [passage for passage in relevant if passage in scored or not scored_only]
        if not positives:
            continue
        positive = positives[int(generator.integers(len(positives)))]
        irrelevant = [passage for passage, grade in data.judgments[query_id].items() if grade <= 0]
        found = dict.fromkeys(scored if scored_only else [*irrelevant, *candidates.get(query_id, ())])
        ranked = negatives_among(found, relevant, allowed, first)
        wanted = size - 1 if scored_only else round((size - 1) * (1 - random_share))
        bounds = np.linspace(0, len(ranked), min(wanted, len(ranked)) + 1).astype(int)
        negatives = [ranked[int(generator.integers(low, high))] for low, high in pairwise(bounds)]
        taken = {first[passage] for passage in [*relevant, *negatives]}
        while not scored_only and len(negatives) < size - 1 and len(taken) < texts:
            passage = pool[int(generator.integers(len(pool)))]
            if first[passage] not in taken:
                taken.add(first[passage])
                negatives.append(passage)
        if len(negatives) >= (at_least or size) - 1:
            chosen.append((query_id, [positive, *negatives]))
    return chosen


def choose_by_teacher(
    data: RankingData, pools: Sequence[Scored], *, size: int, margin: float | None, seed: int
) -> tuple[list[Scored], dict[str, int]]:
    """From pools that a teacher has scored, K = `size` passages a query: the relevant one, then negatives.

    With a `margin`, in the teacher's raw logits, negatives that score above the relevant passage's logit minus the
    margin are dropped: most of them are answers that nobody has judged (RocketQA, Qu et al., NAACL 2021; margins of
    NV-Retriever, arXiv 2407.15831). What the data judge irrelevant is never dropped. The rest is put in the teacher's
    order, equal scores by passage id, and one negative drawn from each of K - 1 equal parts of it, so that
    the teacher's whole range is seen (arXiv 2604.04734).
    A query with too few negatives left is left out. The counts: of negatives in the pools, of those that were dropped
    and kept, and of queries kept and left out.
    """
    generator = np.random.default_rng((seed, size))
    kept, in_pools, dropped = [], 0, 0
    for query_id, passages, logits in pools:
        judged = data.judgments[query_id]
        limit = np.inf if margin is None else logits[0] - margin
        negatives = sorted(zip(passages[1:], logits[1:], strict=True), key=lambda pair: (-pair[1], pair[0]))
        left = [(passage, logit) for passage, logit in negatives if logit <= limit or judged.get(passage, 1) <= 0]
        in_pools += len(negatives)
        dropped += len(negatives) - len(left)
        if len(left) < size - 1:
            continue
        bounds = np.linspace(0, len(left), size).astype(int)
        drawn = [left[int(generator.integers(low, high))] for low, high in pairwise(bounds)]
        chosen = [(passages[0], logits[0]), *drawn]
        kept.append(Scored(query_id, [passage for passage, _ in chosen], [logit for _, logit in chosen]))
    counts = {
        "negatives in the pools": in_pools, "dropped as false negatives": dropped,
        "negatives kept": (size - 1) * len(kept), "queries kept": len(kept), "queries left out": len(pools) - len(kept),
    }  # fmt: skip
    return kept, counts


def as_dataset(examples: Sequence[Example]) -> Dataset:
    """The trainer's columns, in order: query, passages, label. A label is (2, K): teacher logits, then grades."""
    return Dataset.from_dict(
        {
            "query": [example.query for example in examples],
            "passages": [example.passages for example in examples],
            "label": [[example.teacher, [float(grade) for grade in example.grades]] for example in examples],
        }
    )

"""What a reranker puts in order: the data's own candidates, or those that a first stage finds in the whole corpus."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from training.backbone import BUILTIN
from training.data import RankingData
from training.dense import dense_run
from training.first_stage import bm25_candidates, fuse
from training.mixture import parts
from training.teacher import MAX_LENGTH

_log = logging.getLogger(__name__)
Method = Literal["bm25", "dense", "both"]
Candidates = dict[str, list[str]]  # query id -> passage ids, best first


@dataclass(frozen=True)
class FirstStage:
    """How candidates are found.

    `method`: BM25, a bi-encoder, or both, their ranks fused; None takes the data's own candidates where they bring
    some, and BM25 otherwise. The rest is the bi-encoder's: see `dense.dense_run`.
    """

    method: Method | None = None
    retriever: str = BUILTIN
    prompts: tuple[str, str] | None = None
    max_length: int = MAX_LENGTH
    cache: Path = Path("cache/teacher")


BM25_OR_OWN = FirstStage()


def find_candidates(
    data: RankingData, query_ids: Sequence[str], depth: int, stage: FirstStage = BM25_OR_OWN
) -> Candidates:
    """The first `depth` candidates of each query, best first; mixed data are searched source by source.

    Raises InputError as `first_stage.bm25_run` and `dense.dense_run` do.
    """
    if data.sources:
        found: Candidates = {}
        for one in parts(data):
            found |= find_candidates(one, [query for query in query_ids if query in one.queries], depth, stage)
        return {query: found[query] for query in query_ids}
    if stage.method is None and data.candidates:
        return {query: data.candidates.get(query, [])[:depth] for query in query_ids}
    if stage.method in (None, "bm25"):
        return bm25_candidates(data, query_ids, depth)
    dense = dense_run(
        data, query_ids, stage.retriever, stage.cache, depth, prompts=stage.prompts, max_length=stage.max_length
    )
    if stage.method == "dense":
        return {query: list(cosines) for query, cosines in dense.items()}
    words = bm25_candidates(data, query_ids, depth)
    return {query: list(fuse([words[query], list(dense[query])]))[:depth] for query in query_ids}


def find_for_training(
    data: RankingData, query_ids: Sequence[str], depth: int, stage: FirstStage = BM25_OR_OWN
) -> Candidates:
    """`find_candidates`, where queries that the data's own lists leave out are searched by BM25.

    Measured, such a query counts 0; trained on, it would have random negatives only. How many they are is logged.
    """
    if data.sources:
        both: Candidates = {}
        for one in parts(data):
            both |= find_for_training(one, [query for query in query_ids if query in one.queries], depth, stage)
        return {query: both[query] for query in query_ids}
    found = find_candidates(data, query_ids, depth, stage)
    missing = [query for query in query_ids if not found[query]]
    if stage.method is not None or not data.candidates or not missing:
        return found
    searched = find_candidates(data, missing, depth, replace(stage, method="bm25"))
    _log.warning(
        "%s: %d of %d train queries have no list in candidates.tsv; BM25 searches for them",
        data.name, len(missing), len(query_ids),
    )  # fmt: skip
    return found | searched


def name_first_stage(data: RankingData, stage: FirstStage) -> str:
    """What `find_candidates` takes for these data, for a manifest or a table."""
    if data.sources:
        names = {label: name_first_stage(one, stage) for label, one in zip(data.sources, parts(data), strict=True)}
        same = len(set(names.values())) == 1
        return next(iter(names.values())) if same else ", ".join(f"{label}: {name}" for label, name in names.items())
    if stage.method is None and data.candidates:
        return "candidates.tsv"
    if stage.method in (None, "bm25"):
        return "BM25"
    dense = f"dense ({stage.retriever})"
    return dense if stage.method == "dense" else f"BM25 and {dense}, reciprocal rank fusion"

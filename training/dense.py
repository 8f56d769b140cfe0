"""A dense first stage: a bi-encoder finds the passages whose embeddings are nearest to the query's."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from training.data import RankingData
from training.first_stage import check_search
from training.teacher import MAX_LENGTH, encode_texts

BLOCK = 2**24  # cosines held at once, of all passages with some queries: 64 MB
ROUGH = 1e-5  # more than float32 and the order of a sum can make of a cosine of embeddings of norm 1
DECIMALS = 9  # of a cosine in float64; what differs by less is equal


def dense_run(
    data: RankingData,
    query_ids: Iterable[str],
    retriever: str,
    cache: Path,
    depth: int = 50,
    *,
    prompts: tuple[str, str] | None = None,
    max_length: int = MAX_LENGTH,
) -> dict[str, dict[str, float]]:
    """Search the whole corpus for each query: query id -> passage id -> cosine (-1 to 1), best first.

    `retriever` is a bi-encoder ("builtin", a folder or a hub id) that reads `max_length` tokens of a text. Its own
    prompts for queries and passages stand in front of the texts, where its sentence-transformers configuration has
    some; `prompts`, for queries and for passages, take their place. The search is exact. Equal cosines are ordered by
    passage id, and neither the order of the corpus nor the other queries asked change a ranking. Embeddings are kept in
    `cache`, where a teacher of the same model and length finds them; in memory they take 1.5 GB for a million passages
    of 384 dimensions.

    Raises InputError for a depth below 1, an unknown query id, or a retriever that is no bi-encoder.
    """
    wanted = list(query_ids)
    check_search(data, wanted, depth, "dense")
    if not wanted:
        return {}
    passage_ids = sorted(data.passages)
    query_prompt, passage_prompt = prompts or (None, None)
    queries = encode_texts(
        retriever, [data.queries[query] for query in wanted], cache,
        role="query", max_length=max_length, prompt=query_prompt,
    )  # fmt: skip
    passages = encode_texts(
        retriever, [data.passages[passage] for passage in passage_ids], cache,
        role="passage", max_length=max_length, prompt=passage_prompt,
    )  # fmt: skip
    run = {}
    step = max(1, BLOCK // len(passage_ids))
    with tqdm(total=len(wanted), desc="dense", unit="query") as bar:
        for start in range(0, len(wanted), step):
            block = queries[start : start + step]
            for query_id, query, rough in zip(wanted[start : start + step], block, block @ passages.T, strict=True):
                found = nearest(query, passages, rough, depth)
                run[query_id] = {passage_ids[i]: cosine for i, cosine in found.items()}
            bar.update(len(block))
    return run


def nearest(query: np.ndarray, passages: np.ndarray, rough: np.ndarray, depth: int) -> dict[int, float]:
    """Row of a passage -> its cosine with the query, the `depth` best first, equal ones in the order of the rows.

    Args:
        query, passages: embeddings of norm 1, float32, (dimension,) and (passages, dimension).
        rough: the cosines in float32, (passages,), whose last bits depend on what was multiplied along.
    """
    # Nothing of the true best can lie further below the rough ones than both errors together.
    floor = np.partition(rough, -depth)[-depth] - 2 * ROUGH if depth < len(rough) else -np.inf
    near = np.flatnonzero(rough >= floor)
    cosines = np.round(passages[near].astype(np.float64) @ query.astype(np.float64), DECIMALS)
    order = np.argsort(-cosines, kind="stable")[:depth]
    return {int(near[i]): float(cosines[i]) for i in order}

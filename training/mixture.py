"""Several data sets as one: ids behind their source's name, splits kept, queries drawn by the sources' weights."""

import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from training.data import (
    SPLITS,
    InputError,
    RankingData,
    Source,
    check_leaks,
    held_texts,
    source_of,
    texts_of,
    without_leaks,
)

_log = logging.getLogger(__name__)
Value = TypeVar("Value")
WEIGHTED = re.compile(r"(.+):(\d+(?:\.\d+)?)")


def split_weight(given: str) -> tuple[str, float]:
    """SOURCE or SOURCE:WEIGHT to its two parts; the weight is 1 where there is none.

    What exists on disk is a source as it stands. Otherwise a number behind the last colon is a weight, so a
    configuration of the hub that is a number needs one of its own: OWNER/NAME:2024:1.
    Raises InputError for a weight of 0, or no source.
    """
    found = None if Path(given).exists() else WEIGHTED.fullmatch(given)
    source, weight = (found[1], float(found[2])) if found else (given, 1.0)
    if not source.strip() or not 0 < weight < math.inf:
        raise InputError(f"data {given!r}: expected SOURCE, or SOURCE:WEIGHT with a weight above 0, such as pydocs:2")
    return source, weight


def load_mixture(given: Sequence[str], read: Callable[[str], RankingData], drop_leaks: bool = False) -> RankingData:
    """The data of one source as they are, or of several mixed; each is SOURCE or SOURCE:WEIGHT, and `read` reads it.

    Raises InputError for a source that is named twice, and as `split_weight` and `mix` do.
    """
    sources = [split_weight(one) for one in given]
    names = Counter(source for source, _ in sources)
    twice = next((name for name, count in names.items() if count > 1), None)
    if twice is not None:
        raise InputError(f"data {twice!r} is named twice: name it once, with a larger weight, {twice}:2")
    if len(sources) == 1:
        return read(sources[0][0])
    return mix([(read(source), weight) for source, weight in sources], drop_leaks)


def mix(sources: Sequence[tuple[RankingData, float]], drop_leaks: bool = False) -> RankingData:
    """One RankingData of several, with the weights by which `data.by_weight` orders their queries.

    Every id gets the name of its source in front, NAME/ID, so equal ids of two sources are two. Splits, judgments,
    candidates and scores stay what they are; texts are shared with the sources and not copied.
    Raises InputError where a train query of one source leaks into dev or test of another, or loses such queries with
    `drop_leaks` (see `data.find_leaks`).
    """
    labelled: dict[str, tuple[RankingData, float]] = {}
    for data, weight in sources:
        plain = re.sub(r"[^\w.-]+", "-", data.name)
        # Two folders may have one name.
        label = next(name for name in (plain, *(f"{plain}-{n}" for n in range(2, 100))) if name not in labelled)
        labelled[label] = (data, weight)
    queries: dict[str, str] = {}
    passages: dict[str, str] = {}
    judgments: dict[str, dict[str, int]] = {}
    candidates: dict[str, list[str]] = {}
    scores: dict[str, dict[str, float]] = {}
    splits: dict[str, list[str]] = {name: [] for name in SPLITS}
    for label, (data, _) in labelled.items():
        queries |= {f"{label}/{query}": text for query, text in data.queries.items()}
        passages |= {f"{label}/{passage}": text for passage, text in data.passages.items()}
        for query, grades in data.judgments.items():
            judgments[f"{label}/{query}"] = {f"{label}/{passage}": grade for passage, grade in grades.items()}
        for query, logits in data.scores.items():
            scores[f"{label}/{query}"] = {f"{label}/{passage}": logit for passage, logit in logits.items()}
        for query, ranked in data.candidates.items():
            candidates[f"{label}/{query}"] = [f"{label}/{passage}" for passage in ranked]
        for name, ids in data.splits.items():
            splits.setdefault(name, []).extend(f"{label}/{query}" for query in ids)
    named = {label: Source(data.name, data.licence, weight) for label, (data, weight) in labelled.items()}
    mixed_data = RankingData(
        " + ".join(labelled), queries, passages, judgments, candidates, splits,
        "; ".join(f"{label}: {source.licence}" for label, source in named.items()), scores, named,
    )  # fmt: skip
    if drop_leaks:
        mixed_data = without_leaks(mixed_data)
    check_leaks(mixed_data)
    return mixed_data


def apart_from(data: RankingData, other: RankingData, split: str, drop: bool) -> RankingData:
    """The data without train and dev queries that share a text, as in `find_leaks`, with a split of other data.

    Raises InputError where there are some, unless they are to be dropped; then their number is logged.
    """
    keys = {key for query in other.splits[split] for key in texts_of(other, query)}
    shared = {query for split in ("train", "dev") for query in data.splits[split]
              if not keys.isdisjoint(texts_of(data, query))}  # fmt: skip
    if shared and not drop:
        raise InputError(
            f"{data.name}: {len(shared)} train and dev queries share their text or a relevant passage with the {split} "
            f"queries of {other.name} (first: {min(shared)!r}); leave them out with drop_leaks=True"
        )
    if shared:
        _log.warning("%s: %d train and dev queries left out, shared with %s", data.name, len(shared), other.name)
    kept = {name: [query for query in ids if name == "test" or query not in shared]
            for name, ids in data.splits.items()}  # fmt: skip
    for name in ("train", "dev"):
        if data.splits[name] and not kept[name]:
            raise InputError(f"{data.name}: all {name} queries are shared with {other.name}: measure on other data")
    return replace(data, splits=kept)


def parts(data: RankingData) -> list[RankingData]:
    """The sources of mixed data one by one, with the ids that they have there; other data as they are."""
    if not data.sources:
        return [data]
    return [part(data, label) for label in data.sources]


def part(data: RankingData, label: str) -> RankingData:
    """One source of mixed data, with the ids that it has there; what another source holds out is `unseen`."""
    source = data.sources[label]

    def own(values: Mapping[str, Value]) -> dict[str, Value]:
        return {one: value for one, value in values.items() if source_of(one) == label}

    return RankingData(
        source.name, own(data.queries), own(data.passages), own(data.judgments), own(data.candidates),
        {name: [query for query in ids if source_of(query) == label] for name, ids in data.splits.items()},
        source.licence, own(data.scores), unseen=held_texts(data),
    )  # fmt: skip

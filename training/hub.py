"""Reads ranking data sets of the Hugging Face hub, as they stream, into RankingData.

A set is named OWNER/NAME or OWNER/NAME:CONFIG. Its rows hold texts, or ids whose texts are in the configurations
`queries` and `corpus` of the same set, as in sentence-transformers/msmarco:

    query (anchor, question), positive (answer), negative or negative_1, negative_2, ...; score
    query_id, positive_id, negative_id; score
    query_id, doc_ids, labels
"""

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from itertools import islice
from typing import Any

import requests
from datasets import load_dataset
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import HfHubHTTPError
from tqdm import tqdm

from training.backbone import hub_unreachable
from training.data import InputError, RankingData, first_line
from training.records import collect_records

HUB_SET = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[\w.-]+)?", re.ASCII)
# What `msmarco` stands for: (query, positive, negative) in text, the negatives from BM25.
MSMARCO = "sentence-transformers/msmarco-bm25:triplet"
ROWS = 50_000
QUERY, POSITIVE = ("query", "anchor", "question"), ("positive", "positives", "answer")
NEGATIVE = ("negative", "negatives")
NUMBERED = re.compile(r"negative_(\d+)")
FAILURES = (HfHubHTTPError, requests.RequestException, OSError, ValueError, KeyError)

_log = logging.getLogger(__name__)
Row = Mapping[str, Any]


def check_reachable(source: str) -> None:
    """Raises InputError, within seconds, where the hub that would have a source can't be reached."""
    if reason := hub_unreachable():
        raise InputError(
            f"data source {source!r} is no folder and no file, and {reason}: give a folder or file, or connect"
        )


def read_hub(source: str, rows: int = ROWS) -> RankingData:
    """The first `rows` rows of a hub's data set; its splits stay to be made.

    Raises InputError for a set that is not there or has other columns.
    """
    given = MSMARCO if source == "msmarco" else source
    repository, _, config = given.partition(":")
    return read_set(repository, config or None, rows, name=source.partition("/")[2] or source)


def read_set(repository: str, config: str | None, rows: int, *, name: str) -> RankingData:
    """As `read_hub`; `repository` is a hub id, or a folder in the hub's layout."""
    try:
        first = list(islice(_stream(repository, config), rows))
        if first and "query_id" in first[0]:
            first = list(_with_texts(repository, first))
    except DatasetNotFoundError as error:
        raise InputError(
            f"data set {repository!r} is not on the hub, or not open to you ({first_line(error)})"
        ) from None
    except FAILURES as error:
        raise InputError(
            f"data set {repository!r}, configuration {config!r}, can't be read ({first_line(error)}): "
            "OWNER/NAME:CONFIG names another"
        ) from None
    if not first:
        raise InputError(
            f"data set {repository!r} (configuration {config!r}) has no rows with texts in its train split"
        )
    records = [as_record(repository, row) for row in first]
    relevant: dict[str, set[str]] = defaultdict(set)
    for record in records:
        relevant[record["query"]].update(record["positives"])
    data = collect_records(
        name,
        (
            (f"{repository} row {number}", without(record, relevant[record["query"]]))
            for number, record in enumerate(records, start=1)
        ),
    )
    _log.info("%s: %d rows, %d queries, %d passages", repository, len(first), len(data.queries), len(data.passages))
    return data


def as_record(repository: str, row: Row) -> dict[str, Any]:
    """One row as what `records` knows: query, positives, negatives, scores.

    A triplet's `score` is the teacher's margin, positive minus negative: raw logits 0 and -score keep it, for all
    triplets of a positive alike. A score for each passage, a list, is taken as it is.
    Raises InputError for a row without query and positive, naming the columns.
    """
    query = next((row[name] for name in QUERY if row.get(name)), None)
    positive = next((row[name] for name in POSITIVE if row.get(name)), None)
    if query is None or positive is None:
        raise InputError(
            f"data set {repository!r} has the columns {', '.join(sorted(row))}; expected one of {', '.join(QUERY)} and "
            f"one of {', '.join(POSITIVE)}: OWNER/NAME:CONFIG names another configuration"
        )
    numbered = sorted((name for name in row if NUMBERED.fullmatch(name)), key=lambda name: int(name.rpartition("_")[2]))
    negatives = next((row[name] for name in NEGATIVE if row.get(name)), [row[name] for name in numbered if row[name]])
    positives, negatives = ([part] if isinstance(part, str) else list(part) for part in (positive, negatives))
    if not all(isinstance(text, str) for text in (query, *positives, *negatives)):
        raise InputError(f"data set {repository!r}: {query!r:.60} and its passages are not all texts: name another one")
    scores = row.get("score", row.get("scores"))
    if isinstance(scores, int | float) and len(positives) == len(negatives) == 1:
        scores = [0.0, -float(scores)]
    return {
        "query": query, "positives": positives, "negatives": negatives,
        "scores": scores if isinstance(scores, list) else None,
    }  # fmt: skip


def without(record: dict[str, Any], relevant: Set[str]) -> dict[str, Any]:
    """The record without the negatives, and their scores, that another row calls relevant to its query."""
    first = len(record["positives"])
    kept = [number for number, text in enumerate(record["negatives"]) if text not in relevant]
    scores = record["scores"]
    if scores is None or len(scores) != first + len(record["negatives"]):  # the latter is refused with its row
        return record | {"negatives": [record["negatives"][number] for number in kept]}
    return record | {
        "negatives": [record["negatives"][number] for number in kept],
        "scores": scores[:first] + [scores[first + number] for number in kept],
    }


def _with_texts(repository: str, rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Rows of ids as rows of texts; one whose texts are not all there is left out."""
    rows = [_by_label(row) if "doc_ids" in row else row for row in rows]
    wanted = {str(i) for row in rows for name in ("positive_id", "negative_id") for i in _many(row.get(name))}
    queries = _texts(repository, "queries", "query_id", "query", {str(row["query_id"]) for row in rows})
    passages = _texts(repository, "corpus", "passage_id", "passage", wanted)
    for row in rows:
        sides = [[passages.get(str(i)) for i in _many(row.get(name))] for name in ("positive_id", "negative_id")]
        query = queries.get(str(row["query_id"]))
        if query and sides[0] and all(text for side in sides for text in side):
            yield {"query": query, "positive": sides[0], "negative": sides[1], "score": row.get("score")}


def _by_label(row: Row) -> dict[str, Any]:
    """query_id, doc_ids and labels as query_id, positive_id and negative_id."""
    labelled = list(zip(row["doc_ids"], row["labels"], strict=True))
    return {
        "query_id": row["query_id"],
        "positive_id": [i for i, label in labelled if label > 0],
        "negative_id": [i for i, label in labelled if label <= 0],
    }


def _texts(repository: str, config: str, key: str, text: str, wanted: set[str]) -> dict[str, str]:
    """id -> text of those that are wanted, read until all are found."""
    found: dict[str, str] = {}
    for row in tqdm(_stream(repository, config), desc=f"{config} of {repository}", unit="row", mininterval=2.0):
        if str(row[key]) in wanted:
            found[str(row[key])] = row[text]
            if len(found) == len(wanted):
                break
    return found


def _stream(repository: str, config: str | None) -> Iterator[Row]:
    return iter(load_dataset(repository, config, split="train", streaming=True))


def _many(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]

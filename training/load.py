"""From the name of a source to its ranking data, read and checked."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from training import beir, hub, pydocs, records
from training.data import (
    HELD_OUT_SHARE,
    InputError,
    RankingData,
    check_leaks,
    relevant_passages,
    require_splits,
    split_queries,
    with_missing_splits,
    without_leaks,
)
from training.mixture import load_mixture


def load(
    source: str | Path, *, drop_leaks: bool = False, keep_missing: bool = False, test_share: float = HELD_OUT_SHARE
) -> RankingData:
    """Read ranking data from "pydocs" (the built-in corpus), a BEIR folder, a file of records or the hub, and check it.

    A source that brings no splits is split by `data.split_queries`, with `test_share` of the queries for test; one that
    lacks dev or test has it taken from train. Where the share is 0, both stay as they are. A folder whose own splits
    leak (see `data.find_leaks`) is an error, or, with `drop_leaks`, loses the train queries that leak; the number is
    logged. Judged passages that the corpus lacks are an error, or, with `keep_missing`, stay in the judgments, as
    official pools such as TREC Deep Learning need it: they count in the ideal ranking and can never be retrieved.

    Raises InputError with file, line and remedy.
    """
    return finished(reader_of(source, keep_missing)(), drop_leaks, test_share)


def reader_of(source: str | Path, keep_missing: bool = False) -> Callable[[], RankingData]:
    """What reads a source, by its name and by what is there; nothing is read yet.

    Raises InputError for none, within seconds where the hub would have it and can't be reached.
    """
    if str(source) == "pydocs":
        return pydocs.load_pydocs
    if Path(source).is_dir():
        return partial(beir.read_folder, Path(source), keep_missing)
    if Path(source).is_file() and Path(source).suffix in records.RECORD_SUFFIXES:
        return partial(records.read_records, Path(source))
    if str(source) == "msmarco" or (
        hub.HUB_SET.fullmatch(str(source))
        and not Path(source).exists()
        and Path(source).suffix not in records.RECORD_SUFFIXES
    ):
        hub.check_reachable(str(source))
        return partial(hub.read_hub, str(source))
    raise InputError(
        f'data source {str(source)!r} is no folder and no .jsonl or .parquet file; give "pydocs", a folder with '
        "corpus.jsonl, queries.jsonl and qrels.tsv (BEIR's layout), a file of records with query and positives, "
        "or a set on the hub: OWNER/NAME or OWNER/NAME:CONFIG"
    )


def finished(data: RankingData, drop_leaks: bool = False, test_share: float = HELD_OUT_SHARE) -> RankingData:
    """The data with splits, made where there are none, and without leaks: see `load`. Raises InputError."""
    if not any(relevant_passages(data, query_id) for query_id in data.judgments):
        raise InputError(
            f"{data.name}: no passage that is there has a judgment above 0; add one to the qrels, or to the corpus"
        )
    if test_share and not any(data.splits.values()):
        data = replace(data, splits=split_queries(data, test_share))
    if drop_leaks:
        data = without_leaks(data)
    check_leaks(data)
    return with_missing_splits(data, test_share) if test_share else data


def load_sources(
    given: Sequence[str], drop_leaks: bool, keep_missing: bool, test_share: float = HELD_OUT_SHARE
) -> RankingData:
    """What to train on: a source as `load_source` reads it, or several with weights: see `mixture.load_mixture`."""
    data = renamed(
        load_mixture, given, lambda source: load_source(source, drop_leaks, keep_missing, test_share), drop_leaks
    )
    require_splits(data, "train")
    return data


def with_texts(data: RankingData, files: Sequence[str] | None) -> RankingData:
    """The data with the plain texts of files such as a BEIR folder's corpus.jsonl. Raises InputError."""
    return replace(data, texts={file: list(beir.read_texts(Path(file))[0].values()) for file in files or []})


def load_source(source: str, drop_leaks: bool, keep_missing: bool, test_share: float = HELD_OUT_SHARE) -> RankingData:
    """`load`, with the options by the names that the command line has."""
    return renamed(load, source, drop_leaks=drop_leaks, keep_missing=keep_missing, test_share=test_share)


def renamed(function: Callable[..., RankingData], *arguments: Any, **options: Any) -> RankingData:
    """What a function returns; in its InputError options have the names that the command line has."""
    try:
        return function(*arguments, **options)
    except InputError as error:
        message = str(error).replace("drop_leaks=True", "--drop_leaks").replace("keep_missing=True", "--keep_missing")
        raise InputError(message) from None

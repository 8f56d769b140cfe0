"""TREC run files: a ranked passage a line, `query Q0 passage rank score tag`, as trec_eval reads them."""

import codecs
import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from training.data import InputError

COLUMNS = 6
Run = dict[str, dict[str, float]]


def read_run(path: Path, queries: Collection[str] | None = None) -> Run:
    """Query id -> passage id -> score, best first; equal scores keep the order of the file.

    As in trec_eval the score decides and the column with the rank is not looked at. `queries`, where given, are
    all that the file may name. Raises InputError with file, line and remedy.
    """
    run: Run = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            # Bytes split at ASCII white space alone: an id may hold any other.
            cells = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).split()
            if cells:
                query, passage, score = _read_line(f"{path}:{number}", cells, queries)
                if passage in run.setdefault(query, {}):
                    raise InputError(f"{path}:{number}: query {query!r} ranks passage {passage!r} twice: keep one line")
                run[query][passage] = score
    if not run:
        raise InputError(f"{path} is empty: expected lines of `query Q0 passage rank score tag`")
    return {query: dict(sorted(scores.items(), key=lambda pair: -pair[1])) for query, scores in run.items()}


def write_run(path: Path, run: Mapping[str, Mapping[str, float]], tag: str) -> None:
    """Write a run, best first, under a temporary name that is then renamed; a query with no passage leaves no line.

    Scores are written so that reading gives the same numbers. Raises InputError for an id or tag that is empty or
    has white space, or a score that is not finite.
    """
    lines = []
    for query, scores in run.items():
        ranked = sorted(scores.items(), key=lambda pair: -pair[1])
        for rank, (passage, score) in enumerate(ranked, start=1):
            if not math.isfinite(score):
                raise InputError(f"query {query!r}, passage {passage!r}: score {score} is not a finite number")
            lines.append(f"{query} Q0 {passage} {rank} {float(score)!r} {tag}\n")
    check_ids([tag, *run, *(passage for scores in run.values() for passage in scores)])
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("".join(lines), encoding="utf-8", newline="\n")
    os.replace(temporary, path)


def check_ids(ids: Collection[str]) -> None:
    """Raise InputError for an id that a run file can't hold: columns are parted by white space."""
    for name in ids:
        encoded = name.encode("utf-8", "replace")
        if encoded.split() != [encoded]:
            raise InputError(f"id {name!r} is empty or has white space, which a TREC run file can't hold: rename it")


def untied(run: Mapping[str, Mapping[str, float]]) -> Run:
    """The same order with scores in single precision, each below the one before.

    trec_eval reads scores in single precision and orders equal ones by passage id; so written, it measures the
    order that is meant. A score moves by one unit in its last place for each equal one before it.
    """
    apart: Run = {}
    for query, scores in run.items():
        last, apart[query] = np.float32(np.inf), {}
        for passage, score in sorted(scores.items(), key=lambda pair: -pair[1]):
            with np.errstate(over="ignore"):  # a score beyond single precision becomes the largest that it has
                last = min(np.float32(score), np.nextafter(last, np.float32(-np.inf)))
            apart[query][passage] = float(last)
    return apart


def _read_line(where: str, cells: list[bytes], queries: Collection[str] | None) -> tuple[str, str, float]:
    if len(cells) != COLUMNS:
        raise InputError(
            f"{where}: {len(cells)} columns, expected {COLUMNS}: query, Q0, passage, rank, score and tag, "
            "parted by white space"
        )
    try:
        query, passage = cells[0].decode(), cells[2].decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 ({error.reason}): save the file as UTF-8") from None
    try:
        score = float(cells[4])
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        shown = cells[4].decode(errors="replace")
        raise InputError(f"{where}: score {shown!r} is not a finite number: correct it or drop the line")
    if queries is not None and query not in queries:
        raise InputError(
            f"{where}: query {query!r} is in none of the data: drop the line, or give the data it belongs to"
        )
    return query, passage, score

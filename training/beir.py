"""Reads a folder in BEIR's layout (Thakur et al. 2021) into RankingData, and checks every line of it.

corpus.jsonl     {"_id" or "id", "text", "title"?}
queries.jsonl    {"_id" or "id", "text", "split"?}
qrels.tsv, or qrels.train.tsv, qrels.dev.tsv, qrels.test.tsv, or qrels/train.tsv, ...
                 query id, passage id, grade; one header line
candidates.tsv   optional: query id, passage id, label; one header line; in rank order
LICENSE          optional: its first line names the licence
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from training.data import SPLITS, InputError, RankingData, encodable

PROGRESS_BYTES = 50_000_000  # files above this size show a progress bar


def read_folder(folder: Path, keep_missing: bool = False) -> RankingData:
    """Read a folder; its splits stay empty lists when neither files nor queries name any.

    A query belongs to the split of its qrels file, or of its own "split" field. `keep_missing` keeps
    judgments of passages that the corpus lacks. Raises InputError with file, line number and remedy.
    """
    passages, _ = read_texts(folder / "corpus.jsonl")
    queries, fields = read_texts(folder / "queries.jsonl")
    judgments: dict[str, dict[str, int]] = {}
    sides: dict[str, str] = dict(fields)
    for path, split in _qrels_files(folder):
        before = len(judgments)
        for where, query_id, passage_id, label in _read_table(path):
            swapped = (
                "put the query's id first, if this is the passage's" if query_id in passages else "remove the line"
            )
            _require_known(where, "query", query_id, queries, "queries.jsonl", swapped)
            if not keep_missing:
                _require_known(where, "passage", passage_id, passages, "corpus.jsonl", "load with keep_missing=True")
            grades = judgments.setdefault(query_id, {})
            if grades.setdefault(passage_id, grade := _grade(where, label)) != grade:
                raise InputError(
                    f"{where}: query {query_id!r}, passage {passage_id!r} has grade {grade} here and "
                    f"{grades[passage_id]} before; keep one"
                )
            if split and sides.setdefault(query_id, split) != split:
                raise InputError(
                    f"{where}: query {query_id!r} is judged for {split} but belongs to {sides[query_id]}; "
                    "keep each query in one split"
                )
        if split and len(judgments) == before:
            raise InputError(f"{path}: no judgments; add some, or remove the file if there is no {split} split")
    if fields and (homeless := next((query_id for query_id in judgments if query_id not in sides), None)):
        raise InputError(
            f"{folder / 'queries.jsonl'}: judged query {homeless!r} has no split while others have; "
            'give every query a "split" or none'
        )
    splits = {name: [query_id for query_id in queries if sides.get(query_id) == name] for name in SPLITS}
    candidates = _read_candidates(folder / "candidates.tsv", queries, passages)
    return RankingData(
        encodable(folder.resolve().name), queries, passages, judgments, candidates, splits, licence(folder)
    )


def read_texts(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Read a JSONL file: id -> text with its title in front (as BEIR joins them), and id -> split.

    Raises InputError with file, line number and remedy.
    """
    texts: dict[str, str] = {}
    splits: dict[str, str] = {}
    for where, line in _read_lines(path):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: invalid JSON ({error.msg} at column {error.colno}); fix the line") from None
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, or lists in lists in lists
            raise InputError(f"{where}: invalid JSON ({error}); fix the line") from None
        if not isinstance(record, dict):
            raise InputError(f'{where}: expected a JSON object such as {{"_id": "1", "text": "..."}}')
        key = _identifier(where, record)
        if key in texts:
            raise InputError(f"{where}: id {key!r} was already used; give every line its own id")
        parts = [_string(where, record, name) for name in ("title", "text") if name == "text" or record.get(name)]
        texts[key] = encodable(" ".join(part for part in parts if part.strip()))
        if not texts[key]:
            raise InputError(f"{where}: the text of id {key!r} is empty; give it a text or remove the line")
        if record.get("split") is not None:
            splits[key] = _split_name(where, _string(where, record, "split"))
    if not texts:
        raise InputError(f"{path}: the file is empty; expected one JSON object a line")
    return texts, splits


def _identifier(where: str, record: dict[str, Any]) -> str:
    key = record.get("_id", record.get("id"))
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key)
    if not isinstance(key, str) or not key.strip():
        raise InputError(f'{where}: expected "_id" (or "id") to be a string that is not empty, got {key!r}')
    if encodable(key) != key:
        raise InputError(f"{where}: id {key!r} holds half of a character (a lone surrogate); give it another")
    return key


def _string(where: str, record: dict[str, Any], name: str) -> str:
    if name not in record:
        raise InputError(f'{where}: key "{name}" is missing; found {", ".join(record)}')
    value = record[name]
    if not isinstance(value, str):
        raise InputError(f'{where}: "{name}" must be a string, got {value!r}')
    return value


def _split_name(where: str, name: str) -> str:
    if name not in SPLITS:
        raise InputError(f"{where}: unknown split {name!r}; rename it to {', '.join(SPLITS)}, or leave it out")
    return name


def _qrels_files(folder: Path) -> list[tuple[Path, str | None]]:
    """List (file, split), None for the split of a file of all judgments; split files win over qrels.tsv."""
    named = [(path, path.name.split(".", 1)[1].removesuffix(".tsv")) for path in sorted(folder.glob("qrels.*.tsv"))]
    named = named or [(path, path.stem) for path in sorted((folder / "qrels").glob("*.tsv"))]
    if named:
        return [(path, _split_name(str(path), split)) for path, split in named]
    if not (folder / "qrels.tsv").is_file():
        raise InputError(f"{folder}: no qrels.tsv, qrels.train.tsv or qrels/train.tsv; add the judgments")
    return [(folder / "qrels.tsv", None)]


def _read_candidates(path: Path, queries: dict[str, str], passages: dict[str, str]) -> dict[str, list[str]]:
    lists: dict[str, dict[str, None]] = {}
    for where, query_id, passage_id, _ in _read_table(path) if path.is_file() else ():
        _require_known(where, "query", query_id, queries, "queries.jsonl")
        _require_known(where, "passage", passage_id, passages, "corpus.jsonl")
        ranked = lists.setdefault(query_id, {})
        if passage_id in ranked:
            raise InputError(f"{where}: passage {passage_id!r} is twice in the list of query {query_id!r}; keep one")
        ranked[passage_id] = None
    return {query_id: list(ranked) for query_id, ranked in lists.items()}


def _read_table(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yield (place, query id, passage id, label) of a tab-separated file with one header line."""
    for number, (where, line) in enumerate(_read_lines(path)):
        columns = line.split("\t")
        if len(columns) != 3:
            found = f"{len(columns)}{'; put tabs between them, not commas or spaces' if len(columns) == 1 else ''}"
            raise InputError(f"{where}: expected 3 tab-separated columns (query, passage, grade), got {found}")
        query_id, passage_id, label = (column.strip() for column in columns)
        if number > 0:
            yield where, query_id, passage_id, label
        elif _is_number(label):
            # Taking a judgment for the header would lose it without a word.
            raise InputError(f"{where}: the header is missing; put query-id, corpus-id and score in a first line")


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True


def _grade(where: str, label: str) -> int:
    try:
        return int(label)
    except ValueError:
        raise InputError(
            f"{where}: grade {label!r} is no integer; give 0 for irrelevant, 1 or more otherwise"
        ) from None


def _require_known(
    where: str, kind: str, key: str, known: dict[str, str], file: str, otherwise: str = "remove the line"
) -> None:
    if key not in known:
        raise InputError(f"{where}: unknown {kind} id {key!r}; add it to {file} or {otherwise}")


def _read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (file and line number, text) of every line that is not blank."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; ranking data need it (texts alone: recipes.finetune --documents)")
    size = path.stat().st_size
    with (
        path.open("rb") as lines,
        tqdm(total=size, desc=path.name, unit="B", unit_scale=True, disable=size < PROGRESS_BYTES) as bar,
    ):
        for number, raw in enumerate(lines, start=1):
            bar.update(len(raw))
            where = f"{path}:{number}"
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise InputError(f"{where}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
            if line.strip():
                yield where, line


def licence(folder: Path) -> str:
    """The first line of a folder's LICENSE, or "not stated"."""
    for path in sorted([*folder.glob("LICENSE*"), *folder.glob("LICENCE*")]):
        if path.is_file():  # some keep them in a folder of that name
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            return next((line.strip() for line in lines if line.strip()), "not stated")
    return "not stated"

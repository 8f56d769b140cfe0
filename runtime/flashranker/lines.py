"""Lines of a file or of standard input: JSON or plain text, as passages or as requests."""

import json
import re
import sys
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any

from flashranker.errors import InputError

MEANT_AS_JSON = re.compile(r'[\[{]$|(\{|\[|\[\s*\{)\s*"')
TABLES = (".csv", ".tsv", ".parquet", ".xlsx")  # whose rows would be ranked with their header, commas and ids


def read_lines(file: str) -> Iterator[tuple[str, str]]:
    """(file and line number, text) of every line of `file`, of standard input for "-", that is not blank.

    Raises InputError for a table, a standard input that is closed, and a line that is not UTF-8.
    """
    name = "standard input" if file == "-" else file
    if Path(file).suffix.lower() in TABLES:
        raise InputError(f"{name} is a table, expected a JSON object, a JSON string or a plain text a line: convert it")
    if file == "-" and sys.stdin is None:
        raise InputError("standard input is closed, expected passages or requests there: name a FILE")
    with sys.stdin.buffer if file == "-" else Path(file).open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise InputError(f"{name}:{number}: byte {error.start} is not UTF-8: save the file as UTF-8") from None
            if line:
                yield f"{name}:{number}", line


def _parse(line: str) -> Any:
    """The JSON of a line; ValueError also for NaN and 1e999, which come out of Python as what no one else reads."""

    def finite(number: str) -> float:
        if not isfinite(value := float(number)):
            raise ValueError(f"{number} is no finite number")
        return value

    return json.loads(line, parse_float=finite, parse_constant=finite)


def as_passage(where: str, line: str) -> Any:
    """A passage from a line: JSON where it is a string or an object with a text, else the line itself.

    Raises InputError, which says `where`, for an array and for an object that has no text or goes on elsewhere.
    """
    try:
        value = _parse(line)
    except (ValueError, RecursionError) as error:
        if MEANT_AS_JSON.match(line):
            raise InputError(
                f"{where}: no whole JSON ({error}), expected one passage a line: fix it, or put it on one line"
            ) from None
        return line
    if isinstance(value, list) and any(isinstance(one, (str, dict)) for one in value):
        raise InputError(f"{where}: a JSON array, expected one passage a line: write each object on a line of its own")
    if isinstance(value, dict) and not isinstance(value.get("text"), str):
        raise InputError(f'{where}: the object has no string under "text", expected one: add it')
    return value if isinstance(value, (str, dict)) else line


def as_request(where: str, line: str) -> tuple[str, Any]:
    """Query and passages of a line {"query": ..., "passages": [...]}; InputError, which says `where`, for any other."""
    try:
        value = _parse(line)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f'{where}: not JSON ({error}), expected {{"query": ..., "passages": [...]}}: fix it, or pass --query and '
            "one passage a line"
        ) from None
    if not isinstance(value, dict) or not {"query", "passages"} <= value.keys():
        raise InputError(f'{where}: expected an object with "query" and "passages": fix it, or pass --query')
    return value["query"], value["passages"]

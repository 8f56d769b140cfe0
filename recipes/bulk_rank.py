"""Rank rows of (query, passage): pieces for Ray Data and Spark pipelines of your own, which recipes.bulk runs on too.

Neither needs PyTorch; a worker needs flashranker, pyarrow, and this checkout on its PYTHONPATH.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from flashranker import InputError, Reranker
from flashranker.artifact import MANIFEST_NAME, hash_file

from training.row_cache import text_key

if TYPE_CHECKING:
    from pandas import DataFrame

RANKED = "key string, logit float, score double, truncated boolean"  # what is added to each row, as Spark writes types
ADDED = tuple(column.split()[0] for column in RANKED.split(", "))


@dataclass(frozen=True)
class Ranked:
    """What the model says of n rows, in their order; `pairs` of them are distinct, and each of those ran once."""

    logits: np.ndarray  # float32 (n,)
    scores: np.ndarray  # float64 (n,), calibrated probabilities
    truncated: np.ndarray  # bool (n,)
    pairs: int


class RankBatch:
    """A Ray Data actor that adds `key`, `logit`, `score` and `truncated` to the rows of a batch.

    `ds.map_batches(RankBatch, fn_constructor_kwargs={"model": path}, batch_format="pyarrow", batch_size=4096,
    compute=ray.data.ActorPoolStrategy(size=8), num_cpus=1)`. The model is loaded once an actor. Within a batch each
    distinct pair runs once: drop duplicates of query and passage first where they matter across batches. The cluster
    needs a core more than the actors take, or nothing is left to read with and Ray waits for ever.

    Args:
        model: an artifact folder, at the same path on every node.
        threads: cores of one actor; `num_cpus` should say the same.
        settings: those of `Reranker`, such as `max_length` or `long`.

    Raises what `Reranker` raises, and InputError for a row without text or a column that is there already.
    """

    def __init__(self, model: str, threads: int = 1, **settings: Any) -> None:
        self.ranker = Reranker(model, threads=threads, **settings)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The same rows in the same order, with the new columns."""
        check_free(batch.column_names)
        queries, passages = texts_of(batch, "query"), texts_of(batch, "passage")
        for name, values in ranked_columns(self.ranker, queries, passages).items():
            batch = batch.append_column(name, pa.array(values))
        return batch


def rank_in_pandas(
    model: str, *, threads: int = 1, **settings: Any
) -> Callable[[Iterator["DataFrame"]], Iterator["DataFrame"]]:
    """A function for Spark that adds `key`, `logit`, `score` and `truncated` to the rows of a DataFrame.

    `df.mapInPandas(rank_in_pandas(path), StructType([*df.schema, *StructType.fromDDL(RANKED)]))`. The model is loaded
    once a Python worker, which serves many tasks; `spark.task.cpus` should be `threads`. Within a batch (of
    `spark.sql.execution.arrow.maxRecordsPerBatch` rows) each distinct pair runs once. Arguments and errors are those
    of `RankBatch`.
    """

    def rank(frames: Iterator["DataFrame"]) -> Iterator["DataFrame"]:
        ranker = open_ranker(model, threads, **settings)
        for frame in frames:
            check_free(frame.columns)
            queries, passages = (checked(frame[name].tolist(), name) for name in ("query", "passage"))
            yield frame.assign(**ranked_columns(ranker, queries, passages))

    return rank


def rank_pairs(ranker: Reranker, queries: Sequence[str], passages: Sequence[str]) -> Ranked:
    """Run each distinct pair once, grouped by query, so that a query is tokenized once; any order of rows will do.

    Raises InputError for a query that `Reranker.rerank` would refuse.
    """
    rows: dict[str, dict[str, list[int]]] = {}
    for row, (query, passage) in enumerate(zip(queries, passages, strict=True)):
        rows.setdefault(query, {}).setdefault(passage, []).append(row)
    count = len(queries)
    ranked = Ranked(np.empty(count, np.float32), np.empty(count), np.empty(count, bool), sum(map(len, rows.values())))
    requests = [(query, list(texts)) for query, texts in rows.items()]
    for hits, texts in zip(ranker.rerank_many(requests), rows.values(), strict=True):
        for hit in hits:
            same = texts[hit.passage]
            ranked.logits[same], ranked.scores[same], ranked.truncated[same] = hit.logit, hit.score, hit.truncated
    return ranked


def ranked_columns(ranker: Reranker, queries: Sequence[str], passages: Sequence[str]) -> dict[str, Any]:
    """The columns ADDED, by name."""
    ranked = rank_pairs(ranker, queries, passages)
    return dict(zip(ADDED, (pair_keys(queries, passages), ranked.logits, ranked.scores, ranked.truncated), strict=True))


def pair_keys(queries: Sequence[str], passages: Sequence[str]) -> list[str]:
    """The key of each pair: 32 hex digits, BLAKE2b of both texts, each preceded by its length."""
    return [text_key(query, passage).hex() for query, passage in zip(queries, passages, strict=True)]


def texts_of(table: pa.Table | pa.RecordBatch, column: str, where: str = "", first: int = 0) -> list[str]:
    """The texts of a column of strings; InputError naming the row (counted from `first`) of a NULL or of bad UTF-8."""
    if column not in table.schema.names:
        raise InputError(f"{where}there is no column {column!r}, expected one of texts: rename yours")
    values = table.column(column)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        raise InputError(f"{where}column {column!r} holds {values.type}, expected strings: cast it")
    raw = values.cast(pa.large_binary()).to_pylist()
    try:
        # Writers that do not check let a lone surrogate through, which the runtime reads as U+FFFD.
        texts = [value if value is None else value.decode("utf-8", "surrogatepass") for value in raw]
    except UnicodeDecodeError as error:
        row = first + raw.index(error.object)
        raise InputError(f"{where}row {row}: {column} is not UTF-8 ({error.reason}), expected text: fix it") from None
    return checked(texts, column, where, first)


def checked(values: Iterable[Any], column: str, where: str = "", first: int = 0) -> list[str]:
    """The values, or InputError naming the row of the first that is no text."""
    texts = list(values)
    for row, text in enumerate(texts, first):
        if not isinstance(text, str):
            kind = "NULL" if text is None or text != text else f"of type {type(text).__name__}"
            raise InputError(f"{where}row {row}: {column} is {kind}, expected text: drop the row or fill it")
    return texts


def check_free(columns: Iterable[str], added: Sequence[str] = ADDED) -> None:
    """Raises InputError where rows have one of the columns that are about to be added."""
    if taken := sorted(set(columns) & set(added)):
        raise InputError(f"the rows have the column {taken[0]!r} already, which is to be added: rename or drop it")


def manifest_hash(model: str) -> str:
    """What identifies an artifact: the SHA-256 of its manifest, which lists those of all its files."""
    return hash_file(Path(model) / MANIFEST_NAME).sha256


def open_ranker(model: str, threads: int, **settings: Any) -> Reranker:
    """A Reranker that stays loaded in this process while its manifest stays the same. Raises what Reranker raises."""
    known = Path(model, MANIFEST_NAME).is_file()
    return _open(model, manifest_hash(model) if known else "", threads, tuple(sorted(settings.items())))


@lru_cache(maxsize=2)
def _open(model: str, _: str, threads: int, settings: tuple[tuple[str, Any], ...]) -> Reranker:
    return Reranker(model, threads=threads, **dict(settings))

"""Teachers: a cross-encoder, a bi-encoder or a file of scores, each giving raw logits for pairs.

What a model computes is kept under its cache folder, so reading together never loads a teacher and a killed run
goes on where it stopped.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from sentence_transformers import CrossEncoder, SentenceTransformer
from tqdm import tqdm

from training.backbone import BUILTIN, model_fingerprint, resolve_model
from training.data import InputError, RankingData, first_line
from training.row_cache import Compute, RowError, cached_rows, text_key
from training.score_file import score_file, scores_of_pairs
from training.similarity_ranker import SimilarityRanker
from training.t5_ranker import T5Ranker

MAX_LENGTH = 128  # tokens: of a text for a bi-encoder, of the pair for a cross-encoder
COSINE_SCALE = 20.0  # cosine to logit; the temperature 0.05 that sentence-transformers' models are trained with
SHARD_TEXTS = 1024
CALL_TEXTS = 128
BATCH = 16  # large batches gain nothing on a CPU and pad more
FORMAT = 1  # part of every fingerprint: raise it when the meaning of a cached row changes
LOAD_ERRORS = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)

OWN_SCORES = "data"  # the teacher's name where the data bring its scores

Kind = Literal["cross-encoder", "bi-encoder", "scores"]
Role = Literal["query", "passage"]


@dataclass(frozen=True)
class Teacher:
    """Where a teacher lies and what it is; `fingerprint` is empty for a file of scores."""

    kind: Kind
    path: Path
    fingerprint: str


def open_teacher(teacher: str, max_length: int = MAX_LENGTH) -> Teacher:
    """Find a teacher: "builtin", a model folder, a hub id, or a .jsonl, .tsv or .parquet file of scores.

    The fingerprint hashes its kind, weights, configuration, tokenizer and `max_length`; nothing is loaded.
    Raises InputError when it can't be found or is none of these.
    """
    if path := score_file(teacher):
        if not path.is_file():
            raise InputError(f"teacher {teacher!r}: there is no such file of scores")
        return Teacher("scores", path, "")
    if max_length < 4:
        raise InputError(f"a teacher's max_length is {max_length} tokens, expected at least 4")
    folder = resolve_model(teacher)
    kind = model_kind(folder)
    if not kind:
        raise InputError(
            f"teacher {folder} is neither a cross-encoder (config.json with ...ForSequenceClassification) "
            "nor a bi-encoder (modules.json): pass one of these, or a .jsonl, .tsv or .parquet file of scores"
        )
    settings = json.dumps([FORMAT, kind, max_length, model_fingerprint(folder)])
    return Teacher(kind, folder, hashlib.sha256(settings.encode()).hexdigest())


def score_pairs(
    teacher: str,
    data: RankingData,
    pairs: Sequence[tuple[str, str]],
    cache: Path,
    *,
    max_length: int = MAX_LENGTH,
) -> np.ndarray:
    """Raw logits (n,) float32 of a teacher for `pairs` of (query id, passage id).

    A cross-encoder's logit has no activation; a bi-encoder's is `COSINE_SCALE` times the cosine of its embeddings; a
    file gives what it says, and "data" what the data bring. `max_length`, in tokens, holds for the text of a bi-encoder
    (query and passage alike) and for the pair of a cross-encoder. Scores (cross-encoder) or embeddings (bi-encoder)
    are kept in `cache`. Raises InputError for an unknown id, a teacher that can't be used, a score that is missing or
    not finite.
    """
    for query, passage in pairs:
        if query not in data.queries or passage not in data.passages:
            what, name = ("passage", passage) if query in data.queries else ("query", query)
            raise InputError(f"a pair to score names the {what} {name!r}, which {data.name!r} does not have")
    if teacher == OWN_SCORES:
        return _own_scores(data, pairs)
    opened = open_teacher(teacher, max_length)
    if not pairs:
        return np.zeros(0, dtype=np.float32)
    if opened.kind == "scores":
        return scores_of_pairs(opened.path, pairs)
    if opened.kind == "cross-encoder":
        texts = [(data.queries[query], data.passages[passage]) for query, passage in pairs]
        return _score_texts(opened, texts, cache, max_length)
    queries = {query: row for row, query in enumerate(dict.fromkeys(query for query, _ in pairs))}
    passages = {passage: row for row, passage in enumerate(dict.fromkeys(passage for _, passage in pairs))}
    query_rows = _encode(opened, [data.queries[query] for query in queries], cache, "query", max_length)
    passage_rows = _encode(opened, [data.passages[passage] for passage in passages], cache, "passage", max_length)
    left = np.fromiter((queries[query] for query, _ in pairs), dtype=np.int64, count=len(pairs))
    right = np.fromiter((passages[passage] for _, passage in pairs), dtype=np.int64, count=len(pairs))
    logits = np.empty(len(pairs), dtype=np.float32)
    for start in range(0, len(pairs), 65536):  # gathering all rows at once could take gigabytes
        part = slice(start, start + 65536)
        logits[part] = np.einsum("nd,nd->n", query_rows[left[part]], passage_rows[right[part]]) * COSINE_SCALE
    return logits


def _own_scores(data: RankingData, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    missing = [(query, passage) for query, passage in pairs if passage not in data.scores.get(query, {})]
    if missing:
        query, passage = missing[0]
        raise InputError(
            f"{data.name} has no score for {len(missing)} of {len(pairs)} pairs, first query {query!r} with passage "
            f"{passage!r}: name another teacher than `{OWN_SCORES}`"
        )
    return np.array([data.scores[query][passage] for query, passage in pairs], dtype=np.float32)


def encode_texts(
    teacher: str,
    texts: Sequence[str],
    cache: Path,
    *,
    role: Role = "passage",
    max_length: int = MAX_LENGTH,
    prompt: str | None = None,
) -> np.ndarray:
    """Embeddings (len(texts), dimension) float32 of norm 1 by a bi-encoder, from `cache` where they are.

    Each distinct text is encoded once. `role` picks the model's own prompt for queries or passages, if it has
    one; `prompt` takes its place. Raises InputError when the teacher is not a bi-encoder.
    """
    return _encode(open_bi_encoder(teacher, max_length), texts, cache, role, max_length, prompt)


def open_bi_encoder(teacher: str, max_length: int = MAX_LENGTH) -> Teacher:
    """As `open_teacher`, of a bi-encoder; raises InputError for anything else."""
    opened = open_teacher(teacher, max_length)
    if opened.kind != "bi-encoder":
        raise InputError(f"teacher {teacher!r} ({opened.kind}) has no embeddings: pass a bi-encoder or `{BUILTIN}`")
    return opened


def query_encoder(teacher: str, max_length: int = MAX_LENGTH) -> Callable[[str], np.ndarray]:
    """A bi-encoder, loaded once: a query to its embedding (1, dimension) float32 of norm 1; nothing is kept on disk."""
    model = _load_bi_encoder(open_bi_encoder(teacher, max_length).path, max_length)

    def encode(query: str) -> np.ndarray:
        return model.encode_query([query], normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True)

    return encode


def _encode(
    teacher: Teacher, texts: Sequence[str], cache: Path, role: Role, max_length: int, prompt: str | None = None
) -> np.ndarray:
    prompt = _overlooked_prompt(teacher.path, role) if prompt is None else prompt

    def compute(missing: list[int]) -> Iterator[tuple[list[int], np.ndarray]]:
        model = _load_bi_encoder(teacher.path, max_length)
        encode = partial(
            model.encode_query if role == "query" else model.encode_document,
            prompt=prompt, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True,
        )  # fmt: skip
        for positions, call in _by_length(missing, [len(text) for text in texts], f"encoding {role} texts"):
            yield positions, np.concatenate([encode([texts[position] for position in part]) for part in call])

    keys = [text_key(role, text) if prompt is None else text_key(role, prompt, text) for text in texts]
    return _cached(teacher, keys, cache, compute)


def _score_texts(teacher: Teacher, texts: Sequence[tuple[str, str]], cache: Path, max_length: int) -> np.ndarray:
    inputs: Sequence[Any] = texts  # predict() is typed for images and sound too, in an invariant list

    def compute(missing: list[int]) -> Iterator[tuple[list[int], np.ndarray]]:
        model = _load_cross_encoder(teacher.path, max_length)
        lengths = [len(query) + len(passage) for query, passage in texts]
        for positions, call in _by_length(missing, lengths, "scoring pairs"):
            yield (
                positions,
                np.concatenate(
                    [
                        model.predict(
                            [inputs[position] for position in part],
                            batch_size=BATCH,
                            # Without it sentence-transformers applies a sigmoid, and scores saturate.
                            activation_fn=torch.nn.Identity(),
                            show_progress_bar=False,
                            convert_to_numpy=True,
                        ).reshape(-1, 1)
                        for part in call
                    ]
                ),
            )

    return _cached(teacher, [text_key(query, passage) for query, passage in texts], cache, compute)[:, 0]


def _by_length(
    missing: list[int], lengths: Sequence[int], label: str
) -> Iterator[tuple[list[int], Iterator[list[int]]]]:
    """Shards of positions, longest texts first, each with an iterator over its calls that moves a bar."""
    ordered = sorted(missing, key=lambda position: -lengths[position])
    with tqdm(total=len(ordered), desc=label, mininterval=2.0) as bar:

        def calls(shard: list[int]) -> Iterator[list[int]]:
            for start in range(0, len(shard), CALL_TEXTS):
                part = shard[start : start + CALL_TEXTS]
                yield part
                bar.update(len(part))

        for start in range(0, len(ordered), SHARD_TEXTS):
            shard = ordered[start : start + SHARD_TEXTS]
            yield shard, calls(shard)


def _cached(teacher: Teacher, keys: list[bytes], cache: Path, compute: Compute) -> np.ndarray:
    try:
        return cached_rows(cache / f"{teacher.kind}-{teacher.fingerprint[:24]}", keys, compute)
    except RowError as error:
        raise InputError(f"teacher {teacher.path} computed a value that is not finite: {error}") from error


def _load_bi_encoder(folder: Path, max_length: int) -> SentenceTransformer:
    try:
        model = SentenceTransformer(str(folder), trust_remote_code=False, local_files_only=True)
    except LOAD_ERRORS as error:
        raise _unusable(folder, error) from error
    model.max_seq_length = min(max_length, model.max_seq_length or max_length)
    return model


def _load_cross_encoder(folder: Path, max_length: int) -> CrossEncoder:
    try:
        model = CrossEncoder(str(folder), trust_remote_code=False, local_files_only=True)
    except LOAD_ERRORS as error:
        raise _unusable(folder, error) from error
    if model.num_labels != 1:
        raise InputError(
            f"teacher {folder} gives {model.num_labels} scores a pair: pass a cross-encoder with one label"
        )
    model.max_seq_length = min(max_length, model.max_seq_length or max_length)
    return model


def _unusable(folder: Path, error: Exception) -> InputError:
    return InputError(f"teacher {folder} can't be loaded ({first_line(error)}): expected a complete model folder")


def model_kind(folder: Path) -> Kind | None:
    """What a model folder says that it is: a model with a head for pairs, a bi-encoder, or None for neither."""
    # A saved CrossEncoder has a modules.json as well, so its head is looked at first.
    for name, field in (
        ("config_sentence_transformers.json", "model_type"),
        ("config.json", "architectures"),
    ):
        value = _read_json(folder / name).get(field)
        heads = [str(item) for item in value] if isinstance(value, list) else []
        if value == "CrossEncoder" or any(
            head.endswith(("ForSequenceClassification", SimilarityRanker.__name__, T5Ranker.__name__)) for head in heads
        ):
            return "cross-encoder"
    return "bi-encoder" if (folder / "modules.json").is_file() else None


def _overlooked_prompt(folder: Path, role: Role) -> str | None:
    """A prompt "passage" or "corpus": sentence-transformers gives "document", which stands before it, an empty one."""
    prompts = _read_json(folder / "config_sentence_transformers.json").get("prompts") or {}
    if role == "query" or prompts.get("document"):
        return None
    return prompts.get("passage") or prompts.get("corpus") or None


def _read_json(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}): restore the model folder") from error
    return content if isinstance(content, dict) else {}

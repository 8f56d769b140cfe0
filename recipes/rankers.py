"""Whatever can rank: artifact, ONNX folder, checkpoint or run file, each as a function from candidates to a run."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import flashranker
from flashranker import Reranker, ScoreCache
from flashranker.artifact import MANIFEST_NAME, MODEL_NAME, TOKENIZER_NAME, hash_file, read_manifest
from flashranker.foreign import describe_foreign

from export.licence import parts_of
from export.parity import runtime_logits
from recipes.measure import requests_of
from training.backbone import model_fingerprint, resolve_model, user_path
from training.candidates import Candidates
from training.data import InputError
from training.prepare import Held
from training.score_file import SCORE_SUFFIXES
from training.teacher import model_kind, open_teacher, score_pairs
from training.trec import Run, read_run

FIRST_STAGE = "first stage"
RUN_SUFFIXES = {".run", ".trec", ".txt"}
Kind = Literal["artifact", "ONNX folder", "checkpoint", "run file"]
Rank = Callable[[Held], Run]  # query id -> passage id -> score; a query that it can't rank is absent


@dataclass(frozen=True)
class Found:
    """A model of the command line: the name of its row, how it is opened, and where it lies."""

    name: str
    kind: Kind
    source: str


def split_name(given: str) -> tuple[str, str]:
    """NAME=SOURCE to its two parts; without a name, that of the folder, or of the file without its suffix."""
    name, equals, source = given.partition("=")
    path = user_path(given)
    if equals and name.strip() and not path.exists():
        return name.strip(), source
    return (path.stem if path.is_file() else path.name or path.resolve().name), given


def find_models(given: Iterable[str]) -> list[Found]:
    """Find every model, with nothing loaded.

    Raises InputError for a model that can't be found, or two whose names, as parts of file names, are the same.
    """
    found = [find_model(one) for one in given]
    check_names("MODEL", [FIRST_STAGE, *(model.name for model in found)])
    return found


def find_model(given: str) -> Found:
    """A folder with a flashranker.json is an artifact, one with an ONNX file and no PyTorch weights another tool's.

    Any other file than scores (.jsonl, .tsv, .parquet) is a TREC run; the rest is what `open_teacher` knows.
    """
    name, source = split_name(given)
    path = user_path(source)
    if path.suffix in RUN_SUFFIXES and not path.exists():
        raise InputError(f"there is no run file {source!r}: correct the path")
    if path.is_file() and path.suffix not in SCORE_SUFFIXES:
        return Found(name, "run file", source)
    if source.strip() and path.is_dir():
        if (path / MANIFEST_NAME).is_file():
            return Found(name, "artifact", source)
        weights = [*path.glob("*.safetensors"), *path.glob("pytorch_model*.bin")]
        if not weights and (any(path.glob("*.onnx")) or any(path.glob("onnx/*.onnx"))):
            return Found(name, "ONNX folder", source)
        if not model_kind(path):
            raise InputError(
                f"{source} holds no model: expected an artifact, a checkpoint, a bi-encoder or an ONNX file"
            )
    with called_model():
        open_teacher(source)
    return Found(name, "checkpoint", source)


def check_names(what: str, names: Iterable[str]) -> None:
    """Raise InputError for names that would share a file, as "a b" and "a-b" do."""
    seen: dict[str, str] = {}
    for name in names:
        part = file_part(name).casefold()
        if part in seen:
            raise InputError(f"{seen[part]!r} and {name!r} would be one name: call one of them otherwise, NAME={what}")
        seen[part] = name


def file_part(name: str) -> str:
    """A name as a part of a file's name and as the tag of a run."""
    return re.sub(r"[^\w.-]+", "-", name)


def open_model(found: Found, sets: Mapping[str, Held], cache: Path, max_length: int, threads: int) -> Rank:
    """Open a model; `max_length` bounds the tokens that it reads, never beyond its own.

    Scores of models are kept in `cache`. `threads` is for ONNX models, 0 for all cores.
    Raises InputError or FlashRankerError, before anything is scored, for a model or a run file that is broken, a run
    of other queries, or a query that is too long for the model.
    """
    if found.kind == "run file":
        run = read_run(user_path(found.source), {query for held in sets.values() for query in held.data.queries})
        return partial(rank_by_file, run, {name: share_known(run, held) for name, held in sets.items()})
    if found.kind == "checkpoint":
        return partial(rank_by_checkpoint, found.source, cache / "teacher", max_length)
    cache.mkdir(parents=True, exist_ok=True)
    ranker = open_runtime(found, cache, max_length, threads)
    for name, held in sets.items():
        for query in held.candidates:
            try:
                ranker.check_query(held.data.queries[query])
            except flashranker.InputError as error:
                raise InputError(f"{found.name}, {name}, query {query!r}: {error}") from None
    return partial(rank_by_runtime, ranker, found.name)


def open_runtime(found: Found, cache: Path, max_length: int, threads: int) -> Reranker:
    """The shipped runtime with the folder, its manifest checked unless it is another tool's."""
    opened = partial(
        Reranker, user_path(found.source), foreign=found.kind == "ONNX folder", threads=threads or None,
        cache=ScoreCache(cache / "scores.sqlite"),
    )  # fmt: skip
    ranker = opened()
    return ranker if ranker.max_length <= max_length else opened(max_length=max_length)


def content_hash(found: Found) -> str:
    """sha256, as hex, of what ranks: of a file, of an ONNX model, or `model_fingerprint` of a checkpoint.

    Where a graph keeps weights in other files it is that of all their hashes.
    """
    path = user_path(found.source)
    if path.is_file():
        return hash_file(path).sha256
    if found.kind == "artifact":
        return read_manifest(path).files[MODEL_NAME].sha256
    if found.kind == "ONNX folder":
        hashes = [entry.sha256 for name, entry in describe_foreign(path)[1].files.items() if name != TOKENIZER_NAME]
        return hashes[0] if len(hashes) == 1 else sha256(" ".join(hashes).encode()).hexdigest()
    return model_fingerprint(resolve_model(found.source))


def rank_by_runtime(ranker: Reranker, name: str, held: Held) -> Run:
    """Raw logits of the candidates through the runtime."""
    logits = runtime_logits(ranker, requests_of(held), name)
    return scored(held.candidates, (one for passages in logits for one in passages))


def rank_by_checkpoint(source: str, cache: Path, max_length: int, held: Held) -> Run:
    """Raw logits of the candidates through PyTorch, cosines of a bi-encoder, or what a file of scores says."""
    pairs = [(query, passage) for query, passages in held.candidates.items() for passage in passages]
    with called_model():
        logits = score_pairs(source, held.data, pairs, cache, max_length=max_length)
    return scored(held.candidates, logits)


def rank_by_file(run: Run, shares: Mapping[str, Mapping[str, float]], held: Held) -> Run:
    """What a run file says of these queries, whatever passages it ranks: it need not have had these candidates.

    Empty when the run is another data set's: it has none of the queries, or only passages that nobody knows here.
    Where several sets name queries alike, as by numbers, they are not of a set that knows less than half as much as
    another of what the run ranks for them: `shares` is name of a set -> query -> `share_known`.
    """
    own, others = shares[held.data.name], set[str]()
    for other in shares.values():
        common = own.keys() & other.keys()
        if sum(own[query] for query in common) < sum(other[query] for query in common) / 2:
            others |= common
    ours = {query: run[query] for query in own if query not in others}
    return ours if any(own[query] for query in ours) else {}


def share_known(run: Run, held: Held) -> dict[str, float]:
    """Query of the set -> which share of the passages that a run ranks for it are judged or candidates there."""
    known = {passage for grades in held.data.judgments.values() for passage in grades} | held.data.passages.keys()
    ranked = {query: run[query] for query in held.candidates if query in run}
    return {query: len(known & scores.keys()) / max(1, len(scores)) for query, scores in ranked.items()}


def scored(candidates: Candidates, scores: Iterable[float]) -> Run:
    """Scores in the order of the candidates, as a run."""
    given = iter(scores)
    return {query: {passage: float(next(given)) for passage in passages} for query, passages in candidates.items()}


def trained_on(found: Found) -> set[str]:
    """The names of the data that an artifact says it was trained on; none where nothing is said."""
    parts = parts_of(lineage_of(found))
    return {
        str(data.get("name")) for part, data in parts.items() if part.startswith("data") and isinstance(data, Mapping)
    }


def chosen_on(found: Found) -> str:
    """The name of the data on whose queries an artifact says that it was chosen, "" where these are its own."""
    stated = lineage_of(found).get("chosen on")
    return str(stated.get("name")) if isinstance(stated, Mapping) else ""


def lineage_of(found: Found) -> Mapping[str, Any]:
    """Where an artifact says that it comes from; nothing of other models."""
    return read_manifest(user_path(found.source)).lineage if found.kind == "artifact" else {}


@contextmanager
def called_model() -> Iterator[None]:
    """What `training.teacher` calls a teacher is a model like any other here."""
    try:
        yield
    except InputError as error:
        raise InputError(re.sub("^teacher ", "model ", str(error))) from None

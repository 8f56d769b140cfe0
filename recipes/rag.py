"""Ask your documents: search them, rerank what is found, and let a model answer from the best passages.

python -m recipes.rag "how do I sort a list" --documents my-texts      # .md, .rst, .txt and .pdf files
python -m recipes.rag "how do I parse a date"                          # the built-in corpus
python -m recipes.rag "..." --documents my-texts --endpoint http://127.0.0.1:11434/v1 --endpoint_model llama3.2
python -m recipes.rag --documents my-texts < questions.txt             # a question a line

Prints what reranking changed, then the prompt with its passages or, with an endpoint, the answer and the sources that
it cites. The key of an endpoint that wants one is read from the environment variable OPENAI_API_KEY. Results go to
standard output, progress to standard error. The exit status is 2 for bad input and for questions without an answer.
"""

import hashlib
import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import faiss
import torch
from flashranker import ModelNotFoundError, Reranker

from recipes.command import launch, say, setting
from recipes.rag_answer import KEY, check_endpoint, complete
from recipes.rag_documents import BUILTIN_CORPUS, Source, list_sources, searched_text
from recipes.rag_index import EMBEDDED_TOKENS, Index, update_index
from recipes.rag_report import printable
from recipes.rag_search import Candidate, rerank, search
from recipes.rag_session import Respond, Retrieve, ask, read_questions
from recipes.rankers import called_model
from training.backbone import user_path
from training.data import InputError
from training.first_stage import bm25_index
from training.teacher import query_encoder


@dataclass(frozen=True)
class RagConfig:
    """Settings of one session."""

    documents: str = setting(
        BUILTIN_CORPUS, "what is asked: pydocs (built in) or a folder of .md, .rst, .txt and .pdf files"
    )
    index: Path | None = setting(
        None, "folder of the index, made and updated there; by default cache/rag/NAME, one for each --documents"
    )
    model: Path = setting(Path("artifacts/small"), "artifact folder of the reranker")
    embedder: str = setting("builtin", "bi-encoder of the vectors: builtin, a model folder or a hub id")
    depth: int = setting(50, "candidates of BM25 and of the vectors each, and passages that are reranked")
    top_n: int = setting(5, "passages in the prompt")
    endpoint: str | None = setting(None, "base URL of an OpenAI-compatible server, such as http://127.0.0.1:11434/v1")
    endpoint_model: str | None = setting(None, "name of the endpoint's model")
    timeout: float = setting(120.0, "seconds to wait for the endpoint")
    threads: int = setting(0, "cores; 0 for all that this process may use")


def run(config: RagConfig, question: str | None, as_json: bool, _command: str) -> None:
    """The story of one session. Raises InputError, or the runtime's errors."""
    key = os.environ.get(KEY, "").strip()
    check(config, key)
    if config.threads:
        torch.set_num_threads(config.threads)
        faiss.omp_set_num_threads(config.threads)
    tell(f"1/4 reranker: {config.model}")
    ranker = open_reranker(config)
    if question is not None:
        ranker.check_query(question)  # before minutes of indexing, and not behind them

    tell(f"2/4 documents: {config.documents}")
    files = list_sources(config.documents)

    folder = config.index or default_index(config.documents)
    tell(f"3/4 index: {folder}")
    index = open_index(config, folder, files)
    retrieve = make_retrieve(config, index, ranker)

    tell(f"4/4 {'questions, one a line' if question is None else 'question'}")
    problems: list[str] = []
    try:
        for given in [question] if question is not None else read_questions():
            problems.append(ask(given, retrieve, config.top_n, make_respond(config, key), as_json))
            if problems[-1] and question is None:
                tell(f"error: {printable(given)[:60]!r}: {problems[-1]}")
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if question is not None and any(problems):
        raise InputError(problems[0])
    if any(problems) and not sys.stdin.isatty():
        raise InputError(f"{sum(map(bool, problems))} of {len(problems)} questions had no result, as said above")


def check(config: RagConfig, key: str) -> None:
    """Raises InputError for a setting that makes no sense."""
    for name, value, least in (
        ("depth", config.depth, 1), ("top_n", config.top_n, 1), ("threads", config.threads, 0)
    ):  # fmt: skip
        if value < least:
            raise InputError(f"--{name} is {value}: expected {least} or more")
    if config.top_n > config.depth:
        raise InputError(
            f"--top_n is {config.top_n}, --depth {config.depth}: expected no more passages than candidates"
        )
    if not 0 < config.timeout < math.inf:
        raise InputError(f"--timeout is {config.timeout}: expected seconds, more than 0")
    if (config.endpoint is None) != (config.endpoint_model is None):
        raise InputError("expected --endpoint and --endpoint_model, or neither: name the model that should answer")
    if config.endpoint is not None:
        check_endpoint(config.endpoint, key)


def open_reranker(config: RagConfig) -> Reranker:
    """The runtime with the artifact. Raises InputError where it is not there, else the runtime's errors."""
    try:
        return Reranker(user_path(config.model), threads=config.threads or None)
    except ModelNotFoundError:
        raise InputError(
            f"--model {config.model}: no such artifact; make one by `make distill`, or name another"
        ) from None


def default_index(documents: str) -> Path:
    """cache/rag/pydocs, or cache/rag/NAME-HASH for a folder: two of one name in different places have their own."""
    root = Path("cache/rag")
    if documents == BUILTIN_CORPUS:
        return root / BUILTIN_CORPUS
    folder = user_path(documents).resolve()
    return root / f"{folder.name}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]}"


def open_index(config: RagConfig, folder: Path, files: Mapping[str, Source]) -> Index:
    """The index, up to date; says what changed and what was skipped. Raises InputError."""
    try:
        with called_model():
            index, update = update_index(folder, files, config.embedder)
    except OSError as error:
        place = error.filename or folder
        raise InputError(f"{error.strerror or error}: {place}: free space or pass another --index") from None
    if update.anew:
        tell(f"    warning: built anew, because {update.anew}")
    for problem in update.skipped.values():
        tell(f"    warning: skipped {problem}")
    if update.skipped:
        tell(f"    warning: {len(update.skipped)} of {len(files)} files skipped")
    tell(f"    passages: {update.added} added, {update.kept} kept, {update.removed} removed")
    return index


def make_retrieve(config: RagConfig, index: Index, ranker: Reranker) -> Retrieve:
    """Search and reranking of one question, with all models loaded."""
    bm25 = bm25_index([searched_text(chunk) for chunk in index.chunks], config.documents)
    with called_model():
        encode = query_encoder(config.embedder, EMBEDDED_TOKENS)

    def retrieve(question: str) -> tuple[list[Candidate], dict[str, float]]:
        ranker.check_query(question)
        start = time.perf_counter()
        found = search(index, bm25, encode, question, config.depth)
        searched = time.perf_counter()
        candidates = rerank(ranker, question, found)
        return candidates, {
            "search": 1000 * (searched - start), "rerank": 1000 * (time.perf_counter() - searched)
        }  # fmt: skip

    return retrieve


def make_respond(config: RagConfig, key: str) -> Respond | None:
    """What asks the endpoint; None without one."""
    if config.endpoint is None or config.endpoint_model is None:
        return None
    return partial(complete, config.endpoint, config.endpoint_model, timeout=config.timeout, key=key)


def tell(line: str) -> None:
    """Progress, on standard error."""
    say(line, file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """0 when every question had a result, 2 for bad input or one that had none."""
    # An option of the dataclass would take the question behind --json for its value.
    return launch("rag", __doc__, run, [RagConfig], argv, positional={
        "question": {"nargs": "?", "help": "what to ask; without one, standard input is read, a question a line"},
        "--json": {"action": "store_true", "help": "print a JSON object for each question"},
    })  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

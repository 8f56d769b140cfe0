"""Rerank on the command line, and look at a model folder.

flashranker rerank MODEL --query "sort a list" passages.jsonl     # a line: a JSON string, {"text": ...} or plain text
flashranker rerank MODEL requests.jsonl --json                    # a line: {"query": ..., "passages": [...]}
flashranker info MODEL
flashranker verify MODEL
flashranker bench MODEL
flashranker serve MODEL [NAME=MODEL ...]                          # over HTTP, with a page to try it on
"""

import argparse
import errno
import json
import logging
import os
import sys
import time
from collections.abc import Iterable
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from statistics import median
from typing import Any

from flashranker.artifact import MANIFEST_NAME, MODEL_NAME, read_manifest, verify_files
from flashranker.cache import ScoreCache
from flashranker.cascade import Cascade
from flashranker.errors import ArtifactError, FlashRankerError, InputError
from flashranker.inputs import check_count
from flashranker.lines import as_passage, as_request, read_lines
from flashranker.processor import PORTABLE
from flashranker.reranker import LONG, Hit, Reranker
from flashranker.server.options import add_options

# Words for `bench`; how fast a model reads new passages depends little on what they say, only on how much.
SENTENCE = "The function returns a new list with all items of the given iterable in ascending order of their keys. "
BENCHED = {"short": 1, "medium": 5, "full length": 100}  # sentences of a passage
TURNS = 5
KEEP = 25


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 if it went well, 2 for bad input or a folder that does not verify."""
    arguments = _parse(argv)
    try:
        if sys.stdout is None and arguments.run is not _serve:
            raise InputError("standard output is closed, expected one for the results: redirect it to a file")
        # Half an emoji, and what a terminal's encoding lacks, is written as its number.
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        arguments.run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe has seen enough
        _drop_output()
    except (FlashRankerError, OSError, UnicodeEncodeError) as error:
        if sys.stderr is not None:  # or it would go to standard output
            told = str(error)
            if isinstance(error, OSError) and error.filename is not None:
                told = f"{error.filename}: {error.strerror}, expected a file: correct the path"
            elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                _drop_output()
                told = f"{error.strerror}, expected room for the results: free space, or write them elsewhere"
            print(f"error: {told}", file=sys.stderr)
        return 2
    return 0


def _drop_output() -> None:
    """Let what is left of standard output go nowhere, or Python would try again, and complain, when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _rerank(arguments: argparse.Namespace) -> None:
    ranker = _open_row(arguments, arguments.model)
    if isinstance(ranker, Reranker) and arguments.keep is not None:
        raise InputError(f"--keep {arguments.keep} with one model, expected a cascade MODEL,MODEL: leave it out")
    if arguments.query is not None:
        passages = [as_passage(where, line) for where, line in read_lines(arguments.file)]
        requests: Iterable[tuple[str, str, Any]] = [("", arguments.query, passages)]
    else:
        requests = ((f"{where}: ", *as_request(where, line)) for where, line in read_lines(arguments.file))
    for number, (where, query, passages) in enumerate(requests):
        try:
            hits = ranker.rerank(query, passages, top_n=arguments.top_n)
        except InputError as error:
            raise InputError(f"{where}{error}") from None
        if arguments.json:
            print(json.dumps({"query": query, "hits": [_plain(hit) for hit in hits]}), flush=True)
        else:
            if number:
                print()
            if arguments.query is None:
                print(f"# {query}")
            for hit in hits:
                text = hit.passage if isinstance(hit.passage, str) else hit.passage["text"]
                cut = " (cut)" if hit.truncated else ""
                print(f"{hit.score:.4f}  {hit.index:>4}  {' '.join(text.split())[:100]}{cut}")
            sys.stdout.flush()  # an interrupt takes no answer that was given


def _info(arguments: argparse.Namespace) -> None:
    manifest = read_manifest(arguments.model)
    size = manifest.files[MODEL_NAME].bytes if MODEL_NAME in manifest.files else 0
    facts = {
        "name": manifest.name, "tier": manifest.tier, "model bytes": size, "max_length (tokens)": manifest.max_length,
        "format version": manifest.format_version, "command": manifest.command, "seed": manifest.seed,
        "quantization": manifest.quantization.get("rung", "not stated"),
        "profile": manifest.quantization.get("profile", PORTABLE),
    }  # fmt: skip
    intact = True
    try:
        verify_files(arguments.model, manifest)
        facts["files"] = f"{len(manifest.files)}, as the manifest says"
    except ArtifactError as error:
        intact, facts["files"] = False, f"NOT as the manifest says: {error}"
    facts |= {part: _in_a_line(stated) for part, stated in manifest.lineage.items()}
    for stage, values in manifest.metrics.items():
        measured = list(values.values()) if isinstance(values, dict) else []
        counts = {str(value["queries"]) for value in measured if isinstance(value, dict) and "queries" in value}
        facts[stage] = _in_a_line(values) + (f" ({', '.join(sorted(counts))} queries)" if counts else "")
    if arguments.json:
        more = {"intact": intact, "notices": manifest.notices, "gates": manifest.gates}
        print(json.dumps(facts | more, ensure_ascii=False))
        return
    for name, fact in facts.items():
        print(f"{name + ':':<22} {fact}")
    for notice in manifest.notices:
        print(f"notice: {notice}")
    for gate in manifest.gates:
        gate = gate if isinstance(gate, dict) else {"message": gate}
        print(f"gate: {gate.get('name')}: {'passed' if gate.get('passed') else 'FAILED'}, {gate.get('message')}")


def _in_a_line(stated: Any) -> str:
    """A value of the manifest, which may hold any; of a measure its mean."""
    if isinstance(stated, float):
        return f"{stated:.4f}" if abs(stated) < 10 else f"{stated:.1f}"
    if not isinstance(stated, dict):
        return f"[{', '.join(map(_in_a_line, stated))}]" if isinstance(stated, list) else str(stated)
    means = {name: value["mean"] if isinstance(value, dict) and "mean" in value else value
             for name, value in stated.items()}  # fmt: skip
    return ", ".join(f"{name} {_in_a_line(value)}" for name, value in means.items())


def _verify(arguments: argparse.Namespace) -> None:
    manifest = read_manifest(arguments.model)
    verify_files(arguments.model, manifest)
    Reranker(arguments.model, threads=1)
    total = sum(entry.bytes for entry in manifest.files.values())
    print(f"{arguments.model}: {len(manifest.files)} files of {total} bytes are what the manifest says, the model runs")


def _bench(arguments: argparse.Namespace) -> None:
    count = check_count(arguments.passages, "--passages", 1)
    ranker = _open(arguments, arguments.model)
    logger = logging.getLogger("flashranker")
    before = logger.level
    logger.setLevel(logging.ERROR)  # it cuts the longest, as it is meant to
    try:
        results = [_timed(ranker, count, name, sentences) for name, sentences in BENCHED.items()]
    finally:
        logger.setLevel(before)
    if arguments.json:
        print(json.dumps(results))
        return
    print(f"{count} passages, {ranker.threads} threads, {TURNS} turns; milliseconds: median (range)")
    for result in results:
        span = f"({result['fastest ms']:.1f} to {result['slowest ms']:.1f})"
        print(f"{result['passages']:<12} {result['median ms']:>9.1f} {span}")


def _timed(ranker: Reranker, count: int, name: str, sentences: int) -> dict[str, Any]:
    seconds = []
    for turn in range(TURNS + 1):  # the first is a warm-up
        passages = [f"{turn} {number} {SENTENCE * sentences}" for number in range(count)]
        start = time.perf_counter()
        ranker.score("how do I sort a list", passages)
        if turn:
            seconds.append(time.perf_counter() - start)
    return {
        "passages": name, "count": count, "turns": TURNS, "threads": ranker.threads,
        "median ms": 1000 * median(seconds), "fastest ms": 1000 * min(seconds), "slowest ms": 1000 * max(seconds),
    }  # fmt: skip


def _serve(arguments: argparse.Namespace) -> None:
    try:
        from flashranker.server.command import serve  # here, and not above: it needs an extra
    except ImportError as error:
        raise InputError(str(error)) from error
    serve(arguments, partial(_open_row, arguments))


def _open(arguments: argparse.Namespace, model: str) -> Reranker:
    long, cache = getattr(arguments, "long", "cut"), getattr(arguments, "cache", None)
    return Reranker(
        model, threads=arguments.threads, max_length=arguments.max_length, long=long,
        foreign=arguments.foreign and not os.path.lexists(Path(model) / MANIFEST_NAME),
        cache=None if cache is None else ScoreCache(cache),
    )  # fmt: skip


def _open_row(arguments: argparse.Namespace, models: str) -> Reranker | Cascade:
    """One model, or several, MODEL,MODEL, in a cascade."""
    names = [models] if Path(models).is_dir() else models.split(",")
    if len(names) > 1 and not all(names):
        raise InputError(f"{models!r} names an empty model, expected MODEL,MODEL for a cascade: correct it")
    rankers = [_open(arguments, model) for model in names]
    keep = KEEP if arguments.keep is None else arguments.keep
    return Cascade(rankers, keep=keep) if len(rankers) > 1 else rankers[0]


def _plain(hit: Hit) -> dict[str, Any]:
    return {
        "index": hit.index, "score": hit.score, "logit": hit.logit, "truncated": hit.truncated, "passage": hit.passage
    }  # fmt: skip


def _parse(argv: list[str] | None) -> argparse.Namespace:
    """argparse up to Python 3.12 takes FILE only right behind MODEL: behind an option it is left over, and put back."""
    parser = _parser()
    arguments, left = parser.parse_known_args(argv)
    if len(left) == 1 and (left[0] == "-" or not left[0].startswith("-")) and vars(arguments).get("file", "") is None:
        arguments.file, left = left[0], []
    if left:
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if vars(arguments).get("file", "") is None:
        arguments.file = "-"
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flashranker", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, explanation: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=explanation, description=explanation)
        added.set_defaults(run=run)
        if name == "serve":
            explained = "model folder; NAME=MODEL to call it otherwise, MODEL,MODEL for a cascade"
            added.add_argument("models", metavar="MODEL", nargs="+", help=explained)
        else:
            added.add_argument("model", metavar="MODEL", help="model folder")
        if name in ("rerank", "info", "bench"):
            added.add_argument("--json", action="store_true", help="print JSON, for programs")
        if name in ("rerank", "serve"):
            kept = f"passages that a cascade MODEL,MODEL keeps after each model (default: {KEEP})"
            added.add_argument(
                "--long", choices=LONG, default="cut", help="long passages: cut, or maxp, best of its windows"
            )
            added.add_argument("--keep", type=int, help=kept)
        if name in ("rerank", "bench", "serve"):
            added.add_argument("--threads", type=int, help="pairs run side by side (default: the cores allowed)")
            added.add_argument("--max-length", type=int, help="tokens of a pair (default: the model's)")
            added.add_argument("--foreign", action="store_true", help="a folder without a manifest is another tool's")
        return added

    rerank = command("rerank", _rerank, "put passages in order, best first: score, position in the input, text")
    rerank.add_argument("file", metavar="FILE", nargs="?", help="JSON lines (default: -, standard input)")
    rerank.add_argument("--query", help="rank the lines of FILE, each a passage, for this query")
    rerank.add_argument("--top-n", type=int, help="how many passages to print (default: all)")
    command(
        "info", _info, "what a model is: origin, size, quality, gates, and (exit 0 all the same) if its files changed"
    )
    command("verify", _verify, "check every file of a model folder against its manifest, and run the model once")
    bench = command("bench", _bench, "milliseconds for passages of three lengths on this machine")
    bench.add_argument("--passages", type=int, default=100, help="passages in one call (default: %(default)s)")
    add_options(command("serve", _serve, "answer the clients of Cohere, Jina and text-embeddings-inference over HTTP"))
    return parser

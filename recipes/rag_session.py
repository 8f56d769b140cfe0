"""One question of `recipes.rag` after another: where they come from, and what is printed for each."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flashranker
from flashranker.inputs import encodable

from recipes.command import say
from recipes.rag_answer import Message, cited_numbers, make_messages
from recipes.rag_report import comparison, printable, prompt_text, record, sources
from recipes.rag_search import Candidate
from training.data import InputError

LEAST_ROWS = 10  # of the comparison
WIDTH = 140  # characters of a line where there is no terminal
Retrieve = Callable[[str], tuple[list[Candidate], dict[str, float]]]  # question -> reranked candidates, milliseconds
Respond = Callable[[Sequence[Message]], str]  # prompt -> answer


def read_questions() -> Iterator[str]:
    """The lines of standard input that are not blank; on a terminal with a prompt, until its end or an interrupt."""
    while True:
        if sys.stdin.isatty():
            print("question: ", end="", file=sys.stderr, flush=True)
        try:
            line = sys.stdin.buffer.readline()
        except KeyboardInterrupt:
            return
        if not line:
            return
        if question := line.decode("utf-8", "replace").strip():
            yield question


def ask(question: str, retrieve: Retrieve, top_n: int, respond: Respond | None, as_json: bool) -> str:
    """Print what there is for one question, from the best `top_n` passages; return what went wrong, or ""."""
    question, problem = encodable(question), ""
    result: dict[str, Any] = {"question": question}
    try:
        candidates, spent = retrieve(question)
        passages = [candidate.found.chunk for candidate in candidates[:top_n]]
        messages = make_messages(question, passages)
        result |= {"milliseconds": spent, "candidates": record(candidates), "prompt": messages}
        if not as_json:
            say(comparison(candidates, max(top_n, LEAST_ROWS), shutil.get_terminal_size((WIDTH, 24)).columns))
            say(f"\n{spent['search']:.0f} ms search, {spent['rerank']:.0f} ms to rerank {len(candidates)} passages\n")
        if respond is None:
            shown = f"{prompt_text(messages)}\n\nSources:\n{sources(candidates, range(1, len(passages) + 1))}"
        else:
            answer = respond(messages)
            cited, unknown = cited_numbers(answer, len(passages))
            result |= {"answer": answer, "cited": cited}
            shown = answer_text(candidates, answer, cited, unknown)
        if not as_json:
            say(f"{shown}\n")
    except (InputError, flashranker.FlashRankerError) as error:
        problem = printable(str(error))
        result["error"] = problem
    if as_json:
        say(json.dumps(result))
    return problem


def answer_text(candidates: Sequence[Candidate], answer: str, cited: Sequence[int], unknown: Sequence[int]) -> str:
    """The answer with the sources that it cites, and a word on citations of what it was not given."""
    parts = [printable(answer), f"Sources:\n{sources(candidates, cited)}" if cited else "It cites no passage."]
    if unknown:
        parts.append(f"It also cites what it was not given: {', '.join(f'[{number}]' for number in unknown)}.")
    return "\n\n".join(parts)

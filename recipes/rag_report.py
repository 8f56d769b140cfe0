"""What `recipes.rag` prints: the order before and after reranking side by side, the prompt, the answer, the sources."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from recipes.rag_answer import Message
from recipes.rag_documents import citation
from recipes.rag_search import Candidate

LEAST_CELL = 24  # characters of a passage's name and beginning
LEFT, RIGHT = f"{'':>3} {'BM25':>5} {'vector':>6} {'now':>4}  ", f"{'':>3} {'moved':>8} {'prob.':>6}  "


def comparison(candidates: Sequence[Candidate], rows: int, width: int) -> str:
    """The first `rows` places before and after reranking, in lines of about `width` characters.

    Before: rank of the fused order, ranks in BM25 and among the vectors, and the place that reranking gives. After:
    rank, how far it moved, and the probability of relevance.
    """
    before = sorted(candidates, key=lambda candidate: candidate.before)[:rows]
    after = sorted(candidates, key=lambda candidate: candidate.after)[:rows]
    cell = max(LEAST_CELL, (width - len(LEFT) - len(RIGHT) - 3) // 2)
    lines = [f"{'before: fused':<{len(LEFT) + cell}} | after: reranked", f"{LEFT}{'passage':<{cell}} | {RIGHT}passage"]
    for old, new in zip(before, after, strict=True):
        left = f"{old.before:>3} {old.found.bm25_rank or '-':>5} {old.found.vector_rank or '-':>6} {old.after:>4}  "
        right = f"{new.after:>3} {movement(new.moved):>8} {new.probability:>6.3f}  "
        lines.append(f"{left}{_cut(old, cell):<{cell}} | {right}{_cut(new, cell)}")
    return "\n".join(line.rstrip() for line in lines)


def movement(places: int) -> str:
    """ "up 3", "down 2" or "same"."""
    return "same" if not places else f"{'up' if places > 0 else 'down'} {abs(places)}"


def sources(candidates: Sequence[Candidate], numbers: Iterable[int]) -> str:
    """The passages of these numbers of the prompt, a line each."""
    return "\n".join(f"[{number}] {printable(citation(candidates[number - 1].found.chunk))}" for number in numbers)


def prompt_text(messages: Sequence[Message]) -> str:
    """The prompt as one text."""
    return printable("\n\n".join(message["content"] for message in messages))


def record(candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """The candidates, best first, as plain JSON values."""
    return [
        asdict(one.found.chunk) | {
            "citation": citation(one.found.chunk), "bm25_rank": one.found.bm25_rank,
            "vector_rank": one.found.vector_rank, "before": one.before, "after": one.after, "moved": one.moved,
            "probability": one.probability, "logit": one.logit, "truncated": one.truncated,
        }
        for one in candidates
    ]  # fmt: skip


def printable(text: str) -> str:
    """Text without what could command a terminal: control and format characters other than line feed and tab."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs"))


def _cut(candidate: Candidate, width: int) -> str:
    chunk = candidate.found.chunk
    text = printable(" ".join(f"{citation(chunk)}: {chunk.text}".split()))
    return text if len(text) <= width else f"{text[: width - 3]}..."

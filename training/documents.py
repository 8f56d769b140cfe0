"""Training data from documents alone: no query was ever typed for them, so their own words ask for their passages.

Two kinds of queries: a heading asks for the first passage below it, and a sentence, taken out of a passage, for what is
left of that passage (the inverse cloze task; Lee, Chang and Toutanova, ACL 2019). Both are synthetic: they say which
words of a domain go together, not what its people ask.
"""

import hashlib
import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data import InputError, RankingData, encodable
from training.first_stage import UNSPACED

SUFFIXES = (".md", ".markdown", ".rst", ".txt")
PASSAGE_WORDS = 120  # about 160 tokens: what a reranker of 192 reads of it beside a query
WORD_CHARACTERS = 10  # at least one word is counted for so many: tables and scripts without spaces have few words
LEAST_WORDS = 15  # of a passage; less is a caption or a line of navigation
SENTENCE_WORDS = range(5, 31)  # of a sentence that can stand as a query
QUERY_CHARACTERS = 250  # of any query: a few words can still be a line of code that a model can't read whole
LEAST_SENTENCES = 3  # of a passage that can spare one
LEAST_QUERIES = 30  # below that no split of them measures anything
# Markdown's, which reStructuredText has not: `#` is a comment in its code, and a row of tildes underlines its headings.
HEADING = re.compile(r" {0,3}#{1,6}\s+(.+?)(?:\s+#+)?\s*")
FENCE = re.compile(r"\s*(`{3,}(?=[^`]*$)|~{3,})(.*)")
UNDERLINE = re.compile(r"([=\-~^\"'*+#`.:_])\1{2,}")
RESTRUCTURED = ".rst"
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])")


@dataclass(frozen=True)
class Section:
    """What stands below one heading ("" before the first): paragraphs, each one line."""

    heading: str
    paragraphs: list[str]


def load_documents(folder: Path) -> RankingData:
    """Ranking data made from the Markdown, reStructuredText and plain text files of a folder: see `find_files`.

    Passages of at most about 120 words that keep to a section; queries as the module says; a heading or a sentence
    that comes more than once asks for nothing. The choice of sentences depends on the text alone. There are no splits.

    Raises InputError for a folder that is not there, a file that is not UTF-8, or fewer than 30 queries.
    """
    files = find_files(folder, SUFFIXES)
    sections = [(path.relative_to(folder).as_posix(), section) for path in files for section in read_sections(path)]
    headings = Counter(section.heading.casefold() for _, section in sections)
    asked: list[tuple[str, str, str]] = []  # kind, query, passage
    passages: dict[str, str] = {}
    seen: set[str] = set()
    for place, section in sections:
        asks = words_read(section.heading) > 1 and len(section.heading) <= QUERY_CHARACTERS
        asks = asks and headings[section.heading.casefold()] == 1
        for text in cut_passages(section.paragraphs):
            sentence, rest = spare_sentence(text)
            first, asks = asks, False
            if rest.casefold() in seen:
                continue
            seen.add(rest.casefold())
            passage = f"{encodable(place)}#{len(passages)}"  # a file's name need not be UTF-8
            passages[passage] = rest
            if first:
                asked.append(("heading", section.heading, passage))
            if sentence:
                asked.append(("sentence", sentence, passage))
    times = Counter(query.casefold() for _, query, _ in asked)
    queries: dict[str, str] = {}
    judgments: dict[str, dict[str, int]] = {}
    for kind, query, passage in asked:
        if times[query.casefold()] == 1:
            name = f"{kind} {len(queries)}"
            queries[name], judgments[name] = query, {passage: 1}
    if len(queries) < LEAST_QUERIES:
        raise InputError(
            f"documents {str(folder)!r}: {len(files)} files ({', '.join(SUFFIXES)}) give {len(passages)} passages and "
            f"{len(queries)} queries, expected {LEAST_QUERIES} or more; add documents"
        )
    empty: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    return RankingData(encodable(folder.resolve().name), queries, passages, judgments, {}, empty, "the documents' own")


def find_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files of a folder and its subfolders with one of these suffixes, sorted; nothing whose name starts with a dot.

    Raises InputError where there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"documents {str(folder)!r}: no such folder; give one with {', '.join(suffixes)} files")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def read_sections(path: Path) -> Iterator[Section]:
    """The sections of a file, in order. Headings are a line with a line of signs below it and, but in .rst, `# one`."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    markdown = path.suffix.lower() != RESTRUCTURED
    heading, paragraphs, current, fence, read = "", list[str](), list[str](), "", 0

    def end_paragraph() -> None:
        if current:
            paragraphs.append(" ".join(" ".join(current).split()))
            current.clear()

    for number, line in enumerate(lines):
        if number < read:
            continue  # what underlines a heading
        below = lines[number + 1].strip() if number + 1 < len(lines) else ""
        text = line.strip()
        found = HEADING.fullmatch(line) if markdown else None
        # Tables and rules have such lines too, but not below a single short line of text; a fence is none.
        underlined = (
            not current
            and 0 < len(text) <= len(below)
            and UNDERLINE.fullmatch(below)
            and not (markdown and FENCE.fullmatch(below))
        )
        mark = FENCE.fullmatch(line) if markdown else None
        if mark and not fence:
            fence = mark.group(1)
        elif mark and mark.group(1).startswith(fence) and not mark.group(2).strip():
            fence = ""
        elif fence or not (found or underlined):
            if not text:
                end_paragraph()
            elif not UNDERLINE.fullmatch(text):
                current.append(text)
        else:
            end_paragraph()
            yield Section(heading, paragraphs)
            heading, paragraphs = (found.group(1) if found else text), []
            read = number + (1 if found else 2)
    end_paragraph()
    yield Section(heading, paragraphs)


def cut_passages(paragraphs: list[str], least_words: int | None = None) -> Iterator[str]:
    """Paragraphs joined up to 120 words; longer ones are cut between sentences, longer sentences between words.

    Passages below `least_words`, by default 15, are left out.
    """
    least = LEAST_WORDS if least_words is None else least_words
    parts = [part for text in paragraphs for part in cut_paragraph(text)]
    current: list[str] = []
    for part in [*parts, None]:
        size = sum(map(count_words, current))
        if part is None or (current and size + count_words(part) > PASSAGE_WORDS):
            if size >= least:
                yield " ".join(current)
            current = []
        if part is not None:
            current.append(part)


def cut_paragraph(text: str) -> list[str]:
    """A paragraph as it is, or in sentences where it is too long for a passage, the longest of them in pieces."""
    if count_words(text) <= PASSAGE_WORDS:
        return [text]
    # As wide as so many words of the text are, and never wider than words of five characters.
    width = min(PASSAGE_WORDS * len(text) // count_words(text), PASSAGE_WORDS * WORD_CHARACTERS // 2)
    return [
        piece
        for sentence in sentences(text)
        for piece in (
            textwrap.wrap(sentence, width, break_on_hyphens=False)
            if count_words(sentence) > PASSAGE_WORDS
            else [sentence]
        )
    ]


def count_words(text: str) -> int:
    """Words as they are read, or one for every ten characters where that is more."""
    return max(words_read(text), len(text) // WORD_CHARACTERS)


def words_read(text: str) -> int:
    """Words between white space, and one for every two characters of scripts that put none between words."""
    unspaced = len(UNSPACED.findall(text))
    return len(UNSPACED.sub(" ", text).split()) + unspaced // 2


def spare_sentence(passage: str) -> tuple[str, str]:
    """A sentence of the passage and what is left of it; ("", passage) where there are fewer than 3, or none fits."""
    parts = sentences(passage)
    fitting = [
        i
        for i, sentence in enumerate(parts)
        if words_read(sentence) in SENTENCE_WORDS
        and len(sentence) <= QUERY_CHARACTERS
        and parts.count(sentence) == 1  # or it would stay in what is left
    ]
    if len(parts) < LEAST_SENTENCES or not fitting:
        return "", passage
    chosen = fitting[int.from_bytes(hashlib.sha256(passage.encode()).digest()[:8], "big") % len(fitting)]
    return parts[chosen], " ".join(parts[:chosen] + parts[chosen + 1 :])


def sentences(text: str) -> list[str]:
    """Cut behind a full stop, question or exclamation mark that white space follows, and behind those of Chinese."""
    return [part.strip() for part in SENTENCE_END.split(text) if part.strip()]

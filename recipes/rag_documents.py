"""What `recipes.rag` is asked about, file by file: a folder of text, Markdown and PDF files, or the built-in corpus."""

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flashranker.inputs import encodable
from pypdf import PdfReader

from training.backbone import user_path
from training.data import InputError, first_line
from training.documents import SUFFIXES, cut_passages, find_files, read_sections
from training.pydocs import PACKAGES, modules_of, read_docstrings

BUILTIN_CORPUS = "pydocs"
PDF = ".pdf"
LEAST_WORDS = 1  # of a passage: what is too short to train on may be the answer

logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # what it mends it says line by line; what it can't, it raises


@dataclass(frozen=True)
class Chunk:
    """One passage and where it stands: `heading` is "" where there is none, `page` counts from 1, or is 0."""

    id: str
    file: str
    heading: str
    page: int
    text: str


@dataclass(frozen=True)
class Source:
    """One file, and what reads its chunks; `read` raises InputError, or OSError, for a file that can't be used."""

    path: Path
    read: Callable[[], Iterator[Chunk]]


def list_sources(documents: str) -> dict[str, Source]:
    """Name -> file of a folder ("guide/a.md") or, for "pydocs", of every module of the built-in corpus.

    Nothing is read yet. Raises InputError for a folder that is not there or has no such files.
    """
    if documents == BUILTIN_CORPUS:
        return {
            module: Source(path, partial(read_module, path, module, package))
            for packages in PACKAGES.values()
            for package in packages
            for module, path in modules_of(package)
        }
    folder, suffixes = user_path(documents), (*SUFFIXES, PDF)
    files = find_files(folder, suffixes)
    if not files:
        raise InputError(f"documents {documents!r}: the folder has no {', '.join(suffixes)} files; name another one")
    names = {encodable(path.relative_to(folder).as_posix()): path for path in files}
    return {
        name: Source(path, partial(read_pdf if path.suffix.lower() == PDF else read_text, path, name))
        for name, path in names.items()
    }


def read_text(path: Path, name: str) -> Iterator[Chunk]:
    """Passages of at most about 120 words that keep to a section. Raises InputError for a file that is not UTF-8."""
    number = 0
    for section in read_sections(path):
        for text in cut_passages(section.paragraphs, LEAST_WORDS):
            yield Chunk(f"{name}#{number}", name, section.heading, 0, text)
            number += 1


def read_pdf(path: Path, name: str) -> Iterator[Chunk]:
    """Passages of at most about 120 words that keep to a page.

    Raises InputError for a file that is encrypted or broken, or whose pages hold pictures alone.
    """
    try:
        reader = PdfReader(path)
        # One whose password is empty opens like any other.
        if reader.is_encrypted and not reader.decrypt(""):
            raise InputError(f"{path}: encrypted; save it without its password")
        pages = [page.extract_text() for page in reader.pages]
    except (InputError, OSError):
        raise
    except Exception as error:  # a broken file makes pypdf fail in any way: KeyError, RecursionError, its own errors
        raise InputError(f"{path}: no readable PDF ({first_line(error)}); save it again") from None
    if not any(page.strip() for page in pages):
        raise InputError(f"{path}: no text in its {len(pages)} pages; scanned pages need OCR first")
    number = 0
    for page, content in enumerate(pages, start=1):
        paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", encodable(content)) if part.strip()]
        for text in cut_passages(paragraphs, LEAST_WORDS):
            yield Chunk(f"{name}#{number}", name, "", page, text)
            number += 1


def read_module(path: Path, module: str, package: str) -> Iterator[Chunk]:
    """The docstrings of a module: each name, which is the chunk's id, with its summary and the rest of the text."""
    names: set[str] = set()
    for entry in read_docstrings(path.read_bytes(), module, package):
        if entry.name not in names:
            names.add(entry.name)
            yield Chunk(entry.name, module, encodable(entry.query), 0, encodable(entry.passage))


def searched_text(chunk: Chunk) -> str:
    """What BM25, embedder and reranker read: the passage below its heading."""
    return f"{chunk.heading}\n{chunk.text}" if chunk.heading else chunk.text


def citation(chunk: Chunk) -> str:
    """Where a passage stands, for a person: "guide.md, Opening a file", "paper.pdf, page 3" or "json.dumps"."""
    if not chunk.id.startswith(f"{chunk.file}#"):
        return chunk.id
    place = f"page {chunk.page}" if chunk.page else chunk.heading
    return f"{chunk.file}, {place}" if place else chunk.file

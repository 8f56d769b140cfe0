"""The index of `recipes.rag` on disk: chunks and files in Parquet, their embeddings in FAISS, updated file by file.

INDEX/index.json         format, embedder, counts, the generation in use and the SHA-256 of its files
INDEX/generation-N/      chunks.parquet, files.parquet, vectors.faiss (row i is the embedding of chunk i)
INDEX/embeddings/        embeddings by text, so that building anew computes nothing twice

A generation is written whole and never changed; index.json, replaced in one rename, then names it. A process that is
killed at any point leaves the old index or the new one.
"""

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from flashranker.artifact import hash_file
from flashranker.inputs import encodable
from tqdm import tqdm

from export.artifact import write_json
from recipes.rag_documents import Chunk, Source, searched_text
from training.data import InputError
from training.row_cache import LOCK, alone_in
from training.teacher import encode_texts, open_bi_encoder

FORMAT = 3  # raise it when files would be cut into other chunks, or these be stored otherwise
EMBEDDED_TOKENS = 192  # of a chunk: as many as the reranker `small` reads
POINTER, EMBEDDINGS = "index.json", "embeddings"
CHUNKS, FILES, VECTORS = "chunks.parquet", "files.parquet", "vectors.faiss"
GENERATION = re.compile(r"generation-(\d+)")


@dataclass(frozen=True)
class Index:
    """Chunks with their embeddings (chunks, dimension), of norm 1, in the same order; and the files they come from.

    `files`: name -> (SHA-256, why it could not be read, or "").
    """

    chunks: list[Chunk]
    vectors: faiss.Index  # an IndexFlatIP
    files: dict[str, tuple[str, str]]


@dataclass(frozen=True)
class Update:
    """What an update did: numbers of chunks, file name -> why it was skipped, and why all was built anew, or ""."""

    added: int
    kept: int
    removed: int
    skipped: dict[str, str]
    anew: str


def update_index(folder: Path, sources: Mapping[str, Source], embedder: str) -> tuple[Index, Update]:
    """Bring the index in `folder` up to date with `sources` and return it, one process at a time.

    Files whose SHA-256 is the same are not read again; of others only the chunks are embedded. What can't be read is
    skipped. An index that is damaged, or of another embedder or format, is built anew.
    Raises InputError for a folder that holds something else, an embedder that is none, or sources that give no chunk;
    OSError when the disk is full or out of reach. The index stays as it was then.
    """
    check_folder(folder)
    fingerprint = open_bi_encoder(embedder, EMBEDDED_TOKENS).fingerprint
    with alone_in(folder):
        current, old, anew = read_index(folder, fingerprint)
        files: dict[str, tuple[str, str]] = {}
        chunks: list[Chunk] = []
        rows: list[int] = []  # of the old embeddings; -1 for a chunk that is new
        known: dict[str, list[int]] = {}
        for row, chunk in enumerate(old.chunks):
            known.setdefault(chunk.file, []).append(row)
        for name in tqdm(sorted(sources), desc="files", unit="file", mininterval=1.0):
            sha256, problem, found = read_changed(sources[name], old.files.get(name))
            files[name] = (sha256, problem)
            rows += known.get(name, []) if found is None else [-1] * len(found)
            chunks += [old.chunks[row] for row in known.get(name, [])] if found is None else found
        skipped = {name: problem for name, (_, problem) in files.items() if problem}
        if not chunks:
            first = f": {next(iter(skipped.values()))}" if skipped else ""
            raise InputError(f"{len(sources)} files give no passage{first}; name other documents")
        kept = sum(row >= 0 for row in rows)
        update = Update(len(chunks) - kept, kept, len(old.chunks) - kept, skipped, anew)
        if files == old.files:
            remove_generations(folder, current)
            return old, update
        new = Index(chunks, embed(folder, chunks, rows, old, embedder), files)
        remove_generations(folder, write_index(folder, new, fingerprint))
    return new, update


def check_folder(folder: Path) -> None:
    """Raise InputError where a folder has files and none of them is an index's."""
    if not os.path.lexists(folder):
        return
    ours = {POINTER, f".{POINTER}.tmp", LOCK, EMBEDDINGS}
    if not folder.is_dir() or any(
        path.name not in ours and not GENERATION.fullmatch(path.name) for path in folder.iterdir()
    ):
        raise InputError(f"--index {folder} exists and is no index, so nothing is written there: choose another folder")


def read_changed(source: Source, known: tuple[str, str] | None) -> tuple[str, str, list[Chunk] | None]:
    """A file's SHA-256, why it can't be read, or "", and its chunks; None for those of an unchanged file."""
    sha256 = ""
    try:
        sha256 = hash_file(source.path).sha256
        if known is not None and known[0] == sha256:
            return sha256, known[1], None
        return sha256, "", list(source.read())
    except InputError as error:
        return sha256, encodable(str(error)), []
    except OSError as error:
        return "", encodable(f"{source.path}: {error.strerror or error}"), []


def embed(folder: Path, chunks: list[Chunk], rows: list[int], old: Index, embedder: str) -> faiss.IndexFlatIP:
    """The embeddings of all chunks: those of `rows` as they are, the others computed."""
    texts = [searched_text(chunk) for chunk, row in zip(chunks, rows, strict=True) if row < 0]
    fresh = encode_texts(embedder, texts, folder / EMBEDDINGS, max_length=EMBEDDED_TOKENS)
    vectors = np.empty((len(chunks), fresh.shape[1] if texts else old.vectors.d), dtype=np.float32)
    places = np.array(rows)
    vectors[places < 0] = fresh if texts else 0.0
    if (places >= 0).any():
        vectors[places >= 0] = old.vectors.reconstruct_n(0, old.vectors.ntotal)[places[places >= 0]]
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


def write_index(folder: Path, index: Index, fingerprint: str) -> str:
    """Write a new generation, then the one file that names it; return its name."""
    numbers = [int(match[1]) for path in folder.iterdir() if (match := GENERATION.fullmatch(path.name))]
    generation = folder / f"generation-{max(numbers, default=0) + 1}"
    generation.mkdir()
    rows = [{"file": name, "sha256": sha256, "problem": problem} for name, (sha256, problem) in index.files.items()]
    contents = {
        CHUNKS: parquet([asdict(chunk) | {"sha256": index.files[chunk.file][0]} for chunk in index.chunks]),
        FILES: parquet(rows),
        VECTORS: faiss.serialize_index(index.vectors).tobytes(),
    }
    for name, content in contents.items():
        with (generation / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    write_json(folder / POINTER, {
        "format": FORMAT, "embedder": fingerprint, "generation": generation.name, "files": len(index.files),
        "chunks": len(index.chunks), "dimension": index.vectors.d,
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    })  # fmt: skip
    return generation.name


def read_index(folder: Path, fingerprint: str) -> tuple[str, Index, str]:
    """The name of the generation in use and its content; an empty index, and why, where there is none to go on with."""
    path, nothing = folder / POINTER, Index([], faiss.IndexFlatIP(1), {})
    if not path.exists():
        return "", nothing, ""
    try:
        pointer = json.loads(path.read_bytes())
        if pointer["format"] != FORMAT:
            return "", nothing, f"its format is {pointer['format']}, and not {FORMAT}"
        current = pointer["generation"]
        if not GENERATION.fullmatch(current):
            return "", nothing, f"{path} names no generation"
        if pointer["embedder"] != fingerprint:
            return current, nothing, "it was made with another embedder"
        contents = {name: (folder / current / name).read_bytes() for name in (CHUNKS, FILES, VECTORS)}
        for name, content in contents.items():
            if hashlib.sha256(content).hexdigest() != pointer["sha256"][name]:
                return current, nothing, f"{folder / current / name} is damaged"
        # The hashes are those that were written, so what follows reads what this module wrote.
        names = [field.name for field in fields(Chunk)]
        chunks = pq.read_table(pa.BufferReader(contents[CHUNKS]), columns=names).to_pylist()
        files = pq.read_table(pa.BufferReader(contents[FILES])).to_pylist()
        vectors = faiss.deserialize_index(np.frombuffer(contents[VECTORS], dtype=np.uint8))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        if isinstance(error, PermissionError):
            raise
        return "", nothing, f"{path} or a file that it names is damaged ({type(error).__name__})"
    index = Index([Chunk(**chunk) for chunk in chunks], vectors,
                  {row["file"]: (row["sha256"], row["problem"]) for row in files})  # fmt: skip
    return current, index, ""


def remove_generations(folder: Path, current: str) -> None:
    """Remove all generations but one; what can't be removed now is by the next update."""
    for path in folder.iterdir():
        if GENERATION.fullmatch(path.name) and path.name != current:
            shutil.rmtree(path, ignore_errors=True)


def parquet(rows: list[dict]) -> bytes:
    """Rows as the bytes of a Parquet file."""
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream)
    return stream.getvalue()

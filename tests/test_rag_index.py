"""The index of recipes.rag: what an update reads and embeds, and that no kill and no damage leaves a wrong index."""

import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest
from conftest import WORDS
from test_rag_documents import unreadable, write_pdf

from recipes import rag_index
from recipes.rag_documents import Chunk, citation, list_sources, searched_text
from recipes.rag_index import Index, read_index, update_index
from recipes.rag_search import search
from training.data import InputError
from training.first_stage import bm25_index
from training.row_cache import alone_in
from training.teacher import encode_texts, open_bi_encoder, query_encoder

QUESTIONS = ["river bridge", "violin in winter", "python socket server", "copper letter window"]


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """Eight files of two sections each, whose words differ from file to file."""
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(8):
        words = WORDS[4 * number : 4 * number + 4]
        text = f"# About {words[0]}\n\nThe {words[1]} is near.\n\n# And {words[2]}\n\nIt has a {words[3]} too.\n"
        (folder / f"{number}.md").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def update(bi_encoder: Path, docs: Path, tmp_path: Path) -> Callable[..., tuple[Index, rag_index.Update]]:
    """Bring the index of the documents up to date, in tmp_path/index or another folder."""

    def run(name: str = "index") -> tuple[Index, rag_index.Update]:
        return update_index(tmp_path / name, list_sources(str(docs)), str(bi_encoder))

    return run


def vectors(index: Index) -> np.ndarray:
    return index.vectors.reconstruct_n(0, index.vectors.ntotal)


def assert_same(one: Index, other: Index, embedder: Path) -> None:
    """The same chunks, embeddings and search results."""
    assert one.chunks == other.chunks
    assert {name: sha for name, (sha, _) in one.files.items()} == {name: sha for name, (sha, _) in other.files.items()}
    np.testing.assert_allclose(vectors(one), vectors(other), atol=1e-5)
    encode = query_encoder(str(embedder))
    for question in QUESTIONS:
        found = [search(index, bm25_index([searched_text(c) for c in index.chunks], "docs"), encode, question, 5)
                 for index in (one, other)]  # fmt: skip
        assert found[0] == found[1]
        assert len(found[0]) == 5


def test_chunks_carry_file_heading_and_all_their_text(docs: Path, bi_encoder: Path, update: Callable) -> None:
    index, done = update()
    assert (done.added, done.kept, done.removed, done.skipped, done.anew) == (16, 0, 0, {}, "")
    # Passages far shorter than those that training uses are there, in the order of the files.
    assert index.chunks[:2] == [
        Chunk("0.md#0", "0.md", f"About {WORDS[0]}", 0, f"The {WORDS[1]} is near."),
        Chunk("0.md#1", "0.md", f"And {WORDS[2]}", 0, f"It has a {WORDS[3]} too."),
    ]
    assert citation(index.chunks[1]) == f"0.md, And {WORDS[2]}"
    row = encode_texts(str(bi_encoder), [f"About {WORDS[0]}\nThe {WORDS[1]} is near."], docs.parent / "other")
    np.testing.assert_allclose(vectors(index)[:1], row, atol=1e-5)


def test_an_update_reads_and_embeds_the_changed_file_alone(
    docs: Path, bi_encoder: Path, update: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update()
    (docs / "3.md").write_text("# New\n\nA bread of winter.\n\n# More\n\nA coffee.\n\n# Last\n\nA paper.\n")
    (docs / "8.txt").write_text("An engine in the garden.\n")
    (docs / "5.md").unlink()
    changed = {name: source if name in ("3.md", "8.txt") else replace(source, read=unreadable)
               for name, source in list_sources(str(docs)).items()}  # fmt: skip
    encoded: list[str] = []

    def watched(embedder: str, texts: list[str], *rest: object, **settings: object) -> np.ndarray:
        encoded.extend(texts)
        return encode_texts(embedder, texts, *rest, **settings)

    monkeypatch.setattr(rag_index, "encode_texts", watched)
    index, done = update_index(tmp_path / "index", changed, str(bi_encoder))
    assert (done.added, done.kept, done.removed) == (4, 12, 4)
    assert encoded == ["New\nA bread of winter.", "More\nA coffee.", "Last\nA paper.", "An engine in the garden."]
    assert not any(chunk.file == "5.md" for chunk in index.chunks)
    assert_same(index, update("scratch")[0], bi_encoder)
    # What was written is what was returned, and one generation is left.
    again, nothing = update()
    assert (nothing.added, nothing.kept, nothing.removed) == (0, 16, 0)
    assert_same(again, index, bi_encoder)
    assert [path.name for path in (tmp_path / "index").glob("generation-*")] == ["generation-2"]


def test_removing_a_file_alone_needs_no_embedding(
    docs: Path, bi_encoder: Path, update: Callable, tmp_path: Path
) -> None:
    update()
    shutil.rmtree(tmp_path / "index" / "embeddings")
    (docs / "0.md").unlink()
    index, done = update()
    assert (done.added, done.kept, done.removed) == (0, 14, 2)
    assert not list((tmp_path / "index" / "embeddings").glob("*/*.parquet"))
    assert_same(index, update("scratch")[0], bi_encoder)


class Killed(BaseException):
    """Not caught by anything, as a kill is not."""


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_kill_leaves_the_old_index_or_the_new_one(
    call: str, docs: Path, bi_encoder: Path, update: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _ = update()
    fingerprint = open_bi_encoder(str(bi_encoder), rag_index.EMBEDDED_TOKENS).fingerprint
    (docs / "2.md").write_text("# Changed\n\nThe falcon and the violin.\n")
    (docs / "9.md").write_text("# Added\n\nA market by the river.\n")
    new, _ = update("scratch")
    shutil.copytree(tmp_path / "index", tmp_path / "before")
    real, kills = getattr(os, call), 0
    for point in range(20):
        shutil.rmtree(tmp_path / "index")
        shutil.copytree(tmp_path / "before", tmp_path / "index")
        calls = iter(range(20))

        def killed(*given: object, at: int = point, calls: object = calls, **named: object) -> object:
            if next(calls) == at:
                raise Killed
            return real(*given, **named)

        monkeypatch.setattr(os, call, killed)
        try:
            update()
            finished = True
        except Killed:
            finished = False
        monkeypatch.setattr(os, call, real)
        _, left, why = read_index(tmp_path / "index", fingerprint)
        assert why == ""
        assert_same(left, new if finished else old, bi_encoder)
        after, done = update()
        assert done.anew == ""
        assert_same(after, new, bi_encoder)
        assert len(list((tmp_path / "index").glob("generation-*"))) == 1
        if finished:
            break
        kills += 1
    assert kills == {"replace": 2, "fsync": 4}[call]  # the embeddings' shard, then the pointer, or the three files


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def other_format(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 0}))


def outside(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"generation": "../other"}))


@pytest.mark.parametrize(
    ("damage", "name", "why"),
    [
        (truncate, "generation-1/vectors.faiss", "vectors.faiss is damaged"),
        (flip, "generation-1/vectors.faiss", "vectors.faiss is damaged"),
        (flip, "generation-1/chunks.parquet", "chunks.parquet is damaged"),
        (Path.unlink, "generation-1/files.parquet", "a file that it names is damaged (FileNotFoundError)"),
        (truncate, "index.json", "index.json or a file that it names is damaged"),
        (other_format, "index.json", "its format is 0, and not 3"),
        (outside, "index.json", "names no generation"),
    ],
)
def test_a_damaged_index_is_built_anew_and_says_why(
    damage: Callable, name: str, why: str, bi_encoder: Path, update: Callable, tmp_path: Path
) -> None:
    whole, _ = update()
    damage(tmp_path / "index" / name)
    index, done = update()
    assert why in done.anew
    assert (done.added, done.kept, done.removed) == (16, 0, 0)
    assert_same(index, whole, bi_encoder)
    assert update()[1].anew == ""


def test_another_embedder_builds_the_index_anew(bi_encoder: Path, docs: Path, update: Callable, tmp_path: Path) -> None:
    update()
    other = shutil.copytree(bi_encoder, tmp_path / "other")
    settings = json.loads((other / "1_Pooling" / "config.json").read_text())
    assert settings["pooling_mode"] == "mean"
    settings["pooling_mode"] = "cls"
    (other / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    index, done = update_index(tmp_path / "index", list_sources(str(docs)), str(other))
    assert (done.anew, done.added, done.kept) == ("it was made with another embedder", 16, 0)
    texts = [searched_text(chunk) for chunk in index.chunks]
    np.testing.assert_allclose(vectors(index), encode_texts(str(other), texts, tmp_path / "cache"), atol=1e-5)
    assert np.abs(vectors(index) - vectors(update("scratch")[0])).max() > 0.01


def test_two_processes_take_turns(update: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    worker = threading.Thread(target=update)
    with alone_in(tmp_path / "index"):
        worker.start()
        worker.join(0.5)
        assert worker.is_alive()
        assert not (tmp_path / "index" / "index.json").exists()
    worker.join(20)
    assert (tmp_path / "index" / "index.json").exists()
    assert f"waiting for another process that fills {tmp_path / 'index'}" in capsys.readouterr().err


def test_nothing_readable_and_foreign_folders_are_refused(tmp_path: Path, bi_encoder: Path, update: Callable) -> None:
    docs = tmp_path / "pictures"
    docs.mkdir()
    with pytest.raises(InputError, match=r"has no \.md, \.markdown, \.rst, \.txt, \.pdf files"):
        list_sources(str(docs))
    write_pdf(docs / "a.pdf", [""])
    with pytest.raises(InputError, match=r"1 files give no passage: .*a\.pdf: no text in its 1 pages"):
        update_index(tmp_path / "index", list_sources(str(docs)), str(bi_encoder))
    assert update()[1].added == 16  # the attempt left nothing in the way
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.doc").write_text("Dear")
    with pytest.raises(InputError, match="mine exists and is no index"):
        update("mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.doc"]


def test_a_flat_index_reads_back_as_it_was(update: Callable, tmp_path: Path) -> None:
    index, _ = update()
    stored = faiss.read_index(str(tmp_path / "index" / "generation-1" / "vectors.faiss"))
    assert stored.metric_type == faiss.METRIC_INNER_PRODUCT
    np.testing.assert_array_equal(stored.reconstruct_n(0, stored.ntotal), vectors(index))

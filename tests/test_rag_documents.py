"""What recipes.rag reads: pages of PDFs, docstrings, and what it skips and names."""

from dataclasses import replace
from pathlib import Path

import pytest
from pypdf import PdfWriter

from recipes.rag_documents import Chunk, citation, list_sources, searched_text
from recipes.rag_index import update_index


def unreadable() -> None:
    raise AssertionError("an unchanged file was read")


def write_pdf(path: Path, pages: list[str]) -> Path:
    """A PDF written by hand: a page for each text, whose lines are shown one below the other."""
    count = len(pages)
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(count))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, text in enumerate(pages):
        shown = " T* ".join(f"({line}) Tj" for line in text.splitlines() if line)
        stream = f"BT /F1 12 Tf 14 TL 50 700 Td {shown} ET" if shown else "0 0 10 10 re f"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents {5 + 2 * i} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    content, places = "%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(content))
        content += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(objects) + 1
    content += f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\n"
    path.write_bytes(f"{content}startxref\n{content.index('xref')}\n%%EOF\n".encode("latin-1"))
    return path


@pytest.fixture
def note(tmp_path: Path) -> Path:
    """A folder with one short file."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# River\n\nA bridge.\n", encoding="utf-8")
    return tmp_path / "docs"


def test_pages_of_a_pdf_are_passages_and_pages_without_text_are_not(tmp_path: Path, bi_encoder: Path) -> None:
    docs = tmp_path / "pdfs"
    docs.mkdir()
    write_pdf(docs / "a.pdf", ["The violin sings\nin winter.", "", "A falcon over\nthe market."])
    index, _ = update_index(tmp_path / "index", list_sources(str(docs)), str(bi_encoder))
    assert index.chunks == [
        Chunk("a.pdf#0", "a.pdf", "", 1, "The violin sings in winter."),
        Chunk("a.pdf#1", "a.pdf", "", 3, "A falcon over the market."),
    ]
    assert [citation(chunk) for chunk in index.chunks] == ["a.pdf, page 1", "a.pdf, page 3"]


def test_what_cannot_be_read_is_skipped_named_and_remembered(note: Path, bi_encoder: Path, tmp_path: Path) -> None:
    write_pdf(note / "pictures.pdf", ["", ""])
    (note / "broken.pdf").write_bytes(b"%PDF-1.4\nnothing more")
    writer = PdfWriter(clone_from=write_pdf(tmp_path / "plain.pdf", ["A secret garden."]))
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(note / "locked.pdf")
    writer = PdfWriter(clone_from=tmp_path / "plain.pdf")
    writer.encrypt("", owner_password="owner", algorithm="RC4-128")
    writer.write(note / "open.pdf")
    (note / "latin.txt").write_bytes("Bäcker".encode("latin-1"))
    index, done = update_index(tmp_path / "index", list_sources(str(note)), str(bi_encoder))
    reasons = {"pictures.pdf": "no text in its 2 pages", "broken.pdf": "no readable PDF", "locked.pdf": "encrypted",
               "latin.txt": "byte 1 is not UTF-8"}  # fmt: skip
    assert done.skipped.keys() == reasons.keys()
    assert all(reason in done.skipped[name] and name in done.skipped[name] for name, reason in reasons.items())
    assert done.added == 2
    assert index.chunks[-1] == Chunk("open.pdf#0", "open.pdf", "", 1, "A secret garden.")
    # Known by their hashes they are not opened again, and are named again all the same.
    unread = {name: replace(source, read=unreadable) for name, source in list_sources(str(note)).items()}
    assert update_index(tmp_path / "index", unread, str(bi_encoder))[1] == replace(done, added=0, kept=2)


def test_a_mended_file_comes_in(note: Path, bi_encoder: Path, tmp_path: Path) -> None:
    (note / "latin.txt").write_bytes("Bäcker".encode("latin-1"))
    assert "latin.txt" in update_index(tmp_path / "index", list_sources(str(note)), str(bi_encoder))[1].skipped
    (note / "latin.txt").write_text("Bäcker", encoding="utf-8")
    index, done = update_index(tmp_path / "index", list_sources(str(note)), str(bi_encoder))
    assert (done.added, done.kept, done.skipped) == (1, 1, {})
    assert index.chunks[-1].text == "Bäcker"


def test_docstrings_are_cited_by_name() -> None:
    source = list_sources("pydocs")["json"]
    chunks = {chunk.id: chunk for chunk in source.read()}
    dumps = chunks["json.dumps"]
    assert (dumps.file, dumps.page, citation(dumps)) == ("json", 0, "json.dumps")
    assert dumps.heading.startswith("Serialize ``obj`` to a JSON formatted")
    assert searched_text(dumps) == f"{dumps.heading}\n{dumps.text}"

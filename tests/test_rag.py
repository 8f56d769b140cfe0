"""recipes.rag: fusion and moves by hand, and the whole command on a small folder."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import WORDS, negated_artifact
from flashranker import Reranker
from test_rag_documents import write_pdf

from recipes.rag import default_index, main
from recipes.rag_documents import Chunk
from recipes.rag_report import comparison
from recipes.rag_search import Candidate, Found

KEY = "sk-planted-4711"


def candidate(name: str, before: int, after: int, bm25: int | None = None, vector: int | None = None) -> Candidate:
    return Candidate(Found(Chunk(f"{name}#0", name, "", 0, "some text"), bm25, vector), before, after, 0.5, 0.0, False)


def test_moves_are_shown_side_by_side() -> None:
    candidates = [candidate("c.md", 3, 1, 7, None), candidate("a.md", 1, 2, 1, 2), candidate("d.md", 4, 3),
                  candidate("b.md", 2, 4, None, 1)]  # fmt: skip
    lines = [re.sub(" +", " ", line).strip() for line in comparison(candidates, 4, 120).splitlines()[2:]]
    assert lines == [
        "1 1 2 2 a.md: some text | 1 up 2 0.500 c.md: some text",
        "2 - 1 4 b.md: some text | 2 down 1 0.500 a.md: some text",
        "3 7 - 1 c.md: some text | 3 up 1 0.500 d.md: some text",
        "4 - - 3 d.md: some text | 4 down 2 0.500 b.md: some text",
    ]
    assert "same" in comparison([candidate("a.md", 1, 1)], 4, 120)
    short = comparison(candidates, 2, 120).splitlines()[2:]
    assert len(short) == 2
    assert "d.md" not in "".join(short)


def write_docs(folder: Path) -> Path:
    """Ten files; "violin" is in one only, "zebra" on a PDF's second page only."""
    folder.mkdir()
    words = [word for word in WORDS if word != "violin"]
    for number in range(9):
        text = " ".join(words[3 * number : 3 * number + 3])
        (folder / f"{number}.md").write_text(f"# Part {number}\n\nHere: {text}.\n", encoding="utf-8")
    (folder / "music.md").write_text("# Music\n\nThe violin sings.\n", encoding="utf-8")
    write_pdf(folder / "animals.pdf", ["A falcon flies.", "A zebra runs."])
    return folder


def command_line(folder: Path, model: Path, embedder: Path) -> list[str]:
    """The options with which `write_docs` in `folder` are asked."""
    given = {"documents": folder / "docs", "index": folder / "index", "model": model, "embedder": embedder,
             "depth": 8, "top_n": 3, "threads": 1}  # fmt: skip
    return [part for name, value in given.items() for part in (f"--{name}", str(value))]


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    return write_docs(tmp_path / "docs")


@pytest.fixture
def options(docs: Path, tiny_artifact: Path, bi_encoder: Path) -> list[str]:
    return command_line(docs.parent, tiny_artifact, bi_encoder)


def ask_json(arguments: list[str], capsys: pytest.CaptureFixture, status: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == status
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


def test_the_planted_answer_is_found_and_reranked(
    options: list[str], tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    result = ask_json(["violin", *options], capsys)
    candidates = result["candidates"]
    planted = next(one for one in candidates if one["bm25_rank"] == 1)
    assert (planted["citation"], planted["text"]) == ("music.md, Music", "The violin sings.")
    assert [one["bm25_rank"] for one in candidates].count(None) == 7  # no other file has the word
    # The order is the reranker's own, on heading and text; what moved is what fusion says against it.
    fused = sorted(candidates, key=lambda one: one["before"])
    texts = ["\n".join(filter(None, (one["heading"], one["text"]))) for one in fused]
    hits = Reranker(tiny_artifact, threads=1).rerank("violin", texts)
    assert [one["before"] for one in candidates] == [hit.index + 1 for hit in hits]
    assert [one["probability"] for one in candidates] == [hit.score for hit in hits]
    assert [one["moved"] for one in candidates] == [hit.index - rank for rank, hit in enumerate(hits)]
    prompt = result["prompt"][1]["content"]
    assert [one["text"] in prompt for one in candidates] == [True] * 3 + [False] * 5
    assert prompt.endswith("\n\nQuestion: violin")
    # A model that says the opposite turns the order round, and leaves what came before it.
    other = negated_artifact(tiny_artifact, tmp_path / "other")
    turned = ask_json(["violin", *options, "--model", str(other)], capsys)["candidates"]
    assert [one["before"] for one in turned] == [one["before"] for one in reversed(candidates)]
    # The control: another question finds another file.
    zebra = ask_json(["where is the zebra", *options], capsys)["candidates"]
    assert next(one for one in zebra if one["bm25_rank"] == 1)["citation"] == "animals.pdf, page 2"


def test_what_a_person_sees(options: list[str], docs: Path, capsys: pytest.CaptureFixture) -> None:
    (docs / "copy.md").write_bytes((docs / "music.md").read_bytes())
    assert main(["violin", *options, "--depth", "13", "--top-n", "13"]) == 0
    shown = capsys.readouterr()
    assert re.search(r"^before: fused +\| after: reranked$", shown.out, re.MULTILINE)
    assert re.search(r"\d+ ms search, \d+ ms to rerank 12 passages", shown.out)  # of thirteen, one is a copy
    assert re.search(r'<passage number="\d+" source="copy.md, Music">\nThe violin sings.\n</passage>', shown.out)
    assert re.search(r"^\[\d+\] animals.pdf, page 2$", shown.out.partition("Sources:")[2], re.MULTILINE)
    assert "music.md" not in shown.out
    assert "passages: 13 added, 0 kept, 0 removed" in shown.err
    assert "added" not in shown.out


def test_questions_from_standard_input_go_on_behind_a_bad_one(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    asked = b"violin\n\n" + b"word " * 100 + b"\nzebra\xff runs"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(asked)))
    assert main([*options, "--json"]) == 2
    shown = capsys.readouterr()
    results = [json.loads(line) for line in shown.out.splitlines()]
    assert [one["question"] for one in results][::2] == ["violin", "zebra\ufffd runs"]  # a blank line is none
    assert ["error" in one for one in results] == [False, True, False]
    errors = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert errors[1] == "error: 1 of 3 questions had no result, as said above"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"violin\nzebra\n")))
    assert main(options) == 0


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (["--model", "no/model"], "--model no/model: no such artifact; make one by `make distill`"),
        (["--documents", "no/docs"], "no/docs': no such folder"),
        (["--embedder", "TINY"], "has no embeddings: pass a bi-encoder or `builtin`"),
        (["--top_n", "9"], "--top_n is 9, --depth 8"),
        (["--depth", "0"], "--depth is 0: expected 1 or more"),
        (["--timeout", "nan"], "--timeout is nan"),
        (["--endpoint", "http://host/v1"], "expected --endpoint and --endpoint_model, or neither"),
        (["--endpoint", f"http://me:{KEY}@host/v1", "--endpoint_model", "m"], "--endpoint is no base URL"),
        (["--endpoint", "host:8080/v1", "--endpoint_model", "m"], "--endpoint is no base URL"),
        (["--endpoint", "http://host/v1", "--endpoint_model", "m", "BAD KEY"], "has characters that no HTTP header"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    changed: list[str], named: str, options: list[str], tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    if "BAD KEY" in changed:
        monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n{KEY}")
        changed = changed[:-1]
    changed = [str(tiny_checkpoint) if part == "TINY" else part for part in changed]
    assert main(["violin", *options, *changed]) == 2
    shown = capsys.readouterr()
    errors = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert named in errors[0]
    assert KEY not in shown.out + shown.err


@pytest.mark.parametrize("question", ["", "word " * 100])
def test_a_question_that_cannot_be_asked_is_refused_before_any_indexing(
    question: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main([question, *options]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: the query")
    assert not (tmp_path / "index").exists()


def test_each_folder_has_an_index_of_its_own(tmp_path: Path) -> None:
    assert default_index("pydocs") == Path("cache/rag/pydocs")
    one, other = default_index(str(tmp_path / "a" / "docs")), default_index(str(tmp_path / "b" / "docs"))
    assert one != other
    assert one.name.startswith("docs-")
    assert default_index(str(tmp_path / "b" / ".." / "a" / "docs")) == one


def test_the_command_in_a_process_of_its_own_keeps_its_streams_apart(options: list[str]) -> None:
    command = [sys.executable, "-m", "recipes.rag", *options, "--json", "violin"]
    environment = os.environ | {"OPENAI_API_KEY": KEY}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=True,
                          cwd=Path(__file__).parent.parent)  # fmt: skip
    assert json.loads(done.stdout)["question"] == "violin"
    assert "3/4 index" in done.stderr
    assert KEY not in done.stdout + done.stderr


def test_an_index_that_cannot_be_written_names_the_option(
    options: list[str], docs: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["violin", *options, "--index", str(tmp_path / "file" / "index")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith("free space or pass another --index")

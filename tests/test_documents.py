"""Training data from documents: sections, passages and queries by hand, and nothing of a query left in its passage."""

import os
import sys
from pathlib import Path

import pytest
from conftest import WORDS
from hypothesis import given
from hypothesis import strategies as st

from training import documents
from training.data import InputError, check_leaks, find_leaks, fingerprint, split_queries
from training.documents import (
    Section,
    cut_passages,
    find_files,
    load_documents,
    read_sections,
    spare_sentence,
    words_read,
)

MARKDOWN = """Before any heading.

# Opening a file

Call open with a path.
It returns a file.

```sh
# a comment, no heading
cat file
```

## Closing it ##

- close
"""
UNDERLINED = """Title
=====

One paragraph.

A table
-----
and
-------

Second title
------------
Text below it.
"""


def write_documents(folder: Path, count: int) -> Path:
    """Documents of one section each; the rare words of a passage's three sentences carry its number."""
    sentence = "The {} {} keeps its {} near the {} all day."
    folder.mkdir()
    for number in range(count):
        words = [f"{word}{number}" for word in WORDS]
        text = " ".join(sentence.format(*words[start : start + 4]) for start in (0, 4, 8))
        (folder / f"{number}.md").write_text(f"# How to find {words[0]}\n\n{text}\n", encoding="utf-8")
    return folder


def test_sections_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text(MARKDOWN, encoding="utf-8")
    assert list(read_sections(path)) == [
        Section("", ["Before any heading."]),
        Section(
            "Opening a file",
            ["Call open with a path. It returns a file.", "# a comment, no heading cat file"],
        ),
        Section("Closing it", ["- close"]),
    ]
    path.write_text(UNDERLINED, encoding="utf-8")
    assert [section.heading for section in read_sections(path)] == ["", "Title", "Second title"]


def test_code_and_underlines_are_no_headings_and_no_fences(tmp_path: Path) -> None:
    restructured = "First\n=====\n\nOne text.\n\nPart\n~~~~\n\nSecond text.\n\nOther part\n~~~~~~~~~~\n\n"
    restructured += "Third::\n\n  # a comment\n"
    (tmp_path / "a.rst").write_text(restructured)
    assert [(one.heading, one.paragraphs) for one in read_sections(tmp_path / "a.rst")] == [
        ("", []), ("First", ["One text."]), ("Part", ["Second text."]), ("Other part", ["Third::", "# a comment"]),
    ]  # fmt: skip
    markdown = (
        "# Learn C#\n\n```pip install y``` does it.\n\n## Next ##\n\n    # indented code\n\nOr\n```\nnpm i\n```\n\n"
        "1. In a list:\n\n   ````sh\n   # a comment\n   ```\n   # another\n   ~~~\n   ````\n\n## Last\n\nText.\n"
    )
    (tmp_path / "b.md").write_text(markdown)
    assert [(one.heading, one.paragraphs) for one in read_sections(tmp_path / "b.md")] == [
        ("", []),
        ("Learn C#", ["```pip install y``` does it."]),
        ("Next", ["# indented code", "Or npm i", "1. In a list:", "# a comment # another"]),
        ("Last", ["Text."]),
    ]


def test_passages_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "PASSAGE_WORDS", 6)
    monkeypatch.setattr(documents, "LEAST_WORDS", 2)
    # Joined while six words hold them, a long paragraph cut between its sentences, the one word at the end left out.
    given = ["a b c", "d e f", "g h. i j k. l m n o p q.", "r"]
    assert list(cut_passages(given)) == ["a b c d e f", "g h. i j k.", "l m n o p q."]
    assert list(cut_passages(given, 1)) == ["a b c d e f", "g h. i j k.", "l m n o p q.", "r"]


def test_a_text_without_sentences_or_spaces_is_cut_too() -> None:
    table = " ".join(f"cell{number}" for number in range(1000))
    passages = list(cut_passages([table]))
    assert " ".join(passages) == table
    assert max(len(passage.split()) for passage in passages) <= documents.PASSAGE_WORDS
    # Ten characters count as a word, and two of Chinese: two pieces of 600 make a passage, or 40 sentences of 3 words.
    assert [len(passage) for passage in cut_passages(["x" * 5000])] == [1201] * 4 + [200]
    assert [len(passage) for passage in cut_passages(["\u5317\u4eac\u662f\u9996\u90fd\u3002" * 1000])] == [279] * 25
    assert [len(passage) for passage in cut_passages(["\u5317" * 1000])] == [240] * 4 + [40]


def test_hidden_files_and_folders_are_no_documents(tmp_path: Path) -> None:
    for name in ("a.md", ".hidden.md", ".trash/b.md", "sub/c.TXT", "sub/.d/e.md", "picture.png"):
        (tmp_path / "docs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "docs" / name).write_text("text")
    found = find_files(tmp_path / "docs", documents.SUFFIXES)
    assert [path.relative_to(tmp_path / "docs").as_posix() for path in found] == ["a.md", "sub/c.TXT"]
    # A folder that lies in a hidden one is not hidden itself.
    assert [path.name for path in find_files(tmp_path / "docs" / ".trash", documents.SUFFIXES)] == ["b.md"]


@given(st.lists(st.lists(st.sampled_from(["a", "b.", "c?", "d"]), min_size=1, max_size=200).map(" ".join), max_size=6))
def test_passages_lose_no_word_but_of_short_ends(paragraphs: list[str]) -> None:
    words = " ".join(paragraphs).split()
    found = [passage.split() for passage in cut_passages(paragraphs)]
    lost = len(words) - sum(map(len, found))
    assert all(len(passage) >= documents.LEAST_WORDS for passage in found)
    assert lost < documents.LEAST_WORDS * (1 + len(words) // (documents.PASSAGE_WORDS - documents.LEAST_WORDS))
    text = iter(words)
    assert all(word in text for passage in found for word in passage)  # in order


def test_a_sentence_asks_for_what_is_left_of_its_passage() -> None:
    one, two, three = "Read the whole file.", "It comes back as one long string.", "Too short."
    query, rest = spare_sentence(f"{one} {two} {three}")
    # Of three sentences only one has five words or more.
    assert (query, rest) == (two, f"{one} {three}")
    assert spare_sentence(f"{one} {two}") == ("", f"{one} {two}")
    code = " ".join(["x" * 60] * 6) + "."  # six words, and more tokens than a model has room for
    assert spare_sentence(f"{one} {code} {three}") == ("", f"{one} {code} {three}")
    assert spare_sentence(f"{code} {two} {three}")[0] == two
    assert spare_sentence(f"{one} {two} {two}") == ("", f"{one} {two} {two}")


def test_queries_and_judgments_by_hand(tmp_path: Path) -> None:
    data = load_documents(write_documents(tmp_path / "docs", 20))
    assert len(data.passages) == 20
    assert len(data.queries) == 40
    for query, text in data.queries.items():
        ((passage, grade),) = data.judgments[query].items()
        number = passage.partition(".md")[0]
        assert grade == 1
        # Neither the heading nor the sentence is left in the passage.
        assert text not in data.passages[passage]
        assert all(word.endswith(number) for word in text.split() if word[-1].isdigit())
    assert f"How to find {WORDS[0]}7" in data.queries.values()


def test_a_heading_of_several_documents_asks_for_nothing_and_a_copy_is_dropped(tmp_path: Path) -> None:
    folder = write_documents(tmp_path / "docs", 20)
    (folder / "copy.md").write_text((folder / "7.md").read_text(encoding="utf-8"), encoding="utf-8")
    data = load_documents(folder)
    assert len(data.passages) == 20
    assert len(data.queries) == 39  # the heading of number 7 now stands twice


def test_a_sentence_of_several_documents_asks_for_nothing(tmp_path: Path) -> None:
    folder = write_documents(tmp_path / "docs", 20)
    for number in range(20, 40):
        # Only the last sentence has five words or more.
        text = (
            f"Read number {number}. Or do not. See the full documentation for more details{'!' if number % 2 else '.'}"
        )
        (folder / f"{number}.md").write_text(
            f"# Title {number} of the page\n\n{text} More of it. And again. End now.\n"
        )
    data = load_documents(folder)
    assert len(data.passages) == 40
    assert len(data.queries) == 60  # each passage's heading, and the sentences of the first 20
    assert not any("documentation" in query for query in data.queries.values())


def test_the_heading_of_a_copied_passage_does_not_ask_for_the_next(tmp_path: Path) -> None:
    folder = write_documents(tmp_path / "docs", 20)
    copied = (folder / "7.md").read_text(encoding="utf-8").partition("\n\n")[2]
    own = " ".join(f"own{number}" for number in range(119))
    (folder / "copy.md").write_text(f"# Another title of it\n\n{copied}\n{own}\n", encoding="utf-8")
    data = load_documents(folder)
    assert len(data.passages) == 21
    assert "Another title of it" not in data.queries.values()


def test_both_queries_of_a_passage_stay_on_one_side(tmp_path: Path) -> None:
    data = load_documents(write_documents(tmp_path / "docs", 40))
    data.splits.update(split_queries(data))
    assert find_leaks(data) == []
    check_leaks(data)
    assert [len(ids) for ids in data.splits.values()] == [64, 8, 8]


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent.*no such folder"):
        load_documents(tmp_path / "absent")
    few = write_documents(tmp_path / "few", 3)
    with pytest.raises(InputError, match=r"3 files .* give 3 passages and 6 queries, expected 30 or more"):
        load_documents(few)
    (few / "bad.txt").write_bytes(b"ok\xff")
    with pytest.raises(InputError, match=r"bad\.txt: byte 2 is not UTF-8"):
        load_documents(few)


@pytest.mark.parametrize(
    ("sentence", "heading"),
    [
        ("这条河流经城市{}的中心并且灌溉了许多花园。", "城市{}的河流"),
        ("แม่น้ำสายนี้ไหลผ่านเมือง{}และหล่อเลี้ยงสวนจำนวนมาก. ", "แม่น้ำของเมือง{}"),
    ],
)
def test_scripts_without_spaces_have_queries_too(sentence: str, heading: str, tmp_path: Path) -> None:
    for number in range(20):
        text = "".join(sentence.format(100 * number + i) for i in range(8))
        (tmp_path / f"{number}.md").write_text(f"# {heading.format(number)}\n\n{text}\n")
    data = load_documents(tmp_path)
    assert len([query for query in data.queries if query.startswith("heading")]) == 20
    assert len([query for query in data.queries if query.startswith("sentence")]) >= 20
    assert 30 <= min(map(len, data.passages.values())) <= max(map(len, data.passages.values())) <= 300  # characters


def test_clauses_without_a_full_stop_fill_a_passage_as_sentences_do() -> None:
    clauses = "".join(f"这条河流经城市{number}的中心、" for number in range(100))
    passages = list(cut_passages([clauses]))
    assert "".join(passages) == clauses
    assert all(100 <= documents.count_words(passage) <= 130 for passage in passages[:-1])  # near PASSAGE_WORDS


def test_words_are_counted_in_every_script() -> None:
    counts = [words_read(text) for text in ("a river flows", "河流经城市", "GPU で動く reranker", "", "แม่น้ำสายนี้")]
    assert counts == [3, 2, 3, 0, 6]


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are UTF-8 elsewhere")
def test_a_name_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    for number in range(40):
        name = os.fsencode(tmp_path) + b"/caf\xe9%d.md" % number
        with open(name, "w") as file:
            file.write(f"# The river of town {number}\n\n" + f"It flows through town {number} to the sea. " * 6)
    data = load_documents(tmp_path)
    fingerprint(data)
    assert next(iter(data.passages)).startswith("caf\ufffd")

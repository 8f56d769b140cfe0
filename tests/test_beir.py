"""Folders of ranking data: read whole, with every bad line refused by file, line and remedy."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from training.data import InputError, RankingData, fingerprint, relevant_passages, require_splits
from training.load import load

SHARED = Path(__file__).parents[2] / "shared" / "data"
HEADER = "query-id\tcorpus-id\tscore\n"


def write_lines(path: Path, records: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three queries with one passage each, in three splits, and a passage that nobody asked for."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    write_lines(
        folder / "corpus.jsonl",
        [
            {"_id": "p1", "title": "Rivers", "text": "Water runs downhill."},
            {"_id": "p2", "title": "", "text": "Bread is baked."},
            {"id": "p3", "text": "Der Fluß trägt 水."},
            {"_id": 4, "title": "Only a title", "text": ""},
        ],
    )
    queries = [("q1", "where does water run"), ("q2", "how is bread made"), ("q3", "wohin fließt 水")]
    write_lines(folder / "queries.jsonl", [{"_id": key, "text": text} for key, text in queries])
    (folder / "qrels.train.tsv").write_text(f"{HEADER}q1\tp1\t2\nq1\tp2\t0\n", encoding="utf-8")
    (folder / "qrels.dev.tsv").write_text(f"{HEADER}q2\tp2\t1\n", encoding="utf-8")
    (folder / "qrels.test.tsv").write_text(f"{HEADER}q3\tp3\t1\n", encoding="utf-8")
    (folder / "candidates.tsv").write_text(f"{HEADER}q1\tp3\t0\nq1\t4\t0\nq1\tp1\t2\n", encoding="utf-8")
    (folder / "LICENSE").write_text("\nCC-BY-4.0\nmore\n", encoding="utf-8")
    return folder


def test_a_folder_is_read_whole(folder: Path) -> None:
    assert load(str(folder)) == RankingData(
        name="tiny",
        queries={"q1": "where does water run", "q2": "how is bread made", "q3": "wohin fließt 水"},
        passages={
            "p1": "Rivers Water runs downhill.",
            "p2": "Bread is baked.",
            "p3": "Der Fluß trägt 水.",
            "4": "Only a title",
        },
        judgments={"q1": {"p1": 2, "p2": 0}, "q2": {"p2": 1}, "q3": {"p3": 1}},
        candidates={"q1": ["p3", "4", "p1"]},
        splits={"train": ["q1"], "dev": ["q2"], "test": ["q3"]},
        licence="CC-BY-4.0",
    )


def test_the_layouts_of_splits_are_read_alike(folder: Path) -> None:
    expected = load(folder)
    (folder / "qrels").mkdir()
    for split in ("train", "dev", "test"):
        (folder / f"qrels.{split}.tsv").rename(folder / "qrels" / f"{split}.tsv")
    assert fingerprint(load(folder)) == fingerprint(expected)

    tables = [(folder / "qrels" / f"{split}.tsv").read_text(encoding="utf-8") for split in ("train", "dev", "test")]
    for split in ("train", "dev", "test"):
        (folder / "qrels" / f"{split}.tsv").unlink()
    body = "".join(table.removeprefix(HEADER) for table in tables)
    (folder / "qrels.tsv").write_text(HEADER + body, encoding="utf-8")
    splits = {"q1": "train", "q2": "dev", "q3": "test"}
    write_lines(
        folder / "queries.jsonl",
        [{"id": key, "text": text, "split": splits[key]} for key, text in expected.queries.items()],
    )
    assert fingerprint(load(folder)) == fingerprint(expected)


def replace_line(name: str, number: int, line: str) -> Callable[[Path], None]:
    """A change of one line; a number one past the end appends."""

    def change(folder: Path) -> None:
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
        lines[number - 1 : number] = [line]
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace_line("corpus.jsonl", 2, '{"_id": "p2"'), r"corpus.jsonl:2: invalid JSON .*fix the line"),
        (replace_line("corpus.jsonl", 2, '["p2"]'), r"corpus.jsonl:2: expected a JSON object"),
        (
            replace_line("corpus.jsonl", 2, '{"_id": "p2", "body": "x"}'),
            r':2: key "text" is missing; found _id, body',
        ),
        (replace_line("corpus.jsonl", 2, '{"text": "x"}'), r'corpus.jsonl:2: expected "_id" .* got None'),
        (replace_line("corpus.jsonl", 2, '{"_id": "p2", "text": " "}'), r":2: the text of id 'p2' is empty"),
        (
            replace_line("corpus.jsonl", 2, '{"_id": "p2", "text": null}'),
            r':2: "text" must be a string, got None',
        ),
        (replace_line("corpus.jsonl", 2, '{"_id": "p\\ud83d", "text": "x"}'), ":2: id .* holds half of a character"),
        (replace_line("corpus.jsonl", 2, "[" * 100_000), ":2: invalid JSON"),
        (replace_line("corpus.jsonl", 2, '{"_id": ' + "1" * 5000 + "}"), ":2: invalid JSON"),
        (replace_line("corpus.jsonl", 2, '{"_id": "p1", "text": "x"}'), r":2: id 'p1' was already used"),
        (
            replace_line("queries.jsonl", 3, '{"_id": "q3", "text": ""}'),
            r"queries.jsonl:3: the text of id 'q3' is",
        ),
        (
            replace_line("queries.jsonl", 4, '{"_id": "q2", "text": "x"}'),
            r"queries.jsonl:4: id 'q2' was already",
        ),
        (
            replace_line("queries.jsonl", 3, '{"_id": "q3", "text": "x", "split": "validation"}'),
            r"queries.jsonl:3: unknown split 'validation'; rename it to train, dev, test",
        ),
        (
            replace_line("queries.jsonl", 3, '{"_id": "q3", "text": "x", "split": "dev"}'),
            r"qrels.test.tsv:2: query 'q3' is judged for test but belongs to dev",
        ),
        (replace_line("qrels.dev.tsv", 1, "q2\tp2\t1"), r"qrels.dev.tsv:1: the header is missing"),
        (replace_line("qrels.dev.tsv", 2, "q2 p2 1"), r"qrels.dev.tsv:2: expected 3 tab-separated .* got 1"),
        (replace_line("qrels.dev.tsv", 2, "q2,p2,1"), r"got 1; put tabs between them, not commas or spaces"),
        (replace_line("qrels.dev.tsv", 2, "p2\tq2\t1"), r":2: unknown query id 'p2'; .* put the query's id first"),
        (replace_line("qrels.dev.tsv", 2, "q2\tp2\t0.5"), r"qrels.dev.tsv:2: grade '0.5' is no integer"),
        (
            replace_line("qrels.dev.tsv", 2, "q9\tp2\t1"),
            r":2: unknown query id 'q9'; add it to queries.jsonl",
        ),
        (replace_line("qrels.dev.tsv", 2, "q2\tp9\t1"), r":2: unknown passage id 'p9'; .*keep_missing"),
        (
            replace_line("qrels.dev.tsv", 3, "q2\tp2\t2"),
            r":3: query 'q2', passage 'p2' has grade 2 here and 1 before",
        ),
        (
            replace_line("qrels.dev.tsv", 3, "q3\tp3\t1"),
            r"qrels.test.tsv:2: query 'q3' is judged for test but bel",
        ),
        (replace_line("qrels.dev.tsv", 2, ""), r"qrels.dev.tsv: no judgments; add some, or remove the file"),
        (replace_line("candidates.tsv", 1, "q1\tp1\t12.5"), r"candidates.tsv:1: the header is missing"),
        (replace_line("candidates.tsv", 3, "q9\tp1\t0"), r"candidates.tsv:3: unknown query id 'q9'"),
        (replace_line("candidates.tsv", 3, "q1\tp9\t0"), r"candidates.tsv:3: unknown passage id 'p9'"),
        (
            replace_line("candidates.tsv", 3, "q1\tp3\t0"),
            r"candidates.tsv:3: passage 'p3' is twice in the list",
        ),
        (lambda folder: (folder / "corpus.jsonl").unlink(), r"corpus.jsonl: no such file"),
        (lambda folder: (folder / "queries.jsonl").write_text(""), r"queries.jsonl: the file is empty"),
        (
            lambda folder: (folder / "corpus.jsonl").write_bytes(b'{"_id": "\xff"}'),
            r"corpus.jsonl:1: byte 9 is not",
        ),
        (
            lambda folder: [file.unlink() for file in folder.glob("qrels*")],
            r"tiny: no qrels.tsv, .*; add the judg",
        ),
        (
            lambda folder: (folder / "qrels.more.tsv").write_text(HEADER),
            r"qrels.more.tsv: unknown split 'more'",
        ),
    ],
)
def test_bad_input_names_file_line_and_remedy(folder: Path, change: Callable[[Path], object], message: str) -> None:
    load(folder)
    change(folder)
    with pytest.raises(InputError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_lone_surrogates_are_replaced(folder: Path) -> None:
    replace_line("corpus.jsonl", 2, '{"_id": "p2", "text": "a cut \\ud83d"}')(folder)
    assert load(folder).passages["p2"] == "a cut \ufffd"


def test_an_unknown_source_says_what_is_accepted(tmp_path: Path) -> None:
    for source in ("ms_marco", tmp_path / "absent"):
        with pytest.raises(InputError, match=r'is no folder and no .jsonl or .parquet file; give "pydocs", a folder'):
            load(source)


def test_judgments_without_any_relevant_passage_are_refused(folder: Path) -> None:
    for split, line in (("train", "q1\tp1\t0"), ("dev", "q2\tp2\t-1"), ("test", "q3\tgone\t1")):
        (folder / f"qrels.{split}.tsv").write_text(f"{HEADER}{line}\n", encoding="utf-8")
    with pytest.raises(InputError, match="no passage that is there has a judgment above 0"):
        load(folder, keep_missing=True)


def test_missing_passages_are_kept_in_the_judgments_on_request_only(folder: Path) -> None:
    replace_line("qrels.dev.tsv", 3, "q2\tgone\t3")(folder)
    data = load(folder, keep_missing=True)
    assert data.judgments["q2"] == {"p2": 1, "gone": 3}
    assert relevant_passages(data, "q2") == ["p2"]
    assert "gone" not in data.passages


def test_load_refuses_leaking_splits_and_drops_them_on_request(folder: Path) -> None:
    replace_line("qrels.test.tsv", 3, "q3\tp1\t1")(folder)
    with pytest.raises(InputError, match=r"1 of 1 train queries .*'q1'"):
        load(folder)
    data = load(folder, drop_leaks=True)
    assert data.splits == {"train": [], "dev": ["q2"], "test": ["q3"]}
    require_splits(data, "dev", "test")
    with pytest.raises(InputError, match=r"split 'train' has no query .*train 0, dev 1, test 1"):
        require_splits(data, "dev", "train")


def test_queries_stay_unsplit_when_asked(tmp_path: Path) -> None:
    write_lines(tmp_path / "corpus.jsonl", [{"id": "p1", "text": "Water."}])
    write_lines(tmp_path / "queries.jsonl", [{"id": "q1", "text": "what runs"}])
    (tmp_path / "qrels.tsv").write_text(f"{HEADER}q1\tp1\t1\n", encoding="utf-8")
    assert load(tmp_path, test_share=0).splits == {"train": [], "dev": [], "test": []}
    with pytest.raises(InputError, match="too few for a"):
        load(tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"real data sets are not at {SHARED}")
@pytest.mark.parametrize(
    ("name", "sizes", "passages", "options"),
    [
        ("msmarco-devsmall", (6000, 500, 480), 6978, {}),
        ("msmarco-dl19", (0, 0, 43), 13429, {"keep_missing": True}),
        ("wikiqa", (2118 - 15, 296, 633), 26270, {"drop_leaks": True}),
        ("stackfaq", (1010, 119, 120), 719, {}),
    ],
)
def test_real_folders_have_their_published_counts(
    name: str, sizes: tuple[int, ...], passages: int, options: dict[str, bool]
) -> None:
    data = load(SHARED / name, **options)
    assert tuple(len(data.splits[split]) for split in ("train", "dev", "test")) == sizes
    assert len(data.passages) == passages
    if name == "msmarco-dl19":
        assert {len(ids) for ids in data.candidates.values()} == {100}
        assert sum(len(grades) for grades in data.judgments.values()) == 9260

"""The built-in corpus: what becomes a query, what its passage keeps, and which side of the split it is on."""

import sys
from pathlib import Path

import pytest

from training.data import InputError, find_leaks, fingerprint, relevant_passages
from training.pydocs import MAX_PASSAGE_CHARACTERS, PACKAGES, load_pydocs, read_docstrings, split_docstring

LONG = "This text is long enough to be the passage of a search task."


def test_summary_sentence_is_the_query_and_the_rest_the_passage() -> None:
    text = f"""Find the peaks, e.g. FIR maxima, of a signal. More on the
        same lines.

        {LONG}

        Parameters
        ----------
        x : sequence
    """
    query, passage = split_docstring(text, "scipy", "find_peaks") or ("", "")
    assert query == "Find the peaks, e.g. FIR maxima, of a signal"
    assert passage == f"More on the same lines. {LONG} Parameters ---------- x : sequence"


def test_signature_and_qualified_name_are_removed_but_words_of_the_text_stay() -> None:
    text = f"""norm.fit(data, *args) -> tuple

    Estimate the parameters with norm.fit from data.

    scipy.stats.norm.fit and :meth:`norm.fit` fit the data, norm.fitting and other.norm.fit do not. {LONG}
    norm.fit(data, *args)
    """
    query, passage = split_docstring(text, "scipy", "norm.fit") or ("", "")
    assert query == "Estimate the parameters with from data"
    assert passage == f"and :meth:` ` fit the data, norm.fitting and other.norm.fit do not. {LONG}"


@pytest.mark.parametrize(
    "text",
    [
        "Only a summary line without anything else to find.",
        f"Two words.\n\n{LONG}",
        "Compute the mean value.\n\n>>> mean(one, two, three, four, five, six, seven, eight)\nthe answer",
        f".. deprecated:: 1.0\n\n{LONG}",
        f"{'word ' * 41}\n\n{LONG}",
        "Return the value of it.\n\nSee the parent class for more.",
        "   ",
    ],
    ids=["no rest", "short query", "doctest only", "directive", "long query", "short passage", "blank"],
)
def test_a_docstring_that_is_no_search_task_is_left_out(text: str) -> None:
    assert split_docstring(text, "numpy", "mean") is None
    assert split_docstring(f"Compute the mean value.\n\n{LONG}", "numpy", "mean") is not None


def test_a_long_passage_is_cut_between_words() -> None:
    _, passage = split_docstring("Compute the mean value.\n\n" + "abcdef " * 1000, "numpy", "mean") or (
        "",
        "",
    )
    assert MAX_PASSAGE_CHARACTERS - 7 < len(passage) <= MAX_PASSAGE_CHARACTERS
    assert set(passage.split()) == {"abcdef"}


def test_public_objects_of_a_module_are_named_by_their_path() -> None:
    def documented(subject: str) -> str:
        return f'"""Describe {subject} in short. {LONG}"""'

    source = f"""{documented("the module")}
try:
    import fast
except ImportError:
    def slow(): {documented("the fallback")}
class Shape:
    {documented("the class")}
    def area(self):
        {documented("the method")}
        def inner(): {documented("an inner function")}
    def _hidden(self): {documented("a private method")}
    async def wait(self): {documented("the coroutine")}
class _Private:
    def public(self): {documented("a method of a private class")}
"""
    found = {entry.name: entry.query for entry in read_docstrings(source.encode(), "geo.shapes", "geo")}
    assert found == {
        "geo.shapes": "Describe the module in short",
        "geo.shapes.Shape": "Describe the class in short",
        "geo.shapes.Shape.area": "Describe the method in short",
        "geo.shapes.Shape.wait": "Describe the coroutine in short",
        "geo.shapes.slow": "Describe the fallback in short",
    }
    assert list(read_docstrings(b"print 'Python 2'", "old", "old")) == []


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two packages on the path, `heldout_package` and `training_package`, that share some texts."""
    texts = {
        "heldout_package": {"alpha": ("Sort the given numbers", "A"), "beta": ("Draw a smooth curve", "B")},
        "training_package": {
            "gamma": ("sort the given NUMBERS", "C"),  # the query of alpha
            "delta": ("Read the whole file", "B"),  # the passage of beta
            "kappa": ("Close an open file", "D"),
            "omega": ("Close an open file", "E"),  # a second passage for the query of kappa
        },
    }
    for package, functions in texts.items():
        for folder in (tmp_path / package, tmp_path / package / "tests"):
            folder.mkdir()
            for name, (query, letter) in functions.items():
                place = "" if folder.name == package else " as a test"
                code = f'def {name}():\n    """{query}{place}.\n\n    {LONG} {letter}{place}\n    """\n'
                (folder / f"m_{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_duplicates_stay_on_the_held_out_side_and_tests_are_not_read(packages: Path) -> None:
    data = load_pydocs({"test": ["heldout_package"], "train": ["training_package"]})
    assert data.splits == {
        "train": ["training_package.m_kappa.kappa"],
        "dev": [],
        "test": ["heldout_package.m_alpha.alpha", "heldout_package.m_beta.beta"],
    }
    assert data.queries["heldout_package.m_alpha.alpha"] == "Sort the given numbers"
    assert data.passages["training_package.m_kappa.kappa"] == f"{LONG} D"
    assert data.judgments == {name: {name: 1} for name in data.queries}
    assert "heldout_package" not in sys.modules


def test_a_package_that_is_not_installed_is_an_error() -> None:
    with pytest.raises(InputError, match=r"'no_such_package' is not installed.*set it up with make"):
        load_pydocs({"test": ["no_such_package"]})


def test_every_package_is_pinned_by_the_lock() -> None:
    lock = (Path(__file__).parent.parent / "requirements.lock").read_text(encoding="utf-8").lower()
    distributions = {"PIL": "pillow", "sklearn": "scikit-learn", "mpl_toolkits": "matplotlib"}
    names = [name for packages in PACKAGES.values() for name in packages if name != "python"]
    pins = {name: distributions.get(name, name).lower().replace("_", "-") + "==" for name in names}
    assert [name for name, pin in pins.items() if f"\n{pin}" not in lock] == []
    assert len(names) == len(set(names))


def test_held_out_packages_of_the_installed_corpus_are_read_the_same_way_twice() -> None:
    held_out = {"test": ["networkx"], "train": ["joblib"]}
    data = load_pydocs(held_out)
    assert len(data.splits["test"]) > 900
    assert fingerprint(load_pydocs(held_out)) == fingerprint(data)
    assert find_leaks(data) == []
    assert len({text.casefold() for text in data.queries.values()}) == len(data.queries)
    assert len({text.casefold() for text in data.passages.values()}) == len(data.passages)
    shortest_path = next(name for name in data.queries if name.endswith("dijkstra_path"))
    assert data.queries[shortest_path] == "Returns the shortest weighted path from source to target in G"
    assert relevant_passages(data, shortest_path) == [shortest_path]

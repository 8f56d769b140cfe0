"""The built-in corpus: docstrings of Python's standard library and of the toolkit's locked dependencies.

Nothing is imported, downloaded or shipped: the sources of the running environment are parsed with `ast`. A
query is a docstring's summary sentence, its one relevant passage is the rest of that docstring, and the
passages of every package together are what a query searches. Whole packages are held out, so dev and test
ask about libraries that training never saw. The same lock and the same Python minor version give the same
corpus.
"""

import ast
import gc
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from inspect import cleandoc
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from training.data import InputError, RankingData

STANDARD_LIBRARY = "python"
# requirements.lock pins every one of these, and their docstrings do not depend on the machine.
PACKAGES = {
    "test": ("networkx", "scipy"),
    "dev": ("sklearn",),
    "train": (
        STANDARD_LIBRARY,
        "PIL",
        "accelerate",
        "aiohttp",
        "datasets",
        "fontTools",
        "fsspec",
        "huggingface_hub",
        "hypothesis",
        "jinja2",
        "joblib",
        "matplotlib",
        "mpl_toolkits",
        "mpmath",
        "narwhals",
        "numpy",
        "onnxruntime",
        "optimum",
        "pandas",
        "requests",
        "sentence_transformers",
        "sympy",
        "torch",
        "transformers",
        "urllib3",
    ),
}
# Tests and vendored copies say nothing new, the model zoo of transformers repeats itself, and torch's
# compiler documents only itself. Parts of the standard library that some distributions split off would make
# the corpus differ between machines.
SKIPPED_FOLDERS = {
    "__pycache__",
    "_external",
    "_vendor",
    "_vendored",
    "array_api_compat",
    "array_api_extra",
    "externals",
    "extern",
    "test",
    "tests",
    "testing",
    "vendor",
}
TEST_FILES = ("test_", "conftest")
SKIPPED_MODULES = ("torch._dynamo", "torch._inductor", "transformers.models")
SKIPPED_STANDARD_MODULES = {
    "distutils",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "tkinter",
    "turtledemo",
}
LICENCE = "read in place; each package's own licence (PSF, BSD, MIT, Apache-2.0), nothing is redistributed"
ALIASES = {"matplotlib": "mpl", "networkx": "nx", "numpy": "np", "pandas": "pd", "scipy": "sp", "sympy": "sp"}
MAX_PASSAGE_CHARACTERS = 2000
MIN_QUERY_WORDS = 3
MAX_QUERY_WORDS = 40
MIN_PASSAGE_WORDS = 8

_SIGNATURE = re.compile(r"^[\w.]+\s*\(.*\)\s*(->.*)?$|^[\w.]+\s*\([^)]*$")
_SENTENCE_END = re.compile(r"(?<!e\.g)(?<!i\.e)(?<!etc)(?<!vs)(?<!cf)[.!?](?=\s+[^a-z]|$)")
_DIRECTIVE = re.compile(r"^(\.\. |:\w+|@\w+|>>>|[-=~*#]{3,})")
_WORD = re.compile(r"[^\W\d_]{2,}")


class Docstring(NamedTuple):
    """One documented object: its qualified name, which is the id of query and passage, and the two texts."""

    name: str
    query: str
    passage: str


def load_pydocs(packages: Mapping[str, Sequence[str]] = PACKAGES) -> RankingData:
    """Read the corpus from the running environment; about 20 seconds of parsing.

    `packages` maps each split to its packages, held-out splits first: a text that two packages share is
    kept where it comes first, so none of dev and test occurs in train. The id of a query and of its passage
    is the name of the object, "scipy.signal._peak_finding.find_peaks".

    Raises InputError when a package is not installed, because a corpus without it is another corpus.
    """
    files = [(split, package, modules_of(package)) for split, names in packages.items() for package in names]
    data = RankingData("pydocs", {}, {}, {}, {}, {"train": [], "dev": [], "test": []}, LICENCE)
    seen_queries: set[str] = set()
    seen_passages: set[str] = set()
    with (
        _no_garbage_collection(),
        tqdm(total=sum(len(file[2]) for file in files), desc="pydocs", unit="file") as bar,
    ):
        for split, package, modules in files:
            for module, path in modules:
                bar.update()
                for entry in read_docstrings(path.read_bytes(), module, package):
                    query_key, passage_key = entry.query.casefold(), entry.passage.casefold()
                    taken = entry.name in data.queries or query_key in seen_queries or passage_key in seen_passages
                    seen_queries.add(query_key)
                    seen_passages.add(passage_key)
                    if taken:
                        continue
                    data.queries[entry.name] = entry.query
                    data.passages[entry.name] = entry.passage
                    data.judgments[entry.name] = {entry.name: 1}
                    data.splits[split].append(entry.name)
    return data


def read_docstrings(source: bytes, module: str, package: str) -> Iterator[Docstring]:
    """Yield the usable docstrings of one module's public objects, in source order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's sources
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):  # templates and sources of another Python version
            return
    yield from _walk(tree, module, "", package)


def _walk(node: ast.AST, module: str, path: str, package: str) -> Iterator[Docstring]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node, clean=False)
        pair = split_docstring(text, package, path) if text else None
        if pair:
            yield Docstring(f"{module}.{path}" if path else module, *pair)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if not child.name.startswith("_"):
                yield from _walk(child, module, f"{path}.{child.name}" if path else child.name, package)
        elif isinstance(child, ast.If | ast.Try | ast.ExceptHandler):
            yield from _walk(child, module, path, package)


def split_docstring(text: str, package: str, path: str) -> tuple[str, str] | None:
    """Return (query, passage), or None for a docstring that is no search task.

    `path` is the object's name inside its module ("Class.method", empty for the module itself). Signature
    lines and the qualified name are removed from both texts; white space is collapsed; the passage is cut
    at `MAX_PASSAGE_CHARACTERS`, at a word.
    """
    lines = cleandoc(text).splitlines()
    while lines and (not lines[0].strip() or _SIGNATURE.match(lines[0].strip())):
        lines.pop(0)
    if not lines or _DIRECTIVE.match(lines[0].strip()):
        return None
    end = next((i for i, line in enumerate(lines) if not line.strip() or _DIRECTIVE.match(line.strip())), len(lines))
    first = " ".join(lines[:end])
    stop = _SENTENCE_END.search(first)
    cut = stop.end() if stop else len(first)
    query = _clean(first[:cut], package, path).rstrip(" .:")
    rest = [line for line in lines[end:] if not _SIGNATURE.match(line.strip())]
    passage = _shorten(_clean(" ".join([first[cut:], *rest]), package, path))
    query_words = [word for word in query.split() if _WORD.search(word)]
    prose = _WORD.findall(_without_doctests(first[cut:], rest))
    if not MIN_QUERY_WORDS <= len(query_words) <= MAX_QUERY_WORDS or len(prose) < MIN_PASSAGE_WORDS:
        return None
    return query, passage


def _clean(text: str, package: str, path: str) -> str:
    if path and path in text:
        roots = "|".join(filter(None, (package, ALIASES.get(package))))
        prefix = rf"(?:(?:{roots})\.(?:\w+\.)*)"
        own_name = rf"(?<![\w.]){prefix}{'?' if '.' in path else ''}{re.escape(path)}\b"
        text = re.sub(own_name, " ", text)
    return " ".join(text.split())


def _shorten(text: str) -> str:
    if len(text) <= MAX_PASSAGE_CHARACTERS:
        return text
    return text[: MAX_PASSAGE_CHARACTERS + 1].rsplit(" ", 1)[0][:MAX_PASSAGE_CHARACTERS]


def _without_doctests(first: str, lines: list[str]) -> str:
    """Drop doctest blocks: a prompt line and everything up to the next blank line."""
    kept, inside = [first], False
    for line in lines:
        inside = line.lstrip().startswith(">>>") or (inside and bool(line.strip()))
        if not inside:
            kept.append(line)
    return " ".join(kept)


def modules_of(package: str) -> list[tuple[str, Path]]:
    """List (dotted module name, file) of a package, sorted by module name; InputError when it is not installed."""
    if package == STANDARD_LIBRARY:
        root = Path(sysconfig.get_paths()["stdlib"])
        names = sorted(sys.stdlib_module_names - SKIPPED_STANDARD_MODULES)
        starts = [path for name in names for path in (root / f"{name}.py", root / name) if path.exists()]
    else:
        spec = find_spec(package)  # finds a top-level package without importing it
        if spec is None or not spec.submodule_search_locations:
            raise InputError(
                f"pydocs: the package {package!r} is not installed, and without it the corpus would be "
                "another one; expected the environment of requirements.lock: set it up with make"
            )
        starts = [Path(folder) for folder in spec.submodule_search_locations]
        root = starts[0].parent
    found = {}
    for start in starts:
        for path in [start] if start.is_file() else start.rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            skipped = any(module == name or module.startswith(f"{name}.") for name in SKIPPED_MODULES)
            if not skipped and not SKIPPED_FOLDERS.intersection(parts) and not parts[-1].startswith(TEST_FILES):
                found[module] = path
    return sorted(found.items())


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Syntax trees hold no cycles, and collecting while they grow doubles the time of parsing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

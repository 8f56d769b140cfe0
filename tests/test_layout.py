"""The rules of the house, read off its sources: imports one way, short files, docstrings, nothing unsafe.

Every rule is a function of source text, so that each can be tried here on a source that breaks it.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "recipes": ROOT / "recipes",
    "training": ROOT / "training",
    "export": ROOT / "export",
    "flashranker": ROOT / "runtime" / "flashranker",
}
# What each package may not import; `flashranker` runs with numpy, onnxruntime and tokenizers alone.
FORBIDDEN = {
    "recipes": set(),
    "training": {"export", "flashranker", "recipes"},
    "export": {"training", "recipes"},
    "flashranker": {
        "export",
        "optimum",
        "recipes",
        "sentence_transformers",
        "torch",
        "training",
        "transformers",
    },
}
UNSAFE_MODULES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
LONGEST_FILE = 300  # lines


def sources(package: str) -> list[Path]:
    """Every Python file of a package, of its subfolders too."""
    return sorted(PACKAGES[package].rglob("*.py"))


def all_files() -> list[Path]:
    return sorted(path for name in PACKAGES for path in sources(name)) + sorted((ROOT / "tests").glob("*.py"))


def imported(source: str) -> set[str]:
    """Top-level names of what a source imports anywhere in it; "." stands for a relative import."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # A relative import hides from a reader, and from this test, what it reaches.
            found.add("." if node.level else (node.module or "").split(".")[0])
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__") and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                found.add(name.value.split(".")[0] or ".")
    return found


def forbidden_imports(source: str, package: str) -> set[str]:
    """What a source of `package` imports against the one direction."""
    return imported(source) & (FORBIDDEN[package] | {"."})


def unsafe(source: str) -> list[str]:
    """What could run foreign code: pickle and its kin, and `trust_remote_code` that is not plainly False."""
    found = sorted(imported(source) & UNSAFE_MODULES)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "allow_pickle"):
            safe = isinstance(node.value, ast.Constant) and node.value.value is False
        elif isinstance(node, ast.keyword) and node.arg == "weights_only":
            safe = isinstance(node.value, ast.Constant) and node.value.value is True
        elif isinstance(node, ast.Dict):
            # The same argument, on its way into **kwargs.
            named = [key.value for key in node.keys if isinstance(key, ast.Constant)]
            safe = not {"trust_remote_code", "allow_pickle"} & set(named)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            safe = any(keyword.arg == "weights_only" for keyword in node.keywords)
        else:
            continue
        if not safe:
            found.append(ast.unparse(node))
    return found


def undocumented(source: str) -> list[str]:
    """Names of public functions, classes and methods without a docstring; the module itself as "module"."""
    tree = ast.parse(source)
    missing = [] if ast.get_docstring(tree) or not tree.body else ["module"]
    return missing + [name for name, node in _public(tree, "") if not (ast.get_docstring(node) or "").strip()]


def _public(
    node: ast.Module | ast.ClassDef, prefix: str
) -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and child.name[0] != "_":
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from _public(child, f"{prefix}{child.name}.")


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func).rsplit(".", 1)[-1]


def tree_modules(readme: str) -> dict[str, list[str]]:
    """Folder -> the Python files that the README's tree names below it, in its order.

    The tree is the code block whose first line is `README.md` and its clause; a folder ends in a slash and
    starts its line, its files are indented by two.
    """
    block = re.search(r"^```\nREADME\.md .*?^```$", readme, re.MULTILINE | re.DOTALL)
    assert block, "README.md has no file tree: a code block that starts with README.md"
    found: dict[str, list[str]] = {}
    folder = ""
    for line in block[0].splitlines()[1:-1]:
        name = line.split()[0]
        if not line.startswith(" "):
            folder = name
        elif name.endswith(".py"):
            assert len(line.split()) > 1, f"the README's tree says nothing about {folder}{name}"
            found.setdefault(folder, []).append(name)
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    broken = {
        str(path.relative_to(ROOT)): names
        for path in sources(package)
        if (names := forbidden_imports(path.read_text(encoding="utf-8"), package))
    }
    assert broken == {}


@pytest.mark.parametrize(
    ("package", "source", "expected"),
    [
        ("training", "from export.verify import Gate", {"export"}),
        ("training", "def f():\n    import recipes.distill", {"recipes"}),
        ("training", "import numpy, torch\nfrom training.load import load", set()),
        ("training", "import numpy, flashranker.artifact", {"flashranker"}),
        ("export", "if True:\n    import training.data as data", {"training"}),
        ("export", "from flashranker.artifact import Manifest\nimport torch", set()),
        ("flashranker", "import numpy\nfrom torch.nn import Module", {"torch"}),
        ("flashranker", "from transformers import AutoTokenizer", {"transformers"}),
        ("flashranker", "import importlib\nimportlib.import_module('export.card')", {"export"}),
        ("flashranker", "from flashranker.errors import InputError", set()),
        ("flashranker", "from ..export import card", {"."}),
        ("recipes", "import training.data, export.card, flashranker", set()),
        ("recipes", "from . import distill", {"."}),
    ],
)
def test_the_import_rule_sees_every_form(package: str, source: str, expected: set[str]) -> None:
    assert forbidden_imports(source, package) == expected


def test_no_file_is_longer_than_300_lines() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_bytes().splitlines()) for path in all_files()}
    assert {"tests/test_layout.py", "training/data.py", "runtime/flashranker/artifact.py"} <= lengths.keys()
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_unpickles_or_trusts_remote_code(package: str) -> None:
    found = {
        str(path.relative_to(ROOT)): names
        for path in sources(package)
        if (names := unsafe(path.read_text(encoding="utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import pickle", ["pickle"]),
        ("from joblib import load", ["joblib"]),
        ("load('x', trust_remote_code=True)", ["trust_remote_code=True"]),
        ("load('x', trust_remote_code=trusted)", ["trust_remote_code=trusted"]),
        ("load('x', **{'trust_remote_code': 1})", ["{'trust_remote_code': 1}"]),
        ("numpy.load('x', allow_pickle=True)", ["allow_pickle=True"]),
        ("torch.load('x')", ["torch.load('x')"]),
        ("torch.load('x', weights_only=False)", ["weights_only=False"]),
        ("load('x', trust_remote_code=False)\ntorch.load('x', weights_only=True)\n'pickle'", []),
    ],
)
def test_the_safety_rule_sees_every_form(source: str, expected: list[str]) -> None:
    assert unsafe(source) == expected


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_public_has_a_docstring(package: str) -> None:
    missing = {
        str(path.relative_to(ROOT)): names
        for path in sources(package)
        if (names := undocumented(path.read_text(encoding="utf-8")))
    }
    assert missing == {}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("'''m'''\ndef f():\n    return 1", ["f"]),
        ("'''m'''\nasync def f():\n    ' '", ["f"]),
        ("'''m'''\nclass C:\n    '''c'''\n    def f(self): ...\n    def _g(self): ...", ["C.f"]),
        ("'''m'''\nclass C:\n    x: int\ndef _f(): ...", ["C"]),
        ("x = 1\ndef f():\n    '''f'''\n    def inner(): ...", ["module"]),
        ("", []),
    ],
)
def test_the_docstring_rule_sees_every_form(source: str, expected: list[str]) -> None:
    assert undocumented(source) == expected


def test_the_readme_names_every_module_and_no_other() -> None:
    tree = tree_modules((ROOT / "README.md").read_text(encoding="utf-8"))
    named = sorted(f"{folder}{name}" for folder, names in tree.items() for name in names)
    existing = {path.relative_to(ROOT).as_posix() for name in PACKAGES for path in sources(name)}
    existing = {path for path in existing if not path.endswith("/__init__.py")}
    assert {"missing": existing - set(named), "gone": set(named) - existing} == {
        "missing": set(),
        "gone": set(),
    }
    assert len(named) == len(existing)


def test_the_tree_is_read_as_written() -> None:
    readme = """# Title

```
make distill
```

```
README.md       this
training/       folder
  b.py          its clause
  a.py          another
Makefile        targets
export/         folder
  c.py          a third
docs/           no module
```
  d.py
"""
    assert tree_modules(readme) == {"training/": ["b.py", "a.py"], "export/": ["c.py"]}
    with pytest.raises(AssertionError, match=r"says nothing about training/a\.py"):
        tree_modules(readme.replace("  a.py          another", "  a.py"))
    with pytest.raises(AssertionError, match="no file tree"):
        tree_modules("# Title\n\n```\nmake distill\n```\n")

"""`flashranker` as a process sees it: what it imports, after a fork, and at exit."""

import ast
import subprocess
import sys
from pathlib import Path

import flashranker
from flashranker import Reranker


def run_python(script: str, *arguments: str) -> str:
    finished = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    return finished.stdout


def test_a_forked_child_ranks_and_a_busy_interpreter_exits(tiny_artifact: Path) -> None:
    script = """
import os, sys, threading, time
from flashranker import Reranker
ranker = Reranker(sys.argv[1], threads=2)
print(float(ranker.score("time", ["bread"])[0]), flush=True)
if os.fork() == 0:
    print(float(ranker.score("time", ["bread"])[0]), flush=True)
    os._exit(0)
os.wait()
threading.Thread(target=lambda: ranker.score("time", ["bread " * 60] * 1_000_000), daemon=True).start()
time.sleep(0.5)
"""
    expected = str(float(Reranker(tiny_artifact).score("time", ["bread"])[0]))
    assert run_python(script, str(tiny_artifact)).split() == [expected, expected]


def test_a_thread_ranks_on_once_the_main_thread_has_ended(tiny_artifact: Path) -> None:
    """Python closes all pools of threads then, before it waits for threads of the program's own."""
    script = """
import sys, threading, time
from flashranker import Reranker
ranker = Reranker(sys.argv[1], threads=2)
def work():
    for count in (200, 5):
        print(ranker.score("time", ["bread"] * count).tolist() == [float(ranker.score("time", ["bread"])[0])] * count)
        time.sleep(0.5)
    print(len(ranker.score("time", ["bread"] * 5000)))
threading.Thread(target=work).start()
"""
    assert run_python(script, str(tiny_artifact)).split() == ["True", "True", "5000"]


def test_importing_flashranker_brings_in_nothing_of_the_toolkit() -> None:
    loaded = run_python("import sys, flashranker.cli, flashranker.compat; print(*sys.modules)").split()
    assert not {"torch", "transformers", "optimum", "onnx", "training", "export"} & set(loaded)
    assert not {"langchain_core", "llama_index", "haystack", "pydantic", "huggingface_hub"} & set(loaded)


def test_importing_flashranker_waits_with_everything_until_it_is_used() -> None:
    script = """
import sys, flashranker
print(*sorted({"numpy", "onnxruntime", "tokenizers", "asyncio", "flashranker.reranker"} & set(sys.modules)), "|")
names = [getattr(flashranker, name) for name in flashranker.__all__]
print(flashranker.Reranker.__module__, flashranker.InputError.__module__, "onnxruntime" in sys.modules, "|")
print(*set(flashranker.__all__) - set(dir(flashranker)), hasattr(flashranker, "Missing"))
"""
    found = [part.split() for part in run_python(script).split("|")]
    assert found == [[], ["flashranker.reranker", "flashranker.errors", "False"], ["False"]]


def test_the_package_imports_three_libraries_only() -> None:
    """But for those that join it to a framework, or serve it, which nothing else imports; each may import its own."""
    folder = Path(flashranker.__file__).parent
    joined = {
        "langchain.py": "langchain_core", "llama_index.py": "llama_index", "haystack.py": "haystack",
        "hub.py": "huggingface_hub",
    }  # fmt: skip
    found = {path.relative_to(folder).as_posix(): third_party_imports(path) for path in folder.rglob("*.py")}
    served = {name: found.pop(name) for name in list(found) if name.startswith("server/")}
    assert set().union(*served.values()) == {"numpy", "prometheus_client", "starlette", "uvicorn"}
    assert served["server/options.py"] == set()  # the one that the command line always imports
    assert {name: names for name, names in found.items() if name in joined} == {
        name: {package} for name, package in joined.items()
    }
    assert set().union(*(names for name, names in found.items() if name not in joined)) == {
        "numpy",
        "onnxruntime",
        "tokenizers",
    }
    assert (folder / "py.typed").exists()


def third_party_imports(path: Path) -> set[str]:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).split(".")[0])
    return imported - sys.stdlib_module_names - {"flashranker"}

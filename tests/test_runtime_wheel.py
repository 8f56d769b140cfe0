"""The wheel that users install, alone with its three libraries: no toolkit, no torch, and the same logits."""

import json
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import flashranker
import pytest
from flashranker import Reranker
from packaging.requirements import Requirement

RUNTIME = Path(__file__).parent.parent / "runtime"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--wheel",
        "--outdir",
        str(folder),
        str(RUNTIME),
    ]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    (path,) = folder.iterdir()
    return path


def test_the_wheel_holds_the_package_its_licence_and_its_three_needs(wheel: Path) -> None:
    assert wheel.stat().st_size < 200_000
    info = f"flashranker-{flashranker.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        described = archive.read(f"{info}/METADATA").decode()
        licence = archive.read(f"{info}/licenses/LICENSE").decode()
    package = RUNTIME / "flashranker"
    files = {path.relative_to(package) for path in package.rglob("*") if path.is_file()}
    sources = {path.as_posix() for path in files if "__pycache__" not in path.parts}
    assert {"server/page.html", "server/page.css", "server/page.js"} <= sources
    assert names == {f"flashranker/{name}" for name in sources} | {
        f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    }
    assert "flashranker/py.typed" in names
    lines = [line.split(": ")[1] for line in described.splitlines() if line.startswith("Requires-Dist")]
    needs = {(need.name, str(need.marker)) for need in map(Requirement, lines)}
    assert needs == {(name, "None") for name in ("numpy", "onnxruntime", "tokenizers")} | {
        ("langchain-core", 'extra == "langchain"'),
        ("llama-index-core", 'extra == "llama-index"'),
        ("haystack-ai", 'extra == "haystack"'),
        ("huggingface-hub", 'extra == "hub"'),
        *((name, 'extra == "server"') for name in ("prometheus-client", "starlette", "uvicorn")),
    }
    assert licence.split()[:4] == ["Apache", "License", "Version", "2.0,"]


def test_the_wheel_alone_ranks_as_the_checkout_does(wheel: Path, tiny_artifact: Path, tmp_path: Path) -> None:
    """Unpacked beside links to what onnxruntime, numpy and tokenizers consist of; `-I -S` hides all else."""
    clean = tmp_path / "clean"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(clean)  # a wheel of Python files alone is installed by no more than this
    for distribution in needed("flashranker"):
        for file in metadata.distribution(distribution).files or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (clean / top).exists():
                (clean / top).symlink_to(Path(str(metadata.distribution(distribution).locate_file(top))))

    script = """
import importlib, json, sys
sys.path.append(sys.argv[1])
absent = []
for name in ("torch", "transformers", "optimum", "training", "export", "pytest"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        absent.append(name)
import flashranker
passages = ["sort list", "river", "", "coffee paper " * 40]
hits = flashranker.Reranker(sys.argv[2]).rerank("python sort", passages)
print(json.dumps([absent, flashranker.__file__, [[hit.index, hit.logit, hit.score] for hit in hits]]))
"""
    command = [sys.executable, "-I", "-S", "-c", script, str(clean), str(tiny_artifact)]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    absent, origin, found = json.loads(finished.stdout)
    assert absent == ["torch", "transformers", "optimum", "training", "export", "pytest"]
    assert Path(origin).is_relative_to(clean)
    hits = Reranker(tiny_artifact).rerank("python sort", ["sort list", "river", "", "coffee paper " * 40])
    assert found == [[hit.index, hit.logit, hit.score] for hit in hits]


def needed(distribution: str) -> set[str]:
    """What `distribution` needs to be imported: its requirements and theirs, extras and itself left out."""
    found: set[str] = set()
    pending = [distribution]
    while pending:
        for line in metadata.requires(pending.pop()) or []:
            need = Requirement(line)
            # tokenizers asks for the hub's client, for a download that the runtime never makes.
            if (need.marker is None or need.marker.evaluate({"extra": ""})) and need.name != "huggingface-hub":
                if need.name not in found:
                    pending.append(need.name)
                found.add(need.name)
    return found

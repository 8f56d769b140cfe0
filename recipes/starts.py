"""How long a process takes from its start to the first result, system by system."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

from recipes.rivals import MODULES, SYSTEMS, Model

# What a user would write, system by system: nothing is imported that its first result does not need.
PROGRAMS = {
    "flashranker": """
from flashranker import Reranker
Reranker({folder!r}, threads={threads}).score({query!r}, {passages})
""",
    "flashrank": """
from flashrank import Config, Ranker, RerankRequest
Config.model_file_map[{name!r}] = "onnx/model.onnx"
ranker = Ranker({name!r}, {parent!r}, max_length={length})
ranker.rerank(RerankRequest(query={query!r}, passages=[{{"text": text}} for text in {passages}]))
""",
    "sentence-transformers, torch": """
from sentence_transformers import CrossEncoder
CrossEncoder({checkpoint!r}, max_length={length}, device="cpu").predict([({query!r}, text) for text in {passages}])
""",
    "sentence-transformers, onnx": """
from sentence_transformers import CrossEncoder
encoder = CrossEncoder({folder!r}, backend="onnx", model_kwargs={{"file_name": "onnx/model.onnx"}})
encoder.predict([({query!r}, text) for text in {passages}])
""",
    "fastembed": """
from fastembed.common.model_description import ModelSource
from fastembed.rerank.cross_encoder import TextCrossEncoder
source = ModelSource(hf="local/local")
TextCrossEncoder.add_custom_model(model={folder!r}, sources=source, model_file="onnx/model.onnx")
list(TextCrossEncoder({folder!r}, specific_model_path={folder!r}, threads={threads}).rerank({query!r}, {passages}))
""",
}
QUERY, PASSAGES = "sort a list", ["Return a new list in ascending order.", "Bind a socket."]


def program(system: str, model: Model, threads: int, query: str, passages: str) -> str:
    """The program of one system; `passages` is an expression that gives the list."""
    return PROGRAMS[system].format(
        folder=str(model.folder), name=model.folder.name, parent=str(model.folder.parent), threads=threads,
        checkpoint=str(model.checkpoint), length=model.max_length, query=query, passages=passages,
    )  # fmt: skip


def cold_starts(model: Model, threads: int, count: int) -> dict[str, dict[str, dict[str, float]]]:
    """System -> ms from the start of a process to its first result, and of its import alone; interleaved."""

    def started(system: str) -> str:
        return program(system, model, threads, QUERY, repr(PASSAGES))

    def imported(system: str) -> str:
        return f"import {MODULES[system]}"

    parts: dict[str, Callable[[str], str]] = {"first result ms": started, "import ms": imported}
    times: dict[tuple[str, str], list[float]] = {}
    for turn in range(count + 1):
        # An interpreter that does nothing, to be taken off the imports.
        bare = milliseconds("")
        for system in SYSTEMS:
            for part, code in parts.items():
                taken = milliseconds(code(system)) - (bare if part == "import ms" else 0.0)
                if turn:
                    times.setdefault((system, part), []).append(taken)
    return {system: {part: spread(times[system, part]) for part in parts} for system in SYSTEMS}


def milliseconds(code: str) -> float:
    """From the start of a Python process to the end of its code, before it exits; RuntimeError when it fails."""
    start = time.time()  # a clock that two processes share
    printed = finished([sys.executable, "-c", f"{code}\nimport time\nprint()\nprint(time.time())"])
    return 1000 * (float(printed.splitlines()[-1]) - start)


def finished(command: Sequence[str]) -> str:
    """What a process printed; RuntimeError with the last line of its errors when it fails."""
    # Compiled modules are kept, as any installation keeps them: otherwise each start would compile all it imports.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["HF_HUB_OFFLINE"] = "1"
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise RuntimeError(f"{command[-1].strip()[:60]!r}: {last[:200]}")
    return done.stdout


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": float(np.median(values)), "low": min(values), "high": max(values)}

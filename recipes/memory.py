"""Measure the most memory that each system takes for many long passages at once, each in a process of its own.

python -m recipes.memory                     # 1,000 passages of 512 tokens, 12 layers of 384
python -m recipes.memory --passages 200
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashranker.threads import available_threads

from export.artifact import write_json
from recipes.command import launch, plain, say, setting
from recipes.rivals import SYSTEMS, Model
from recipes.speed_models import SHAPES, make_model
from recipes.starts import finished, program
from training.data import InputError

QUERY = "how much memory does this take"
PASSAGES = "['memory ' * 600 + str(number) for number in range({count})]"
BEFORE = "import resource\nresource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))\n"
# Linux hands the parent's ru_maxrss on to its child, here that of a process with PyTorch: VmHWM begins anew.
AFTER = """
import pathlib, re, sys
status = pathlib.Path("/proc/self/status")
found = re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text()) if status.exists() else None
unit = 1 if sys.platform == "darwin" else 1024
print("peak", int(found[1]) * 1024 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
"""


@dataclass(frozen=True)
class MemoryConfig:
    """Settings of one measurement."""

    model: str = setting("twelve", "which of the shapes that are timed", choices=list(SHAPES))
    passages: int = setting(1000, "passages of 512 tokens, all in one call")
    limit: int = setting(16_000, "MB of address space that a system may take; it fails where it asks for more")
    threads: int = setting(0, "cores for each system; 0 for all that this process may use")
    cache: Path = setting(Path("cache"), "folder where the models to be measured are kept")
    output: Path = setting(Path("recipes/results/memory.json"), "where the numbers go")


def run(config: MemoryConfig, command: str) -> None:
    """The story of one measurement. Raises InputError."""
    if config.passages < 1 or config.limit < 1 or config.threads < 0:
        raise InputError("--passages and --limit must be 1 or more, --threads 0 or more")
    say(f"1/2 model: {config.model}")
    model = make_model(config.model, config.cache / "benchmark")

    say(f"2/2 memory: {config.passages} passages of 512 tokens")
    systems = {}
    for system in SYSTEMS:
        systems[system] = peak(system, model, config)
        say(f"    {system}: {systems[system]}")
    write_json(config.output, {"command": command, "settings": plain(config), "systems": systems})


def peak(system: str, model: Model, config: MemoryConfig) -> Mapping[str, Any]:
    """{"peak MB"} of a process from its start to its end, or {"failed"} with its last words."""
    threads = config.threads or available_threads()
    ranks = program(system, model, threads, QUERY, PASSAGES.format(count=config.passages))
    code = BEFORE.format(limit=config.limit * 10**6) + ranks + AFTER
    try:
        printed = finished([sys.executable, "-c", code])
    except RuntimeError as error:
        return {"failed": str(error).rpartition("': ")[2]}
    return {"peak MB": int(printed.split("peak ")[-1]) / 1e6}


def main(argv: list[str] | None = None) -> int:
    """0 when all was measured, 2 for bad input."""
    return launch("memory", __doc__, run, [MemoryConfig], argv)


if __name__ == "__main__":
    sys.exit(main())

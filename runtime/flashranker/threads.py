"""How many threads this process may keep busy: a container sees all of its host's cores but may use a few."""

import os
from collections.abc import Iterator
from pathlib import Path


def available_threads(root: Path = Path("/")) -> int:
    """Return the cores that this process may use, at least 1: its CPU affinity, cut to its cgroup's quota.

    A quota of 2.5 cores gives 2: a third thread would be stopped by the kernel for half of the time. Reads
    cgroup v1 and v2, the process's own group and all above it; `root` stands for `/` (tests point it at
    another tree).
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no affinity
        cores = os.cpu_count() or 1
    return max(1, min([cores, *(int(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mount = root / "sys/fs/cgroup"
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # v2
            for folder in _with_parents(mount, path):
                yield from _quota(_words(folder / "cpu.max"))
        elif "cpu" in controllers.split(","):  # v1, mounted by either name
            for name in dict.fromkeys((controllers, "cpu")):
                for folder in _with_parents(mount / name, path):
                    quota, period = (_words(folder / f"cpu.cfs_{part}_us") for part in ("quota", "period"))
                    yield from _quota(quota + period)


def _with_parents(mount: Path, path: str) -> Iterator[Path]:
    # Inside a container the path may name a group of the host that is not mounted: its files are then
    # missing.
    parts = [part for part in path.split("/") if part and part != ".."]
    for count in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:count])


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _quota(words: list[str]) -> Iterator[float]:
    # "200000 100000" is two cores; v2 says "max" and v1 says -1 where there is no limit.
    if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]) > 0:
        yield int(words[0]) / int(words[1])

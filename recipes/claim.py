"""One run at a time works in a folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from filelock import FileLock, Timeout

from training.data import InputError
from training.processes import is_first


@contextmanager
def claimed(lock: Path, refusal: str) -> Iterator[None]:
    """Hold the file `lock` against other processes; it does not outlive this one.

    Raises InputError with `refusal` where another run holds it, OSError where it can't be written.
    """
    held = FileLock(lock)
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise InputError(refusal) from None
    try:
        yield
    finally:
        held.release()


@contextmanager
def claimed_run(cache: Path, workspace: Path, output: Path | None = None) -> Iterator[None]:
    """Hold a run's workspace, and the artifact that it is to make, against runs with the same cache; as `claimed`.

    Of several processes that train together the first one holds them.
    """
    if not is_first():
        yield
        return
    with claimed(workspace / ".lock", f"another run with these settings works in {workspace}: wait for it"):
        if output is None:
            yield
            return
        # Beside the artifact it would stay there for good.
        made = cache / f".{sha256(os.fsencode(output.resolve())).hexdigest()[:12]}.lock"
        with claimed(made, f"another run is to make {output}: wait for it, or choose another --output"):
            yield

"""The command line of every recipe: what reaches `run`, and how each way to end becomes a line and a status."""

import errno
import gc
import logging
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from flashranker import ArtifactError
from tqdm import tqdm

from export.artifact import GateError
from export.to_onnx import ExportError
from recipes.command import launch, plain, setting
from training.data import InputError


@dataclass(frozen=True)
class OneConfig:
    """Settings."""

    count: int = setting(3, "how many things")
    folder: Path = setting(Path("here"), "where things are")


@dataclass(frozen=True)
class OtherConfig:
    """More settings."""

    names: list[str] = setting(None, "what things are called", nargs="+")


def test_settings_positional_arguments_and_the_command_reach_the_recipe() -> None:
    got: list[Any] = []
    status = launch(
        "made", "Doc.", lambda *given: got.extend(given), [OneConfig, OtherConfig],
        ["a", "b", "--count", "5", "--names", "x", "y: "], positional={"models": {"nargs": "+"}},
    )  # fmt: skip
    assert status == 0
    assert got == [
        OneConfig(5), OtherConfig(["x", "y: "]), ["a", "b"], "python -m recipes.made a b --count 5 --names x 'y: '"
    ]  # fmt: skip
    assert plain(got[0], got[1]) == {"count": 5, "folder": "here", "names": ["x", "y: "]}


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("bad data"), 2, "error: bad data"),
        (ArtifactError("bad folder"), 2, "error: bad folder"),
        (GateError("too large"), 1, "refused: too large"),
        (ExportError("no such graph"), 1, "refused: no such graph"),
        (OSError(errno.ENOSPC, "No space left", "/full/file"), 2, "error: No space left: /full/file: free space"),
        (OSError("torn cable"), 2, "error: torn cable: the disk: free space"),
        (PermissionError(errno.EACCES, "Denied", "corpus.jsonl"), 2, "error: Denied: corpus.jsonl: correct the path"),
    ],
)
def test_every_way_to_end_is_one_line_and_a_status(
    error: Exception, status: int, line: str, capsys: pytest.CaptureFixture
) -> None:
    def run(*_: Any) -> None:
        raise error

    assert launch("made", "Doc.", run, [OneConfig], []) == status
    found = capsys.readouterr().err
    assert found.startswith(line)
    assert found.count("\n") == 1


def test_a_warning_does_not_tear_a_progress_bar(capsys: pytest.CaptureFixture) -> None:
    talkative, loud = logging.getLogger("talkative"), logging.getLogger("loud")
    talkative.setLevel(logging.DEBUG)  # as bm25s is
    loud.addHandler(logging.NullHandler())  # as datasets has one

    def run(*_: Any) -> None:
        for _ in tqdm(range(2), file=sys.stderr, mininterval=0):
            logging.getLogger("made").warning("something was cut")
            talkative.debug("building")
            loud.warning("said already")

    assert launch("made", "Doc.", run, [OneConfig], []) == 0
    lines = capsys.readouterr().err.replace("\r", "\n").split("\n")
    assert [line for line in lines if line and "|" not in line and line.strip()] == ["something was cut"] * 2


def test_an_interrupt_is_a_line_that_says_what_goes_on(capsys: pytest.CaptureFixture) -> None:
    @dataclass(frozen=True)
    class CachedConfig:
        """Settings."""

        cache: Path = setting(Path("cache"), "folder")

    def run(*_: Any) -> None:
        raise KeyboardInterrupt

    assert launch("made", "Doc.", run, [OneConfig], []) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"
    assert launch("made", "Doc.", run, [OneConfig, CachedConfig], []) == 130
    assert capsys.readouterr().err == "\ninterrupted; the same command goes on from what is in --cache\n"


def test_garbage_is_collected_while_a_recipe_runs() -> None:
    collected = []
    gc.disable()  # as the package is while its libraries load
    try:
        launch("made", "Doc.", lambda *_: collected.append(gc.isenabled()), [OneConfig], [])
    finally:
        gc.enable()
    assert collected == [True]


def test_an_interrupt_while_libraries_load_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)", encoding="utf-8")
    places = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        [sys.executable, "-m", "recipes.distill"],
        env=os.environ | {"PYTHONPATH": places},
        capture_output=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, b"", b"")


@pytest.mark.parametrize("option", ["--cuont", "--cou"])
def test_an_unknown_option_is_named_and_nothing_runs(option: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        launch("made", "Doc.", lambda *_: pytest.fail("it ran"), [OneConfig], [option, "4"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        "usage: python -m recipes.made [--OPTION VALUE ...]",
        f"python -m recipes.made: error: unrecognized arguments: {option} 4",
    ]


def test_usage_says_how_many_of_each(capsys: pytest.CaptureFixture) -> None:
    taken: dict[str, dict[str, Any]] = {
        "model": {}, "paths": {"nargs": "+", "metavar": "PATH"}, "word": {"nargs": "?"}, "--json": {}
    }  # fmt: skip
    with pytest.raises(SystemExit):
        launch("made", "Doc.", print, [OneConfig], ["--help"], positional=taken)
    shown = capsys.readouterr().out
    assert shown.startswith("usage: python -m recipes.made model PATH [PATH ...] [word] [--OPTION VALUE ...]\n")


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    code = "from recipes.command import launch, say; " + (
        "raise SystemExit(launch('made', '', lambda *_: [say(str(i)) for i in range(99999)] and None, [], []))"
    )
    command = f'{sys.executable} -c "{code}" | head -n 1; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("0\n0\n", "")


@dataclass(frozen=True)
class ListConfig:
    """Several of a kind."""

    sources: list[str] = field(default_factory=lambda: ["here", "and there"], metadata={"help": "what to read"})


def test_help_keeps_examples_on_their_lines_and_gives_defaults(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        launch(
            "made",
            "Make.\n\nrecipes.made --count 1\nrecipes.made --count 2",
            print,
            [OneConfig, ListConfig],
            ["--help"],
        )
    shown = capsys.readouterr().out
    assert "\nrecipes.made --count 1\nrecipes.made --count 2\n" in shown
    assert "how many things (default: 3)" in shown
    assert "what to read (default: here 'and there')" in shown

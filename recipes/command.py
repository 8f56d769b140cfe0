"""What every recipe's command line does: settings from options, errors as one line, an exit status."""

import argparse
import errno
import gc
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, field, fields
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TextIO

import flashranker
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import HfArgumentParser

from export.artifact import GateError
from export.to_onnx import ExportError
from training.data import InputError, encodable
from training.processes import is_first

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def say(text: str, file: TextIO | None = None) -> None:
    """Print a line, at once even into a pipe, to standard output or `file`; of several processes the first one does."""
    if is_first():
        print(text, file=file, flush=True)


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """--help with the examples on their own lines, and the default of each option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if isinstance(action.default, list):
            return f"{action.help} (default: {shlex.join(map(str, action.default))})"
        return action.help if action.default is None else super()._get_help_string(action)


def setting(default: Any, explanation: str, **extra: Any) -> Any:
    """A dataclass field with the text that --help shows."""
    return field(default=default, metadata={"help": explanation} | extra)


def plain(*configs: Any) -> dict[str, Any]:
    """The settings as plain JSON values."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for config in configs
        for name, value in asdict(config).items()
    }


def make_folder(folder: Path, option: str) -> None:
    """Make the folder that an option leads to, before work is done for it.

    Raises InputError where nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{option}: {folder} can't be written ({error.strerror}): choose another folder") from None


def take_over() -> None:
    """Collect garbage, but not what was loaded, and let interrupts raise, which this package puts off: see there."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def launch(
    recipe: str,
    explanation: str | None,
    run: Callable[..., None],
    kinds: Sequence[type],
    argv: Sequence[str] | None,
    *,
    usage: str | None = None,
    positional: Mapping[str, Mapping[str, Any]] | None = None,
) -> int:
    """Call `run` with a dataclass of each kind, the positional arguments and the command; return the exit status.

    0 when it went through, 1 when a gate or the export refused the result, 2 for bad input (argparse exits with 2 too)
    or a disk that is full or out of reach, 130 when the user interrupted it. `positional`: name -> what argparse's
    `add_argument` takes.
    """
    take_over()
    name = f"python -m recipes.{recipe}"
    arguments = list(sys.argv[1:] if argv is None else argv)
    for argument in arguments:
        if encodable(argument) != argument:  # no manifest could hold it
            print(f"error: the argument {argument!r} is not UTF-8: rename that file or folder", file=sys.stderr)
            return 2
    configs = read_settings(name, explanation, kinds, arguments, usage, positional or {})
    try:
        with logging_redirect_tqdm():  # a warning goes above a progress bar and not into it
            shown = logging.root.handlers[-1]
            shown.setLevel(logging.WARNING)
            # Some libraries print what they log themselves.
            shown.addFilter(lambda record: not logging.getLogger(record.name.split(".")[0]).handlers)
            run(*configs, f"{name} {shlex.join(arguments)}".strip())
    except (InputError, flashranker.FlashRankerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        full = error.errno in FULL or error.filename is None
        remedy = "free space or pass another --cache or --output" if full else "correct the path, or its rights"
        print(f"error: {error.strerror or error}: {error.filename or 'the disk'}: {remedy}", file=sys.stderr)
        return 2
    except (GateError, ExportError) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        kept = any(field.name == "cache" for kind in kinds for field in fields(kind))
        # On a line of its own, below a progress bar and the terminal's ^C.
        print("\ninterrupted" + "; the same command goes on from what is in --cache" * kept, file=sys.stderr)
        return 128 + signal.SIGINT  # as shells report it
    return 0


def read_settings(
    name: str,
    explanation: str | None,
    kinds: Sequence[type],
    arguments: Sequence[str],
    usage: str | None,
    positional: Mapping[str, Mapping[str, Any]],
) -> list[Any]:
    """A dataclass of each kind, and then the positional arguments; argparse ends the process where they are none."""
    # All options, as argparse lists them, would hide an error behind fifty lines.
    taken = [
        {"?": "[{0}]", "+": "{0} [{0} ...]"}.get(settings.get("nargs", ""), "{0}").format(settings.get("metavar", one))
        for one, settings in positional.items()
        if one[0] != "-"
    ]
    shapes: Any = kinds
    parser: Any = HfArgumentParser(
        shapes,
        prog=name,
        usage=usage or " ".join(["%(prog)s", *taken, "[--OPTION VALUE ...]"]),
        description=explanation,
        formatter_class=HelpFormatter,
        allow_abbrev=False,  # each option has two spellings, which would both be offered for a shortened one
    )
    for argument, settings in positional.items():
        parser.add_argument(argument, **settings)
    *configs, unknown = parser.parse_args_into_dataclasses(
        arguments, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return [*configs[:-1], *vars(configs[-1]).values()] if positional else configs

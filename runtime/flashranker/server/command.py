"""`flashranker serve`: models and limits from the command line to a listening server, until it is told to stop."""

import argparse
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from flashranker.cascade import Cascade
from flashranker.errors import InputError
from flashranker.framework import not_installed
from flashranker.inputs import check_count
from flashranker.server.models import Ranker, open_models
from flashranker.server.options import KEYS_VARIABLE
from flashranker.threads import available_threads

try:
    import uvicorn

    from flashranker.server.app import Limits, make_app
except ImportError as error:
    raise not_installed("server", error) from error

SHORTEST_KEY = 16  # characters: what is shorter can be guessed


def serve(arguments: argparse.Namespace, open_model: Callable[[str], Ranker]) -> None:
    """Serve until SIGINT or SIGTERM; requests that were let in are finished first.

    Raises InputError for a setting that can't be, what opening a model raises, and OSError for an address in use.
    """
    limits, keys = read_limits(arguments), read_keys(arguments.api_keys)
    models = open_models(arguments.models, open_model)
    if arguments.keep is not None and not any(isinstance(one, Cascade) for one in models.values()):
        raise InputError(f"--keep {arguments.keep} without a cascade MODEL,MODEL: leave it out")
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("flashranker.server").setLevel(logging.INFO)
    with listen(arguments.host, arguments.port) as listener:
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        address = f"http://{host}:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            make_app(models, limits, keys), log_config=None, access_log=False, server_header=False, proxy_headers=False,
            timeout_graceful_shutdown=math.ceil(limits.seconds) + 1,
        )  # fmt: skip
        server = uvicorn.Server(config)

        def stop(*_: object) -> None:
            server.should_exit = True

        # Until uvicorn has its own, and after: it raises the signal again once all is finished, and to have been asked
        # to stop is no failure.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        print(f"{', '.join(models)} at {address}; Ctrl-C stops it", flush=True)
        open_to_others = not keys and arguments.host not in ("127.0.0.1", "localhost", "::1")
        if open_to_others and sys.stderr is not None:
            print(f"warning: {arguments.host} may be open to others, and no API key is asked for", file=sys.stderr)
        server.run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address. Raises InputError for a port that is none, OSError for one that is in use."""
    check_count(port, "--port", 0, 65535)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, TypeError, UnicodeError) as error:  # the latter two for a name that none can have
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"can't listen on {host}:{port} ({reason}): pass another --host or --port") from error


def read_limits(arguments: argparse.Namespace) -> Limits:
    """The limits of the command line. Raises InputError naming the option at fault."""
    threads = arguments.threads or available_threads()
    running = 2 * threads if arguments.concurrent is None else check_count(arguments.concurrent, "--concurrent", 1)
    if not 0 < arguments.timeout < math.inf:
        raise InputError(f"--timeout is {arguments.timeout:g}, expected seconds above 0: how long a request may take")
    return Limits(
        running,
        check_count(arguments.queue, "--queue", 0),
        check_count(arguments.max_passages, "--max-passages", 1),
        check_count(arguments.max_body, "--max-body", 1),
        arguments.timeout,
    )


def read_keys(file: str | None) -> list[str]:
    """The keys of a file, one a line, or of the environment, between commas; none where neither is given.

    Raises InputError for a key of less than 16 characters, one that no header can carry, or a file without any.
    """
    if file is None:
        given = os.environ.get(KEYS_VARIABLE, "")
        keys, where = [key.strip() for key in given.split(",") if key.strip()], f"${KEYS_VARIABLE}"
    else:
        try:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise InputError(f"--api-keys {file} is not UTF-8, expected a key a line") from None
        given = file
        keys, where = [line.strip() for line in lines if line.strip()], f"--api-keys {file}"
    if given and not keys:
        raise InputError(f"{where} holds no key, expected one or more: leave it out to ask for none")
    for number, key in enumerate(keys, start=1):
        # Never the key itself: this line ends in a log.
        if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
            raise InputError(
                f"{where}: key {number} of {len(keys)} is not {SHORTEST_KEY} or more printable ASCII characters, "
                "no space among them: make one with `openssl rand -hex 32`"
            )
    return keys

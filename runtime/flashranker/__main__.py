"""`python -m flashranker`, and the command `flashranker`: the command line."""

import signal
import sys


def main() -> int:
    """Run the command line; an interrupt ends the process at once, with no word of what it was loading.

    Nothing needs to be put in order then: answers are written as they are given. `serve` has a handler of its own.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from flashranker.cli import main as run  # here, and not above: an interrupt of that is meant too

    return run()


if __name__ == "__main__":
    sys.exit(main())

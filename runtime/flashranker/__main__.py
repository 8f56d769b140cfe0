"""`python -m flashranker`, and the command `flashranker`: the command line."""

import signal
import sys


def main() -> int:
    """Load the command line and run it; an interrupt while libraries load ends the process without their traceback."""
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from flashranker.cli import main as run

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return run()


if __name__ == "__main__":
    sys.exit(main())

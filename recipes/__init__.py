"""What is built, measured and served, each by a command of its own: `python -m recipes.NAME --help`."""

import signal
import sys

# While `python -m` still loads libraries an interrupt ends it without their traceback; `command.launch` takes over.
if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

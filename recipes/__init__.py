"""What is built, measured and served, each by a command of its own: `python -m recipes.NAME --help`."""

import gc
import signal
import sys

# While `python -m` still loads libraries; `command.take_over` ends it.
if sys.argv[0] == "-m":
    gc.disable()  # what they make is there to stay: to look for waste in it takes a third of the time
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interrupt ends it without their traceback

"""`python -m flashranker`: the command line."""

import sys

from flashranker.cli import main

sys.exit(main())

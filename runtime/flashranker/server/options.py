"""The options of `flashranker serve`; nothing of its extra is imported here."""

import argparse

KEYS_VARIABLE = "FLASHRANKER_API_KEYS"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what concerns the server; the models' own options are those of `flashranker rerank`."""
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine only)"
    )
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    parser.add_argument(
        "--api-keys", metavar="FILE",
        help="file of keys of 16 characters or more, one a line; clients send one as a bearer token "
        f"(default: ${KEYS_VARIABLE}, with commas)",
    )  # fmt: skip
    parser.add_argument("--concurrent", type=int, help="requests ranked at once (default: twice the threads)")
    parser.add_argument(
        "--queue", type=int, default=64, help="requests that may wait; more get status 429 (default: %(default)s)"
    )
    parser.add_argument(
        "--timeout", type=float, default=30.0,
        help="seconds for a request, waiting included; then it gets status 503 (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--max-passages",
        type=int,
        default=1000,
        help="passages of a request; more get status 413 (default: %(default)s)",
    )
    parser.add_argument(
        "--max-body", type=int, default=10_000_000, metavar="BYTES",
        help="of a request; larger ones get status 413 (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--cache", metavar="FILE", help="keep scores in this file, and look them up (default: nowhere)")

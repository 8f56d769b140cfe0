"""Rerank passages for a query with an artifact folder, on a CPU."""

import logging
import math
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flashranker.artifact import MODEL_FOLDER, SHORTEST_LENGTH, TOKENIZER_NAME
from flashranker.cache import Recent, ScoreCache, score_key
from flashranker.errors import InputError
from flashranker.guard import Guard
from flashranker.inputs import Request, check_count, check_request, check_requests
from flashranker.loading import load_folder
from flashranker.pairs import frame_query, framed, windows
from flashranker.pool import Pool, until
from flashranker.threads import available_threads
from flashranker.words import passage_reader

LONG = ("cut", "maxp")
Scores = tuple[np.ndarray, np.ndarray]  # logits float32 (n,), and which passages were cut, bool (n,)

_TOKENS_KEPT = 32_000_000  # bytes of token ids of passages seen before

_logger = logging.getLogger("flashranker")


@dataclass(frozen=True)
class Hit:
    """One ranked passage."""

    index: int  # its position in the passages given
    score: float  # calibrated probability of relevance, 0 to 1
    logit: float  # the model's raw output
    passage: Any  # the very object given
    truncated: bool  # True if the passage was longer than the model reads, and its end was not seen


class Reranker:
    """A reranker, loaded from an artifact folder after checking its hashes. Safe to use from many threads.

    Each pair runs alone and unpadded, so its logit is the same, bit for bit, whatever else is ranked with
    it, in which order and on how many threads. Memory follows the tokens in flight (`threads` pairs), not
    the passages.

    Args:
        model: the folder.
        threads: how many pairs run side by side, in all calls together; by default the cores that this process may
            use (CPU affinity and cgroup quota).
        max_length: tokens of query and passage together; may be set below the artifact's own to save time.
        long: what becomes of a passage that is longer: "cut" reads its beginning; "maxp" reads windows that overlap
            by a quarter, and the best one counts (MaxP; Dai and Callan, SIGIR 2019), for as many times the work.
        cache: where scores are kept and looked up; by default nowhere.
        foreign: whether the folder is another tool's (FlashRank's, or an ONNX export of sentence-transformers), which
            has no manifest: nothing can be verified then, and a score is the sigmoid of the logit.

    Raises ModelNotFoundError, ArtifactError (FormatError for another format version) or InputError.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        threads: int | None = None,
        max_length: int | None = None,
        long: str = "cut",
        cache: ScoreCache | None = None,
        foreign: bool = False,
    ) -> None:
        if not isinstance(model, (str, os.PathLike)) or not isinstance(os.fspath(model), str) or not os.fspath(model):
            raise InputError(f"model is {model!r}, expected the path of an artifact folder: pass a string or Path")
        if long not in LONG:
            raise InputError(f"long is {long!r}, expected one of {', '.join(LONG)}: what to do with long passages")
        if cache is not None and not isinstance(cache, ScoreCache):
            raise InputError(f"cache is {cache!r}, expected a ScoreCache: pass ScoreCache(path)")
        self.threads = available_threads() if threads is None else check_count(threads, "threads", 1)
        loaded = load_folder(Path(model), foreign)
        self.manifest = loaded.manifest
        self._tokenizer, self._logit = loaded.tokenizer, loaded.logit
        self._read = passage_reader(loaded.tokenizer)
        longest = self.manifest.max_length
        self._max_length = (
            longest if max_length is None else check_count(max_length, "max_length", SHORTEST_LENGTH, longest)
        )
        self._long = long
        self.truncated_passages = 0  # passages cut so far, in all calls together
        self._cache = cache
        # All that decides a logit; what was computed with other weights or settings has another key.
        parts = sorted(n for n in self.manifest.files if n == TOKENIZER_NAME or n.startswith(MODEL_FOLDER))
        files = (self.manifest.files[name].sha256 for name in parts)
        self._key = " ".join([*files, str(self.max_length), long, loaded.engine]).encode()
        self._tokens: Recent[str, np.ndarray] = Recent(_TOKENS_KEPT)
        self._lock = Guard()
        self._pool = Pool(self.threads)
        self._run([check_request("a", ["a"])])  # a model of another output shape fails here, not in a search

    @classmethod
    def from_hub(
        cls,
        repository: str,
        *,
        revision: str | None = None,
        hub_cache: str | os.PathLike[str] | None = None,
        offline: bool = False,
        **settings: Any,
    ) -> "Reranker":
        """Load an artifact from the Hugging Face hub, `owner/name`; needs the extra `hub`.

        `revision` is a branch, tag or commit. Files are downloaded into the hub's cache, or `hub_cache`, once; with
        `offline`, or where the hub can't be reached, what lies there is loaded. The hashes are checked as of any
        folder. `settings` are those of the class. Raises ImportError too, and what the class does.
        """
        from flashranker.hub import download  # here, and not above: few callers need it

        return cls(download(repository, revision, hub_cache, offline), **settings)

    @property
    def max_length(self) -> int:
        """Tokens of query and passage together, special tokens included, that the model reads."""
        return self._max_length

    @property
    def long(self) -> str:
        """What happens to passages that are longer: "cut" or "maxp"."""
        return self._long

    def check_query(self, query: str) -> None:
        """Raise InputError for a query that `rerank` would refuse, with nothing run."""
        frame_query(self._tokenizer, check_request(query, []).query, self.max_length)

    def count_tokens(self, query: str, passages: Iterable[Any], stop: threading.Event | None = None) -> np.ndarray:
        """Tokens, int64 (n,), of the query with each passage, special tokens included, before any cut.

        Raises pool.Stopped before the next passage once `stop` is set.
        """
        request = check_request(query, passages)
        frame = frame_query(self._tokenizer, request.query, self.max_length)
        around = self.max_length - frame.room
        return np.array([around + len(self._passage_ids(text)) for text in until(stop, request.texts)], np.int64)

    def rerank(self, query: str, passages: Iterable[Any], top_n: int | None = None) -> list[Hit]:
        """Return the `top_n` (default: all) best passages, best first; equal logits keep the order given.

        `passages` are strings or mappings with a "text"; an empty text is scored like any other. Lone
        surrogates are read as U+FFFD. Raises InputError, before anything runs, for anything else, an empty
        query, or a query that leaves less than a quarter of `max_length` to the passage.
        """
        return self._rerank([check_request(query, passages)], top_n)[0]

    async def arerank(self, query: str, passages: Iterable[Any], top_n: int | None = None) -> list[Hit]:
        """`rerank` for asyncio: the event loop goes on meanwhile.

        Cancelled, it drops what has not begun, so that `threads` pairs at most are still computed in vain.
        """
        import asyncio  # here, and not above: it takes as long to import as all of this package

        requests = [check_request(query, passages)]
        stop = threading.Event()
        work = asyncio.get_running_loop().run_in_executor(None, self._rerank, requests, top_n, stop)
        try:
            return (await work)[0]
        finally:
            stop.set()

    def rerank_many(self, requests: Iterable[tuple[str, Iterable[Any]]], top_n: int | None = None) -> list[list[Hit]]:
        """Rerank several (query, passages), as `rerank` does each, with all threads busy across them."""
        return self._rerank(check_requests(requests), top_n)

    def score(self, query: str, passages: Iterable[Any]) -> np.ndarray:
        """Return the raw logits, float32 (n,), in the order given. Inputs and errors: see `rerank`."""
        (scored,) = self._score([check_request(query, passages)])
        return scored[0]

    def _rerank(
        self, requests: list[Request], top_n: int | None, stop: threading.Event | None = None
    ) -> list[list[Hit]]:
        count = None if top_n is None else check_count(top_n, "top_n", 1)
        scored = self._score(requests, stop)
        results = []
        for request, (logits, cut) in zip(requests, scored, strict=True):
            best = np.argsort(-logits, kind="stable")[:count]
            results.append([self._hit(int(i), float(logits[i]), request.passages[i], bool(cut[i])) for i in best])
        return results

    def _hit(self, index: int, logit: float, passage: Any, truncated: bool) -> Hit:
        calibration = self.manifest.calibration
        return Hit(index, sigmoid(calibration.a * logit + calibration.b), logit, passage, truncated)

    def _score(self, requests: list[Request], stop: threading.Event | None = None) -> list[Scores]:
        """Return for each request its logits, float32 (n,), and which passages were cut, bool (n,)."""
        scores = self._run(requests, stop) if self._cache is None else self._look_up(requests, self._cache, stop)
        self._report(sum(int(cut.sum()) for _, cut in scores), sum(len(cut) for _, cut in scores))
        return scores

    def _look_up(self, requests: list[Request], cache: ScoreCache, stop: threading.Event | None) -> list[Scores]:
        """As `_run`, but each pair that the cache knows is not run, and one that comes twice is run once."""
        keys = [[score_key(self._key, request.query, text) for text in request.texts] for request in requests]
        known = cache.get([key for row in keys for key in row])
        missing = [
            {key: text for key, text in zip(row, request.texts, strict=True) if key not in known}
            for row, request in zip(keys, requests, strict=True)
        ]
        new = [
            Request(request.query, [], list(texts.values())) for request, texts in zip(requests, missing, strict=True)
        ]
        computed: dict[bytes, tuple[float, bool]] = {}
        for texts, (logits, cut) in zip(missing, self._run(new, stop), strict=True):
            computed.update(zip(texts, zip(logits.tolist(), cut.tolist(), strict=True), strict=True))
        cache.put(computed)
        known |= computed
        return [
            (np.array([known[key][0] for key in row], np.float32), np.array([known[key][1] for key in row], bool))
            for row in keys
        ]

    def _run(self, requests: list[Request], stop: threading.Event | None = None) -> list[Scores]:
        """Run the model on every pair: as `_score`."""
        frames = [frame_query(self._tokenizer, request.query, self.max_length) for request in requests]
        logits = [np.empty(len(request.texts), dtype=np.float32) for request in requests]
        cut = [np.zeros(len(request.texts), dtype=bool) for request in requests]

        def run(job: tuple[int, int]) -> None:
            i, j = job
            frame, ids = frames[i], self._passage_ids(requests[i].texts[j])
            if self.long == "maxp":
                logits[i][j] = max(self._logit(framed(frame, part)) for part in until(stop, windows(ids, frame.room)))
            else:
                cut[i][j] = len(ids) > frame.room
                logits[i][j] = self._logit(framed(frame, ids[: frame.room]))

        jobs = [(i, j) for i, request in enumerate(requests) for j in range(len(request.texts))]
        # The longest first, so that no thread is left with a long one at the end while the others wait.
        jobs.sort(key=lambda job: len(requests[job[0]].texts[job[1]]), reverse=True)
        self._pool.run_all(run, jobs, stop)
        return list(zip(logits, cut, strict=True))

    def _passage_ids(self, text: str) -> np.ndarray:
        ids = self._tokens.get(text)
        if ids is None:
            ids = self._read(text)
            # In bytes, roughly: a character is one to four.
            self._tokens.put(text, ids, 300 + 2 * len(text) + ids.nbytes)
        return ids

    def _report(self, truncated: int, passages: int) -> None:
        with self._lock:
            first = truncated > 0 and self.truncated_passages == 0
            self.truncated_passages += truncated
        if first:
            _logger.warning(
                "%d of %d passages were cut to fit max_length %d: see Hit.truncated (not logged again)",
                truncated, passages, self.max_length,
            )  # fmt: skip


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), for any x."""
    # exp of a large positive number would overflow: each branch takes the small one.
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))

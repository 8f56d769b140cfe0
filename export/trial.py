"""How well a candidate graph ranks: Kendall tau and noise against the fp32 graph, one pair at a time."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from export import int8_graph
from export.verify import mean_kendall

OBSERVED_PAIRS = 128  # more hardly change the second moments, and cost time


@dataclass(frozen=True)
class Trial:
    """The pairs that a candidate graph is judged by: fp32's logits, and which pairs belong to one query."""

    pairs: list[dict[str, np.ndarray]]
    queries: list[np.ndarray]  # indices into `pairs`, one array a query
    logits: np.ndarray  # float32 (pairs,)

    def measure(self, model: onnx.ModelProto) -> dict[str, float]:
        """Kendall tau, noise, largest error and bytes of a candidate."""
        found = int8_graph.run_pairs(model, self.pairs)
        tau, _ = mean_kendall([self.logits[rows] for rows in self.queries], [found[rows] for rows in self.queries])
        largest_error = float(np.abs(found - self.logits).max() / np.abs(self.logits).max())
        return {
            "tau": tau,
            "noise": self.noise(found),
            "largest_error": largest_error,
            "bytes": model.ByteSize(),
        }

    def noise(self, found: np.ndarray) -> float:
        """Standard deviation of the error within queries as a share of the logits' own."""
        error = np.mean([(found - self.logits)[rows].var() for rows in self.queries])
        return float(np.sqrt(error / max(np.mean([self.logits[rows].var() for rows in self.queries]), 1e-12)))

    def few(self, queries: int, pairs: int) -> "Trial":
        """So many queries, or all, and so many pairs of each, or all; evenly spread. Single pairs tell nothing."""
        told = [rows for rows in self.queries if len(rows) > 1] or self.queries
        kept = [rows[spaced(len(rows), pairs)] for rows in (told[i] for i in spaced(len(told), queries))]
        chosen = np.concatenate(kept)
        groups = np.split(np.arange(len(chosen)), np.cumsum([len(rows) for rows in kept])[:-1])
        return Trial([self.pairs[index] for index in chosen], groups, self.logits[chosen])


def split(
    model: onnx.ModelProto, calibration: Sequence[dict[str, np.ndarray]], query_ids: Sequence[str]
) -> tuple[list[dict[str, np.ndarray]], Trial]:
    """Pairs to calibrate on, from every other query, and the trial made of the rest (or all, if one)."""
    rows: dict[str, list[int]] = defaultdict(list)
    for index, query_id in enumerate(query_ids):
        rows[query_id].append(index)
    queries = list(rows.values())
    observed = [index for query in queries[::2] for index in query]
    observed = observed[:: -(-len(observed) // OBSERVED_PAIRS)]
    judged = queries[1::2] or queries
    pairs = [calibration[index] for query in judged for index in query]
    ends = np.cumsum([len(query) for query in judged])
    groups = [np.arange(end - len(query), end) for query, end in zip(judged, ends, strict=True)]
    return [calibration[index] for index in observed], Trial(pairs, groups, int8_graph.run_pairs(model, pairs))


def spaced(length: int, count: int) -> np.ndarray:
    """`count` different indices below `length`, or all of them, evenly spread from the first to the last."""
    return np.linspace(0, length - 1, min(length, count)).round().astype(int)

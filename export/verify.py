"""The gates an artifact must pass, as plain values: what was measured, what is allowed, whether it holds."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.stats import kendalltau

FP32_LIMIT = 1e-4  # largest logit difference, fp32 ONNX against PyTorch
KENDALL_LIMIT = 0.98  # mean over queries, int8 against PyTorch
NDCG_LIMIT = 0.003  # absolute difference of nDCG@10, int8 against PyTorch
MEGABYTE = 10**6


@dataclass(frozen=True)
class Gate:
    """One condition of an artifact: `value` was measured and `limit` is what it may be at most or at
    least."""

    name: str
    value: float
    limit: float
    passed: bool
    unit: str
    message: str


class Scorer(Protocol):
    """What the batch-independence gate needs of `flashranker.Reranker`."""

    def score(self, query: str, passages: Sequence[str]) -> np.ndarray:
        """Logits float32 (passages,), in input order."""
        ...


def fp32_parity_gate(torch_logits: np.ndarray, fp32_logits: np.ndarray) -> Gate:
    """The exported fp32 graph computes what PyTorch does: largest absolute logit difference <= 1e-4.

    Args:
        torch_logits, fp32_logits: float (pairs,), the same pairs in the same order.

    Raises:
        ValueError: shapes differ, or there is no pair.
    """
    check_shapes(torch_logits, fp32_logits)
    difference = float(np.abs(np.subtract(torch_logits, fp32_logits, dtype=np.float64)).max())
    return at_most("fp32 parity", difference, FP32_LIMIT, "logit", f"over {len(torch_logits)} pairs")


def kendall_gate(torch_logits: Sequence[np.ndarray], int8_logits: Sequence[np.ndarray]) -> Gate:
    """The int8 model ranks as PyTorch does: Kendall's tau-b, averaged over queries, >= 0.98.

    Args:
        torch_logits, int8_logits: one float (candidates,) a query; queries of fewer than two candidates are
        skipped.

    Raises:
        ValueError: shapes differ, or no query has two candidates.
    """
    tau, queries = mean_kendall(torch_logits, int8_logits)
    return at_least("int8 Kendall tau", tau, KENDALL_LIMIT, "tau-b", f"mean over {queries} queries")


def mean_kendall(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> tuple[float, int]:
    """Mean tau-b over the queries of two candidates or more, and how many those are.

    Where a side gives all candidates one score, tau is undefined: 1 if both do (nothing to rank), 0 if one
    does.

    Raises:
        ValueError: shapes differ, or no query has two candidates.
    """
    if len(expected) != len(found):
        raise ValueError(f"{len(expected)} and {len(found)} queries: expected the same ones on both sides")
    values = []
    for one, other in zip(expected, found, strict=True):
        check_shapes(one, other)
        if len(one) >= 2:
            constant = [len(np.unique(side)) == 1 for side in (one, other)]
            values.append(float(all(constant)) if any(constant) else float(kendalltau(one, other).statistic))
    if not values:
        raise ValueError("no query has two candidates: Kendall's tau needs some; give longer candidate lists")
    return float(np.mean(values)), len(values)


def ndcg_gate(ndcg_torch: float, ndcg_int8: float) -> Gate:
    """Quantization leaves quality alone: |nDCG@10 of int8 - nDCG@10 of PyTorch| <= 0.003."""
    detail = f"PyTorch {ndcg_torch:.4f}, int8 {ndcg_int8:.4f}"
    return at_most("int8 nDCG@10", abs(ndcg_int8 - ndcg_torch), NDCG_LIMIT, "nDCG@10", detail)


def size_gate(size: int, limit_megabytes: float) -> Gate:
    """The model file stays under its tier's limit; `size` in bytes, a megabyte is 10^6 of them."""
    return at_most("size", size / MEGABYTE, limit_megabytes, "MB", f"{size} bytes")


def batch_independence_gate(reranker: Scorer, query: str, passages: Sequence[str]) -> Gate:
    """A passage's logit is the same bits alone, in company, in reverse order and from many threads at once.

    Args:
        reranker: the artifact, opened by the shipped runtime.
        passages: some of different lengths, at least two.

    Raises:
        ValueError: fewer than two passages.
    """
    if len(passages) < 2:
        raise ValueError(f"{len(passages)} passages: batch independence needs two or more")
    together = bits(reranker.score(query, list(passages)))
    alone = [bits(reranker.score(query, [passage]))[0] for passage in passages]
    reverse = bits(reranker.score(query, list(passages)[::-1]))[::-1]
    with ThreadPoolExecutor(max_workers=4) as pool:
        threads = [bits(logits) for logits in pool.map(lambda _: reranker.score(query, list(passages)), range(4))]
    differing = sum(int((other != together).sum()) for other in (np.array(alone), reverse, *threads))
    detail = f"{len(passages)} passages alone, together, reversed, in 4 threads"
    return at_most("batch independence", float(differing), 0.0, "logits", detail)


def quality_gate(name: str, difference: float, low: float, high: float) -> Gate:
    """The model is not worse than what it is compared with: mean paired difference >= 0.

    Args:
        name: what is compared, such as "student - first stage, MRR@10".
        difference: mean over queries of the model's metric minus the other's.
        low, high: ends of the paired bootstrap interval of that mean, reported and not judged.
    """
    return at_least(name, difference, 0.0, "", f"95 % interval {low:+.4f} to {high:+.4f}")


def start_gate(start: float, best: float, queries: int) -> Gate:
    """The student is not below its start: MRR@10 of the two on dev.

    The start is one of the checkpoints that dev chooses from, so a loop that works cannot fail this, unless the student
    imitates first, which keeps its last checkpoint. Dev having chosen, an interval would claim too much.
    """
    detail = f"{start:.4f} to {best:.4f} on the {queries} queries that chose the checkpoint, so without an interval"
    return at_least("student - its start, dev MRR@10", best - start, 0.0, "", detail)


def format_gates(gates: Sequence[Gate]) -> str:
    """A table for the terminal, one line a gate."""
    rows = [("gate", "measured", "limit", "", "")]
    for gate in gates:
        value, limit = (f"{number:.6g} {gate.unit}".strip() for number in (gate.value, gate.limit))
        rows.append((gate.name, value, limit, "pass" if gate.passed else "FAIL", gate.message))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def at_most(name: str, value: float, limit: float, unit: str, detail: str) -> Gate:
    """A gate that holds where value <= limit; NaN fails."""
    passed = bool(value <= limit)
    verdict = "within" if passed else f"{value - limit:.6g} {unit}".strip() + " over"
    return Gate(name, value, limit, passed, unit, f"{verdict} the limit; {detail}")


def at_least(name: str, value: float, limit: float, unit: str, detail: str) -> Gate:
    """A gate that holds where value >= limit; NaN fails."""
    passed = bool(value >= limit)
    verdict = "not below" if passed else f"{limit - value:.6g} {unit}".strip() + " below"
    return Gate(name, value, limit, passed, unit, f"{verdict} the limit; {detail}")


def bits(logits: np.ndarray) -> np.ndarray:
    """Float32 (n,) as uint32 (n,), so that equality means the same bits, NaN included."""
    return np.ascontiguousarray(logits, dtype=np.float32).view(np.uint32)


def check_shapes(one: np.ndarray, other: np.ndarray) -> None:
    """Raises ValueError unless both are (n,) of one length above 0."""
    if np.ndim(one) != 1 or np.shape(one) != np.shape(other) or not len(one):
        raise ValueError(f"logits of shapes {np.shape(one)} and {np.shape(other)}: expected two equal (n,), n > 0")

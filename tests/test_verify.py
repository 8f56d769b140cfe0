"""Gates: hand-computed values on both sides of each limit."""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from flashranker import Reranker

from export.verify import (
    batch_independence_gate,
    format_gates,
    fp32_parity_gate,
    kendall_gate,
    ndcg_gate,
    quality_gate,
    size_gate,
    start_gate,
)


def test_fp32_parity_is_the_largest_absolute_difference() -> None:
    torch_logits = np.array([1.0, -2.0, 3.0])
    gate = fp32_parity_gate(torch_logits, np.array([1.0, -2.00009, 3.00002]))
    assert gate.value == pytest.approx(9e-5)
    assert gate.passed
    assert not fp32_parity_gate(torch_logits, np.array([1.0, -2.00011, 3.0])).passed
    assert not fp32_parity_gate(torch_logits, np.array([1.0, np.nan, 3.0])).passed
    with pytest.raises(ValueError, match="shapes"):
        fp32_parity_gate(torch_logits, np.array([1.0]))


def test_kendall_averages_tau_over_queries_of_two_candidates_or_more() -> None:
    torch_logits = [np.array([1.0, 2.0, 3.0]), np.array([5.0]), np.array([1.0, 2.0])]
    # One of three pairs swapped: tau = (2 - 1) / 3; the single candidate does not count; the last is in
    # order.
    gate = kendall_gate(torch_logits, [np.array([2.0, 1.0, 3.0]), np.array([-5.0]), np.array([0.0, 9.0])])
    assert gate.value == pytest.approx((1 / 3 + 1) / 2)
    assert not gate.passed
    assert kendall_gate(torch_logits, [logits * 7 for logits in torch_logits]).passed


def test_kendall_counts_ties_as_tau_b_does() -> None:
    # 1 tie on one side: 5 concordant, 0 discordant of 6 pairs: 5 / sqrt(6 * 5).
    gate = kendall_gate([np.array([1.0, 2.0, 3.0, 4.0])], [np.array([1.0, 2.0, 2.0, 4.0])])
    assert gate.value == pytest.approx(5 / np.sqrt(30))


def test_kendall_of_a_constant_model_is_zero_and_fails() -> None:
    assert kendall_gate([np.array([1.0, 2.0, 3.0])], [np.zeros(3)]).value == 0.0
    assert kendall_gate([np.zeros(3)], [np.zeros(3)]).value == 1.0
    with pytest.raises(ValueError, match="two candidates"):
        kendall_gate([np.array([1.0])], [np.array([1.0])])


def test_ndcg_gate_is_two_sided_and_says_by_how_much() -> None:
    assert ndcg_gate(0.5000, 0.4972).passed
    above = ndcg_gate(0.5, 0.5041)
    assert not above.passed
    assert above.value == pytest.approx(0.0041)
    assert "0.0011 nDCG@10 over" in above.message
    assert not ndcg_gate(0.5, float("nan")).passed


def test_size_counts_decimal_megabytes() -> None:
    assert size_gate(5_000_000, 5).passed
    assert not size_gate(5_000_001, 5).passed
    assert size_gate(5 * 2**20, 6).value == pytest.approx(5.24288)


def test_quality_is_judged_by_the_mean_and_reports_the_interval() -> None:
    assert quality_gate("student - first stage", 0.0, -0.02, 0.02).passed
    below = quality_gate("student - first stage", -0.001, -0.02, 0.018)
    assert not below.passed
    assert "-0.0200 to +0.0180" in below.message
    assert "0.001 below" in below.message


PASSAGES = [
    "river",
    "python list sort",
    "read file, write file, open socket",
    "mountain garden in winter",
    "bread",
]


def test_the_runtime_is_independent_of_the_batch(tiny_artifact: Path) -> None:
    gate = batch_independence_gate(Reranker(tiny_artifact, threads=2), "sort a python list", PASSAGES)
    assert gate.passed
    assert gate.value == 0


class Leaky:
    """A scorer whose logits depend on `leak`: the control that the gate must catch."""

    def __init__(self, leak: str) -> None:
        self.leak, self.lock, self.calls = leak, threading.Lock(), 0

    def score(self, query: str, passages: Sequence[str]) -> np.ndarray:
        logits = np.array([len(passage) for passage in passages], dtype=np.float32)
        with self.lock:
            self.calls += 1
        if self.leak == "company":
            logits = logits * np.float32(1 + 1e-6 * len(passages))
        elif self.leak == "order" and passages[-1] == PASSAGES[0]:
            logits[-1:] *= np.float32(1.001) if len(passages) > 1 else np.float32(1)
        elif self.leak == "threads" and self.calls > len(PASSAGES) + 2:
            logits[-1] += 1  # together, alone and reversed come before
        return logits


@pytest.mark.parametrize("leak", ["company", "order", "threads"])
def test_batch_independence_catches_a_leak(leak: str) -> None:
    assert not batch_independence_gate(Leaky(leak), "query", PASSAGES).passed
    assert batch_independence_gate(Leaky("none"), "query", PASSAGES).passed


def test_the_table_shows_failures_in_their_row() -> None:
    lines = format_gates([size_gate(6_000_000, 5), ndcg_gate(0.5, 0.5)]).splitlines()
    assert lines[1].split()[:6] == ["size", "6", "MB", "5", "MB", "FAIL"]
    assert "1 MB over" in lines[1]
    assert "pass" in lines[2]
    assert lines[1].index("FAIL") == lines[2].index("pass")


def test_the_start_gate_judges_the_difference_and_claims_no_interval() -> None:
    worse = start_gate(0.5, 0.4, 60)
    assert not worse.passed
    assert worse.value == pytest.approx(-0.1)
    equal = start_gate(0.5, 0.5, 60)
    assert equal.passed
    assert "0.5000 to 0.5000" in equal.message
    assert "without an interval" in equal.message

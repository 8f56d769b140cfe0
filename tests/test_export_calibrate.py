"""Calibration: hand values, planted parameters, and data that has no finite maximum likelihood."""

import numpy as np
import pytest
from flashranker.artifact import Calibration
from scipy.optimize import minimize
from scipy.special import expit

from export.calibrate import MIN_SLOPE, brier_score, expected_calibration_error, fit_platt, probabilities


def test_recovers_planted_parameters() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(-3, 4, 50_000)
    labels = generator.random(50_000) < expit(0.7 * logits + 1.3)
    fitted = fit_platt(logits, labels)
    assert fitted.a == pytest.approx(0.7, abs=0.02)
    assert fitted.b == pytest.approx(1.3, abs=0.05)


def test_minimises_the_cross_entropy_of_the_smoothed_targets() -> None:
    generator = np.random.default_rng(1)
    logits, labels = generator.normal(5, 2, 40), generator.random(40) < 0.3
    logits[labels] += 1
    positives = labels.sum()
    targets = np.where(labels, (positives + 1) / (positives + 2), 1 / (40 - positives + 2))

    def loss(parameters: np.ndarray) -> float:
        p = expit(parameters[0] * logits + parameters[1])
        return -float((targets * np.log(p) + (1 - targets) * np.log(1 - p)).sum())

    expected = minimize(
        loss, [0.1, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 9999}
    ).x
    fitted = fit_platt(logits, labels)
    assert [fitted.a, fitted.b] == pytest.approx(list(expected), abs=1e-5)


def test_separable_data_meets_platts_targets() -> None:
    # Two points, one of each kind: the fit passes through both smoothed targets, 2/3 and 1/3.
    fitted = fit_platt(np.array([-1.0, 1.0]), np.array([0, 1]))
    assert probabilities(fitted, np.array([-1.0, 1.0])) == pytest.approx([1 / 3, 2 / 3])
    assert fitted.a == pytest.approx(np.log(2))


def test_far_and_wide_logits_converge() -> None:
    fitted = fit_platt(np.array([1e4, 1e4 + 1, 1e4 + 2, 1e4 + 3]), np.array([0, 1, 0, 1]))
    moved = fit_platt(np.array([0.0, 1, 2, 3]), np.array([0, 1, 0, 1]))
    assert fitted.a == pytest.approx(moved.a)
    assert fitted.b == pytest.approx(moved.b - 1e4 * moved.a)


def test_a_model_worse_than_chance_keeps_its_order_and_gets_the_base_rate() -> None:
    logits, labels = np.array([3.0, 2.0, 1.0, 0.0]), np.array([0, 0, 1, 1])
    fitted = fit_platt(logits, labels)
    assert fitted.a == MIN_SLOPE
    assert probabilities(fitted, logits).mean() == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([1.0, 2.0], [1, 1], "needs both"),
        ([1.0, np.nan], [0, 1], "not finite"),
        ([1.0], [0, 1], "one label for each"),
    ],
)
def test_names_what_is_wrong(logits: list[float], labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_platt(np.array(logits), np.array(labels))


def test_expected_calibration_error_by_hand() -> None:
    # Bin [0.2, 0.3): mean 0.25, one of two relevant: gap +0.25. Bin [0.9, 1]: mean 0.95, one of two: -0.45.
    probability, labels = np.array([0.2, 0.299999, 0.9, 1.0]), np.array([0, 1, 2, 0])
    error = expected_calibration_error(probability, labels)
    assert error == pytest.approx((2 * 0.25 + 2 * 0.45) / 4, abs=1e-5)


def test_brier_by_hand() -> None:
    assert brier_score(np.array([0.8, 0.4]), np.array([1, 0])) == pytest.approx((0.04 + 0.16) / 2)


def test_probabilities_are_the_runtimes_formula() -> None:
    assert probabilities(Calibration(2.0, -1.0), np.array([0.5, 1.5])) == pytest.approx([0.5, 1 / (1 + np.exp(-2))])

"""Logits to probabilities: Platt scaling, and two numbers that say how far to trust them."""

import numpy as np
from flashranker.artifact import Calibration
from scipy.special import expit, log_expit

# The smallest slope: the manifest asks for a > 0, so that probabilities keep the order of the logits.
MIN_SLOPE = 1e-3


def fit_platt(logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """Fits probability = sigmoid(a * logit + b) by maximum likelihood on smoothed targets.

    Platt (1999): a label counts as (n+ + 1) / (n+ + 2) or 1 / (n- + 2) instead of 1 or 0, which keeps
    separable data finite; Newton's method with backtracking after Lin, Lin & Weng (2007). Where a model ranks
    worse than chance the slope stops at MIN_SLOPE and only the offset is fitted.

    Args:
        logits: float (n,), finite.
        labels: (n,), relevant where > 0; both kinds must occur.

    Raises:
        ValueError: lengths differ, a logit is not finite, or all labels are of one kind.
    """
    logits, relevant = check(logits, labels)
    positives, negatives = int(relevant.sum()), int((~relevant).sum())
    if not positives or not negatives:
        raise ValueError(f"{positives} relevant and {negatives} other labels: calibration needs both; give more pairs")
    targets = np.where(relevant, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    # Newton's steps are taken on standardised logits, where both parameters are of one size.
    centre, width = logits.mean(), logits.std() or 1.0
    scaled = (logits - centre) / width
    slope, offset = minimise(scaled, targets, free_slope=True)
    if slope / width < MIN_SLOPE:
        slope, offset = minimise(scaled, targets, free_slope=False, slope=MIN_SLOPE * width)
    return Calibration(a=float(slope / width), b=float(offset - slope * centre / width))


def minimise(x: np.ndarray, targets: np.ndarray, free_slope: bool, slope: float = 0.0) -> tuple[float, float]:
    """Newton with backtracking on the convex cross-entropy of sigmoid(slope * x + offset)."""
    point = np.array([slope, np.log(targets.mean() / (1 - targets.mean())) - slope * x.mean()])
    design = np.stack([x * free_slope, np.ones_like(x)])

    def loss(at: np.ndarray) -> float:
        z = at[0] * x + at[1]
        return float(-(targets * log_expit(z) + (1 - targets) * log_expit(-z)).mean())

    for _ in range(100):
        probability = expit(point[0] * x + point[1])
        gradient = design @ (probability - targets) / len(x)
        if np.abs(gradient).max() < 1e-10:
            break
        curvature = (design * (probability * (1 - probability))) @ design.T / len(x) + 1e-12 * np.eye(2)
        step, size = np.linalg.solve(curvature, -gradient), 1.0
        while loss(point + size * step) > loss(point) + 1e-4 * size * gradient @ step and size > 1e-10:
            size /= 2
        point = point + size * step
    return float(point[0]), float(point[1])


def probabilities(calibration: Calibration, logits: np.ndarray) -> np.ndarray:
    """sigmoid(a * logit + b), float64 (n,)."""
    return expit(calibration.a * np.asarray(logits, dtype=np.float64) + calibration.b)


def expected_calibration_error(probability: np.ndarray, labels: np.ndarray, bins: int = 10) -> float:
    """Mean |share of relevant - mean probability| over equal-width bins, weighed by their counts (0 is best).

    Raises:
        ValueError: lengths differ or a probability is not finite.
    """
    probability, relevant = check(probability, labels)
    index = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = np.bincount(index, weights=relevant - probability, minlength=bins)
    return float(np.abs(gaps).sum() / len(probability))


def brier_score(probability: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared difference of probability and label, 0 (best) to 1 (Brier 1950).

    Raises:
        ValueError: lengths differ or a probability is not finite.
    """
    probability, relevant = check(probability, labels)
    return float(((probability - relevant) ** 2).mean())


def check(values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays (n,): values float64, labels boolean."""
    values, relevant = np.asarray(values, dtype=np.float64), np.asarray(labels) > 0
    if values.ndim != 1 or values.shape != relevant.shape or not len(values):
        raise ValueError(f"shapes {values.shape} and {relevant.shape}: expected one label for each value, at least one")
    if not np.isfinite(values).all():
        raise ValueError(
            f"{int((~np.isfinite(values)).sum())} values are not finite: look for NaN in the model's output"
        )
    return values, relevant

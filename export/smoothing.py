"""Which factor per channel to divide an activation by before it is quantized, found by measuring."""

from collections.abc import Iterator, Sequence

import numpy as np

from export.int8_graph import Inputs
from export.rounding import clipped_scale, nearest

# Strengths tried: SmoothQuant's alpha, and "outliers only", the multiple of the median channel that is left
# alone. BERT's feed-forward inputs hold one token with one channel 20 times the rest, where alpha 0.5 is far
# from enough.
ALPHAS = (0.5, 0.65, 0.8, 0.9)
OUTLIER_MULTIPLES = (1.5, 2.5, 4.0)
# A factor costs one more node: what it saves must be worth it.
LEAST_GAIN = 0.1


def best_factor(inputs: Inputs, weights: Sequence[np.ndarray]) -> tuple[str, np.ndarray | None]:
    """The factor (inputs,) that brings the int8 products closest to the fp32 ones, and its name.

    The error counts both sides: activations rounded to 8 bits with one range per pair, as
    DynamicQuantizeLinear does, and weights rounded per output channel, whose range suffers where an input
    channel is scaled up.

    Args:
        inputs: what was observed of the activation.
        weights: the float32 matrices (inputs, outputs) that it is multiplied with.
    """
    best_name, best, best_error = "none", None, (1 - LEAST_GAIN) * product_error(inputs, weights, None)
    for name, factor in factors(inputs, weights):
        error = product_error(inputs, weights, factor)
        if error < best_error:
            best_name, best, best_error = name, factor, error
    return best_name, best


def factors(inputs: Inputs, weights: Sequence[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Candidates with names: max|x|^alpha / max|w|^(1 - alpha) (Xiao et al. 2023), and outliers only."""
    median = float(np.median(inputs.largest)) or 1.0
    largest = np.maximum(inputs.largest, 0.01 * median)
    reach = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    reach = np.maximum(reach, 1e-5 * (reach.max() or 1.0))
    for alpha in ALPHAS:
        factor = largest**alpha / reach ** (1 - alpha)
        # A common multiple cancels out; a mean of 1 keeps the numbers in a usual range.
        yield f"alpha {alpha}", (factor / np.exp(np.log(factor).mean())).astype(np.float32)
    for multiple in OUTLIER_MULTIPLES:
        yield (
            f"outliers above {multiple} x median",
            np.maximum(1, largest / (multiple * median)).astype(np.float32),
        )


def product_error(inputs: Inputs, weights: Sequence[np.ndarray], factor: np.ndarray | None) -> float:
    """Root of the summed squared error of the sampled products, each weight's relative to its products'
    variance."""
    divisor = np.ones_like(inputs.largest) if factor is None else factor
    rounded = np.concatenate([round_activation(rows / divisor) for rows in inputs.sample])
    exact = np.concatenate(inputs.sample)
    importance = np.diag(inputs.hessian) / divisor**2
    total = 0.0
    for weight in weights:
        scaled = weight * divisor[:, None]
        scale = clipped_scale(scaled, importance, paired=True)
        product = exact @ weight
        error = rounded @ (nearest(scaled, scale, paired=True) * scale) - product
        total += float((error**2).sum() / max(((product - product.mean(axis=0)) ** 2).sum(), 1e-12))
    return total**0.5


def round_activation(rows: np.ndarray) -> np.ndarray:
    """What DynamicQuantizeLinear makes of a pair's activation (tokens, channels): 256 steps from min to
    max."""
    low, high = min(float(rows.min()), 0.0), max(float(rows.max()), 0.0)
    step = (high - low) / 255 or 1.0
    zero = np.rint(-low / step)
    return ((np.clip(np.rint(rows / step) + zero, 0, 255) - zero) * step).astype(np.float32)

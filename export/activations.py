"""How to treat an activation before it is quantized, found by measuring: divide its channels, leave some in fp32."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from export.int8_graph import Inputs
from export.rounding import clipped_scale, nearest

# Strengths tried: SmoothQuant's alpha, and "outliers only", the multiple of the median channel that is left
# alone. BERT's feed-forward inputs hold one token with one channel 20 times the rest, where alpha 0.5 is far
# from enough.
ALPHAS = (0.5, 0.65, 0.8, 0.9)
OUTLIER_MULTIPLES = (1.5, 2.5, 4.0)
# How many of the widest channels to multiply in fp32 instead (LLM.int8(): Dettmers et al., NeurIPS 2022). A handful
# of them sets the range of all others; a multiple of eight fills the kernels' registers.
OUTLIERS = (0, 8, 16)
LARGEST_SHARE = 8  # of a layer's channels at most one in eight
# Nodes that take time must be worth it: one product error counts as much as another that is larger by this share.
FACTOR_COST = 0.1
OUTLIER_COST = {0: 0.0, 8: 0.15, 16: 0.25}


@dataclass(frozen=True)
class Treatment:
    """How an activation is made fit for int8: its name, a divisor and the channels multiplied in fp32.

    `factor` is float32 (inputs,), or None for none; `outliers` int64 (n,), sorted, n >= 0.
    """

    name: str
    factor: np.ndarray | None
    outliers: np.ndarray

    @property
    def plain(self) -> bool:
        """Whether the activation is quantized as it is."""
        return self.factor is None and not len(self.outliers)

    def multiplier(self, inputs: int) -> np.ndarray:
        """What the activation is multiplied by on its way to int8, float32 (inputs,): 0 at the outliers."""
        factor = np.ones(inputs, dtype=np.float32) if self.factor is None else self.factor
        multiplier = (1 / factor).astype(np.float32)
        multiplier[self.outliers] = 0.0
        return multiplier

    def int8_part(self, weight: np.ndarray) -> np.ndarray:
        """The weights (inputs, outputs) that belong to the multiplied activation: rows scaled up, outliers' rows 0."""
        part = weight if self.factor is None else weight * self.factor[:, None]
        part = part.copy()
        part[self.outliers] = 0.0
        return part


PLAIN = Treatment("none", None, np.zeros(0, dtype=np.int64))


def best_treatment(inputs: Inputs, weights: Sequence[np.ndarray]) -> Treatment:
    """The treatment that brings the int8 products closest to the fp32 ones for the time it costs.

    The error counts both sides: activations rounded to 8 bits with one range per pair, as DynamicQuantizeLinear does,
    and weights rounded per output channel, whose range suffers where an input channel is scaled up.

    Args:
        inputs: what was observed of the activation.
        weights: the float32 matrices (inputs, outputs) that it is multiplied with.
    """
    best, least = PLAIN, product_error(inputs, weights, PLAIN)
    for treatment in treatments(inputs, weights):
        cost = OUTLIER_COST[len(treatment.outliers)] + (0.0 if treatment.factor is None else FACTOR_COST)
        error = (1 + cost) * product_error(inputs, weights, treatment)
        if error < least:
            best, least = treatment, error
    return best


def treatments(inputs: Inputs, weights: Sequence[np.ndarray]) -> Iterator[Treatment]:
    """Candidates: each number of outliers, alone and with each factor for the channels that remain."""
    widest = np.argsort(-inputs.largest, kind="stable")
    for count in OUTLIERS:
        if count * LARGEST_SHARE > len(widest):
            continue
        outliers, largest = np.sort(widest[:count]), inputs.largest.copy()
        largest[outliers] = 0.0
        suffix = f", {count} channels in fp32" if count else ""
        if count:
            yield Treatment(f"none{suffix}", None, outliers)
        for name, factor in factors(largest, weights):
            yield Treatment(name + suffix, factor, outliers)


def factors(largest: np.ndarray, weights: Sequence[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Divisors with names: max|x|^alpha / max|w|^(1 - alpha) (Xiao et al. 2023), and outliers only.

    `largest` is max|x| by channel, (inputs,); 0 for a channel that does not count.
    """
    median = float(np.median(largest[largest > 0])) if (largest > 0).any() else 1.0
    floored = np.maximum(largest, 0.01 * median)
    reach = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    reach = np.maximum(reach, 1e-5 * (reach.max() or 1.0))
    for alpha in ALPHAS:
        factor = floored**alpha / reach ** (1 - alpha)
        # A common multiple cancels out; a mean of 1 keeps the numbers in a usual range.
        yield f"alpha {alpha}", (factor / np.exp(np.log(factor).mean())).astype(np.float32)
    for multiple in OUTLIER_MULTIPLES:
        yield f"outliers above {multiple} x median", np.maximum(1, floored / (multiple * median)).astype(np.float32)


def product_error(inputs: Inputs, weights: Sequence[np.ndarray], treatment: Treatment) -> float:
    """Root of the summed squared error of the sampled products, each weight's relative to its products' variance."""
    multiplier = treatment.multiplier(len(inputs.largest))
    exact = np.concatenate(inputs.sample)
    rounded = np.concatenate([round_activation(rows * multiplier) for rows in inputs.sample])
    importance = np.diag(inputs.hessian) * multiplier.astype(np.float64) ** 2
    total = 0.0
    for weight in weights:
        part = treatment.int8_part(weight)
        scale = clipped_scale(part, importance, paired=True)
        product = exact @ weight
        found = rounded @ (nearest(part, scale, paired=True) * scale)
        found += exact[:, treatment.outliers] @ weight[treatment.outliers]
        total += float(((found - product) ** 2).sum() / max(((product - product.mean(axis=0)) ** 2).sum(), 1e-12))
    return total**0.5


def round_activation(rows: np.ndarray) -> np.ndarray:
    """What DynamicQuantizeLinear makes of a pair's activation (tokens, channels): 256 steps from min to
    max."""
    low, high = min(float(rows.min()), 0.0), max(float(rows.max()), 0.0)
    step = (high - low) / 255 or 1.0
    zero = np.rint(-low / step)
    return ((np.clip(np.rint(rows / step) + zero, 0, 255) - zero) * step).astype(np.float32)

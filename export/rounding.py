"""fp32 weights to int8 values: better rounding costs seconds here and nothing at run time."""

from dataclasses import dataclass

import numpy as np

# A CPU with AVX2 or AVX-512 but no VNNI multiplies unsigned activations with signed weights two at a time and
# adds the two products in saturating int16: 255 * (w[k] + w[k + 1]) must stay below 32768, so two neighbours
# (k even) of one sign may sum to 128. ORT's `reduce_range` ensures that with 7-bit weights; bounding the
# pairs keeps 8 bits.
PAIR_LIMIT = 128
WEIGHT_LIMIT = 127
# Ratios of a channel's largest weight tried as its clipping point; above 1 they make room for the pair bound
# (2 suffices).
CLIP_RATIOS = (2.02, 1.7, 1.45, 1.25, 1.1, 1.0, 0.9, 0.8, 0.7, 0.6)

BLOCK = 32  # values of an embedding that share a scale where they have 4 bits
BLOCK_RATIOS = (1.0, 0.95, 0.9, 0.85, 0.8)  # of -8, what the largest value of a block may become


@dataclass(frozen=True)
class Int8Weight:
    """values int8 (inputs, outputs); scale float32 (outputs,): weight ~ values * scale."""

    values: np.ndarray
    scale: np.ndarray

    def dequantized(self) -> np.ndarray:
        """The float32 matrix (inputs, outputs) that the integers stand for."""
        return (self.values * self.scale).astype(np.float32)


def quantize_rows(table: np.ndarray) -> Int8Weight:
    """One scale per row of an embedding table (rows, width): scale is (rows, 1), the error <= scale / 2."""
    scale = np.abs(table).max(axis=1, keepdims=True) / WEIGHT_LIMIT
    scale = np.where(scale == 0, 1.0, scale).astype(np.float32)
    return Int8Weight(np.rint(table / scale).astype(np.int8), scale)


def quantize_blocks(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """4-bit values -8 to 7, int8 (rows, width), and a scale for each BLOCK of a row, float32 (rows, width / BLOCK).

    The value of largest magnitude of a block becomes -8 or a little less, whichever of BLOCK_RATIOS errs least.
    """
    blocks = table.reshape(len(table), -1, BLOCK).astype(np.float32)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2)[..., None], axis=2)
    values, scale = np.zeros(blocks.shape, np.int8), np.ones_like(largest)
    best = np.full(largest.shape, np.inf, np.float32)
    for ratio in BLOCK_RATIOS:
        tried = np.where(largest == 0, 1.0, largest / (-8 * ratio)).astype(np.float32)
        rounded = np.clip(np.rint(blocks / tried), -8, 7)
        error = ((blocks - rounded * tried) ** 2).sum(axis=2, keepdims=True)
        values = np.where(error < best, rounded, values).astype(np.int8)
        scale, best = np.where(error < best, tried, scale), np.minimum(error, best)
    return values.reshape(table.shape), scale[..., 0]


def quantize_weight(weight: np.ndarray, hessian: np.ndarray, paired: bool = True) -> Int8Weight:
    """Int8 weights (inputs, outputs) that change the layer's output least on the calibration inputs.

    Scales per output channel come from a search over clipping points, weighed by the inputs' second moments;
    the values by rounding one input after another and letting the later ones make up for the error (GPTQ:
    Frantar et al. 2023, after Hassibi & Stork 1993), most active inputs' pairs first.

    Args:
        weight: float32 (inputs, outputs).
        hessian: float64 (inputs, inputs), the mean of x^T x over calibration inputs x.
        paired: keep every even-odd pair of inputs within the no-saturation bound; False where the weights are
            merely stored as int8 and multiplied in fp32.
    """
    scale = clipped_scale(weight, np.diag(hessian), paired)
    return Int8Weight(compensated_rounding(weight, scale, hessian, paired), scale)


def clipped_scale(weight: np.ndarray, importance: np.ndarray, paired: bool) -> np.ndarray:
    """The scale (outputs,) with the least importance-weighted squared rounding error among CLIP_RATIOS."""
    weight = weight.astype(np.float64)
    largest = np.abs(weight).max(axis=0)
    largest = np.where(largest == 0, 1.0, largest)
    best, best_error = largest / WEIGHT_LIMIT, np.full(weight.shape[1], np.inf)
    for ratio in CLIP_RATIOS:
        scale = largest * ratio / WEIGHT_LIMIT
        error = importance @ (weight - nearest(weight, scale, paired) * scale) ** 2
        best, best_error = np.where(error < best_error, scale, best), np.minimum(error, best_error)
    return best.astype(np.float32)


def nearest(weight: np.ndarray, scale: np.ndarray, paired: bool) -> np.ndarray:
    """Plain rounding to float64 integers (inputs, outputs), clipped to the range and to the pair bound."""
    values = np.clip(np.rint(weight / scale), -WEIGHT_LIMIT, WEIGHT_LIMIT)
    if paired:
        even = len(values) - len(values) % 2
        values[0:even:2], values[1:even:2] = bound_pairs(values[0:even:2], values[1:even:2])
    return values


def bound_pairs(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shrinks integers within +-127 of one sign whose sum exceeds the bound, each by half of the excess."""
    excess = np.maximum(np.abs(first + second) - PAIR_LIMIT, 0) * (first * second > 0)
    sign, half = np.sign(first), np.ceil(excess / 2)
    return first - sign * half, second - sign * (excess - half)


def compensated_rounding(weight: np.ndarray, scale: np.ndarray, hessian: np.ndarray, paired: bool) -> np.ndarray:
    """GPTQ over pairs of inputs: int8 (inputs, outputs)."""
    size = len(weight)
    damped = hessian + np.eye(size) * (0.01 * np.diag(hessian).mean() + 1e-12)
    pairs = np.arange(size - size % 2).reshape(-1, 2)
    ranking = np.argsort(-np.diag(damped)[pairs].sum(axis=1), kind="stable")
    order = np.concatenate([pairs[ranking].ravel(), np.arange(size - size % 2, size)])
    # Row i of the upper Cholesky factor of the inverse holds how an error at input i moves the inputs after
    # it.
    inverse = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T
    rest = weight[order].astype(np.float64)
    values = np.empty_like(rest)
    block = 64
    for start in range(0, size, block):
        stop = min(start + block, size)
        errors = np.empty((stop - start, weight.shape[1]))
        for row in range(start, stop):
            value = np.clip(np.rint(rest[row] / scale), -WEIGHT_LIMIT, WEIGHT_LIMIT)
            if paired and row % 2 == 0 and row + 1 < stop:
                neighbour = np.clip(np.rint(rest[row + 1] / scale), -WEIGHT_LIMIT, WEIGHT_LIMIT)
                value, _ = bound_pairs(value, neighbour)
            elif paired and row % 2 == 1:
                before = values[row - 1]
                room = PAIR_LIMIT - np.abs(before)
                value = np.where(
                    before > 0, np.minimum(value, room), np.where(before < 0, np.maximum(value, -room), value)
                )
            values[row] = value
            errors[row - start] = (rest[row] - value * scale) / inverse[row, row]
            rest[row + 1 : stop] -= np.outer(inverse[row, row + 1 : stop], errors[row - start])
        rest[stop:] -= inverse[start:stop, stop:].T @ errors
    result = np.empty(weight.shape, dtype=np.int8)
    result[order] = values
    return result

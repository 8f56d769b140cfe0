"""The least squares of `training.projection`: embeddings and one layer at a time, no gradient.

States are lists of one (texts, length, dimensions) tensor a batch: `states` the backbone's, `narrow` the
student's own so far.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import BertModel

# Of the mean variance of the inputs: keeps the solves well-posed where inputs are nearly collinear (the
# states of a LayerNorm always are), far below what changes a fit.
RIDGE = 1e-5


class Batch(NamedTuple):
    """Texts padded together: `ids` and `attention_mask` (texts, length), and which tokens fit and measure."""

    ids: Tensor
    attention_mask: Tensor
    fitted: Tensor  # bool (texts, length); no padding
    measured: Tensor


States = list[Tensor]  # one (texts, length, dimensions) for each batch


def fit_embeddings(
    student: BertModel, teacher: BertModel, batches: list[Batch], basis: Tensor
) -> tuple[States, States]:
    """Project the embeddings; return both models' states below the first layer, the backbone's first."""
    wide, slim = teacher.embeddings, student.embeddings
    # The backbone's LayerNorm weights lie before the projection, where the student's own can't reach them.
    folded = wide.LayerNorm.weight[:, None] * basis
    folded = folded - folded.mean(0)
    for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
        getattr(slim, name).weight.copy_(getattr(wide, name).weight @ folded)
    states = [wide(batch.ids) for batch in batches]
    sums = [
        slim.word_embeddings(batch.ids)
        + slim.token_type_embeddings.weight[0]
        + slim.position_embeddings.weight[: batch.ids.shape[1]]
        for batch in batches
    ]
    _fit_norm(slim.LayerNorm, sums, [state @ basis for state in states], batches)
    return states, [slim.LayerNorm(total) for total in sums]


def fit_layer(
    slim: Any, wide: Any, states: States, narrow: States, batches: list[Batch], basis: Tensor
) -> tuple[States, States]:
    """Fit one student layer; return the outputs of both layers, the backbone's and the student's."""
    contexts = [wide.attention.self(s, additive_mask(b))[0] for s, b in zip(states, batches, strict=True)]
    size = wide.attention.self.attention_head_size
    dense = wide.attention.output.dense
    units = _strongest(contexts, batches, basis.T @ dense.weight, size, slim.attention.self.num_attention_heads)
    lift = _ridge(narrow, states, batches)
    for name in ("query", "key", "value"):
        _compose(getattr(slim.attention.self, name), getattr(wide.attention.self, name), units, lift)
    sums = [dense(context) + state for context, state in zip(contexts, states, strict=True)]
    states = [wide.attention.output.LayerNorm(total) for total in sums]
    features = [slim.attention.self(s, additive_mask(b))[0] for s, b in zip(narrow, batches, strict=True)]
    narrow = _fit_output(slim.attention.output, features, narrow, sums, states, batches, basis)

    dense = wide.output.dense
    # The widest thing here: computed twice, a batch at a time, rather than kept.
    neurons = (wide.intermediate(state) for state in states)
    units = _strongest(neurons, batches, basis.T @ dense.weight, 1, slim.intermediate.dense.out_features)
    _compose(slim.intermediate.dense, wide.intermediate.dense, units, _ridge(narrow, states, batches))
    sums = [dense(wide.intermediate(state)) + state for state in states]
    states = [wide.output.LayerNorm(total) for total in sums]
    features = [slim.intermediate(state) for state in narrow]
    narrow = _fit_output(slim.output, features, narrow, sums, states, batches, basis)
    return states, narrow


def _strongest(features: Iterable[Tensor], batches: list[Batch], output: Tensor, size: int, keep: int) -> Tensor:
    """Rows, (keep * size,), of the units (heads, neurons) that add the most variance to the projected state.

    A unit is `size` features in a row; `output` (width, features) is what is added for each feature.
    """
    units = output.shape[1] // size
    count, total = 0, torch.zeros(units, size)
    square = torch.zeros(units, size, size)
    for feature, batch in zip(features, batches, strict=True):
        rows = feature[batch.fitted].view(-1, units, size)
        count, total = count + len(rows), total + rows.sum(0)
        square += torch.einsum("nus,nut->ust", rows, rows)
    covariance = square / count - torch.einsum("us,ut->ust", total, total) / count**2
    columns = output.view(len(output), units, size)
    added = torch.einsum("wus,ust,wut->u", columns, covariance, columns)
    kept = added.topk(keep).indices.sort().values
    return (kept[:, None] * size + torch.arange(size)).flatten()


def _compose(slim: nn.Linear, wide: nn.Linear, units: Tensor, lift: tuple[Tensor, Tensor]) -> None:
    """Make `slim` give what these units of `wide` give on the estimated backbone state."""
    weight, bias = lift
    slim.weight.copy_(wide.weight[units] @ weight)
    slim.bias.copy_(wide.bias[units] + wide.weight[units] @ bias)


def _fit_output(
    slim: Any,
    features: States,
    narrow: States,
    sums: States,
    states: States,
    batches: list[Batch],
    basis: Tensor,
) -> States:
    """Fit `slim.dense` and `slim.LayerNorm` to the backbone before and after its LayerNorm."""
    updates = [total @ basis - state for total, state in zip(sums, narrow, strict=True)]
    weight, bias = _ridge(features, updates, batches)
    slim.dense.weight.copy_(weight)
    slim.dense.bias.copy_(bias)
    reached = [state + slim.dense(feature) for state, feature in zip(narrow, features, strict=True)]
    _fit_norm(slim.LayerNorm, reached, [state @ basis for state in states], batches)
    return [slim.LayerNorm(total) for total in reached]


def _fit_norm(norm: nn.LayerNorm, inputs: States, targets: States, batches: list[Batch]) -> None:
    """Per dimension, the least-squares line from the normalized inputs to the targets."""
    size = norm.normalized_shape
    x = _rows([nn.functional.layer_norm(state, size, eps=norm.eps) for state in inputs], batches).double()
    y = _rows(targets, batches).double()
    deviations = x - x.mean(0)
    slope = (deviations * (y - y.mean(0))).sum(0) / deviations.square().sum(0).clamp_min(1e-12)
    norm.weight.copy_(slope)
    norm.bias.copy_(y.mean(0) - slope * x.mean(0))


def _ridge(inputs: States, targets: States, batches: list[Batch]) -> tuple[Tensor, Tensor]:
    """Weight (outputs, inputs) and bias (outputs,) of the ridge regression; the bias is not penalized."""
    width = inputs[0].shape[-1] + 1
    gram = torch.zeros(width, width, dtype=torch.float64)
    cross = torch.zeros(width, targets[0].shape[-1], dtype=torch.float64)
    for x, y, batch in zip(inputs, targets, batches, strict=True):
        rows = nn.functional.pad(x[batch.fitted].double(), (0, 1), value=1.0)
        gram += rows.T @ rows
        cross += rows.T @ y[batch.fitted].double()
    count, total, sums = gram[-1, -1], gram[-1, :-1], cross[-1]
    centred = gram[:-1, :-1] - torch.outer(total, total) / count
    centred.diagonal().add_(RIDGE * centred.diagonal().mean())
    weight = torch.linalg.solve(centred, cross[:-1] - torch.outer(total, sums) / count).T
    return weight.float(), ((sums - weight @ total) / count).float()


def r2(found: States, expected: States, batches: list[Batch]) -> float:
    """Share of the variance of `expected` that `found` explains, over the measured tokens."""
    y = _rows(expected, batches, "measured").double()
    error = (_rows(found, batches, "measured").double() - y).square().sum()
    return float(1 - error / (y - y.mean(0)).square().sum())


def _rows(states: Iterable[Tensor], batches: list[Batch], which: str = "fitted") -> Tensor:
    return torch.cat([state[getattr(batch, which)] for state, batch in zip(states, batches, strict=True)])


def additive_mask(batch: Batch) -> Tensor:
    """Additive attention mask (texts, 1, 1, length)."""
    return (1.0 - batch.attention_mask[:, None, None].float()) * torch.finfo(torch.float32).min

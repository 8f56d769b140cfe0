"""The linear layers of an fp32 graph, calibrated, and the int8 graphs that can be built from them."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper

from export import int8_graph
from export.activations import PLAIN, Treatment, best_treatment
from export.embeddings import quantize_embeddings
from export.int8_graph import Inputs, Linear
from export.rounding import Int8Weight, quantize_weight
from export.trial import Trial


@dataclass(frozen=True)
class Layers:
    """The linear layers of an fp32 graph by the activation they read, and what calibration found."""

    model: onnx.ModelProto
    groups: dict[str, list[Linear]]
    observed: dict[str, Inputs]
    treatments: dict[str, Treatment]
    weights: dict[str, np.ndarray]
    embedding_bits: int = 8
    bounded: bool = True  # whether weights to multiply with are kept from saturating
    # Kept, because rounding takes seconds.
    rounded: dict[tuple[str, bool], Int8Weight] = field(default_factory=dict)

    def int8_weight(self, linear: Linear, multiplied: bool) -> Int8Weight:
        """Int8 values to multiply with (treated and, where `bounded`, safe from saturation), or merely to store."""
        key = (linear.node, multiplied)
        if key not in self.rounded:
            weight, hessian = self.weights[linear.weight], self.observed[linear.source].hessian
            if multiplied:
                treatment = self.treatments[linear.source]
                multiplier = treatment.multiplier(len(weight)).astype(np.float64)
                weight, hessian = treatment.int8_part(weight), hessian * np.outer(multiplier, multiplier)
            self.rounded[key] = quantize_weight(weight, hessian, paired=multiplied and self.bounded)
        return self.rounded[key]

    def names(self, sources: Iterable[str]) -> list[str]:
        """The MatMul nodes that read these activations."""
        return [linear.node for source in sources for linear in self.groups[source]]

    def size(self, source: str) -> int:
        """How many weights the layers that read an activation have."""
        return sum(self.weights[linear.weight].size for linear in self.groups[source])


def calibrate(
    model: onnx.ModelProto, pairs: Sequence[dict[str, np.ndarray]], embedding_bits: int = 8, bounded: bool = True
) -> Layers:
    """Observes the linear layers' inputs and chooses the treatment of each."""
    groups: dict[str, list[Linear]] = defaultdict(list)
    for linear in int8_graph.find_linears(model):
        groups[linear.source].append(linear)
    constants = int8_graph.initializers(model)
    weights = {one.weight: numpy_helper.to_array(constants[one.weight]) for group in groups.values() for one in group}
    observed = int8_graph.observe(model, groups, pairs)
    treatments = {
        source: best_treatment(observed[source], [weights[linear.weight] for linear in group])
        for source, group in groups.items()
    }
    return Layers(model, groups, observed, treatments, weights, embedding_bits, bounded)


def build(
    layers: Layers,
    in_fp32: Collection[str] = (),
    stored_fp16: Collection[str] = (),
    embeddings: bool = True,
    only: str = "",
) -> onnx.ModelProto:
    """An int8 graph. Layers are named by the activation that they read.

    Args:
        in_fp32: multiply these layers in fp32; their weights are stored as int8 all the same.
        stored_fp16: those of `in_fp32` whose weights are stored as fp16 instead.
        embeddings: whether to store the embedding tables in few bits too.
        only: quantize the layers that read this activation, and nothing else.
    """
    candidate = int8_graph.copy(layers.model)
    if embeddings:
        quantize_embeddings(candidate, layers.embedding_bits)
    groups = {source: group for source, group in layers.groups.items() if only in ("", source)}
    for source, group in groups.items():
        treatment = PLAIN if source in in_fp32 else layers.treatments[source]
        multiplier = treatment.multiplier(len(layers.weights[group[0].weight]))
        if not treatment.plain:
            int8_graph.multiply_activation(candidate, source, multiplier)
        for linear in group:
            exact = layers.weights[linear.weight]
            if source in stored_fp16:
                int8_graph.multiply_in_fp32(candidate, linear, exact.astype(np.float16))
                continue
            multiplied = source not in in_fp32
            weight = layers.int8_weight(linear, multiplied)
            effective = weight.dequantized() * multiplier[:, None]
            effective[treatment.outliers] = exact[treatment.outliers].astype(np.float16)
            if linear.bias:
                int8_graph.shift_bias(candidate, linear, layers.observed[source].mean @ (exact - effective))
            multiply = int8_graph.multiply_in_int8 if multiplied else int8_graph.multiply_in_fp32
            multiply(candidate, linear, weight)
            if len(treatment.outliers):
                int8_graph.add_fp32_channels(candidate, linear, treatment.outliers, exact[treatment.outliers])
    return candidate


def by_noise(layers: Layers, trial: Trial) -> list[str]:
    """Activations whose layers, quantized alone, disturb the logits most for the work that int8 saves.

    Errors of different layers are nearly independent: their squares add up.
    """
    worth = {}
    for source in layers.groups:
        candidate = build(layers, embeddings=False, only=source)
        noise = trial.noise(int8_graph.run_pairs(candidate, trial.pairs))
        tokens = sum(len(rows) for rows in layers.observed[source].sample)
        worth[source] = noise**2 / (tokens * layers.size(source))
    return sorted(worth, key=lambda source: -worth[source])

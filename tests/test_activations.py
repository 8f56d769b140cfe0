"""How activations are treated before int8: what is rounded, divided, and left to fp32."""

import numpy as np
from onnx import TensorProto, helper

from export import int8_graph
from export.activations import PLAIN, Treatment, best_treatment, product_error, round_activation


def test_simulated_activation_rounding_is_onnxruntimes() -> None:
    rows = np.random.default_rng(3).normal(size=(10, 24)).astype(np.float32) * np.geomspace(
        0.1, 5, 24, dtype=np.float32
    )
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["tokens", 24])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["tokens", 24])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    found = int8_graph.open_session(model).run(None, {"x": rows})[0]
    assert np.abs(found - round_activation(rows)).max() < 1e-4


def observed(sample: np.ndarray) -> int8_graph.Inputs:
    """The inputs of a layer from pairs' activations (pairs, tokens, channels)."""
    rows = sample.reshape(-1, sample.shape[-1])
    return int8_graph.Inputs(rows.T @ rows / len(rows), rows.mean(axis=0), np.abs(rows).max(axis=0), list(sample))


def test_an_outlier_channel_is_treated_and_even_ones_are_left_alone() -> None:
    generator = np.random.default_rng(7)
    weights = [generator.normal(size=(64, 48)).astype(np.float32)]
    even = generator.uniform(-1, 1, (8, 20, 64)).astype(np.float32)
    outlier = even.copy()
    outlier[:, 0, 5] = 30
    assert best_treatment(observed(even), weights) is PLAIN
    treatment = best_treatment(observed(outlier), weights)
    assert treatment.multiplier(64)[5] < 0.2
    assert product_error(observed(outlier), weights, treatment) < 0.5 * product_error(observed(outlier), weights, PLAIN)


def test_channels_that_no_factor_can_save_are_multiplied_in_fp32() -> None:
    generator = np.random.default_rng(9)
    weights = [generator.normal(size=(64, 48)).astype(np.float32)]
    sample = generator.uniform(-1, 1, (8, 20, 64)).astype(np.float32)
    wide = [3, 9, 17, 30, 41, 50, 60]
    sample[:, :, wide] *= 200  # always wide: as a large activation or, smoothed, as a large weight
    treatment = best_treatment(observed(sample), weights)
    assert set(wide) <= set(treatment.outliers)
    assert len(treatment.outliers) == 8
    smoothed = Treatment("", np.abs(sample).max(axis=(0, 1)), np.zeros(0, np.int64))
    error = [product_error(observed(sample), weights, one) for one in (treatment, smoothed)]
    assert error[0] < 0.1 * error[1]

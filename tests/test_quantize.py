"""Quantization: the integers, the surgery on the graph, and a ladder that stops at the right rung."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from flashranker.processor import DOT_PRODUCT, PORTABLE, PROFILES
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper

from export import int8_graph, layers, quantize, trial
from export.activations import Treatment
from export.cls_graph import export_first_token
from export.rounding import (
    PAIR_LIMIT,
    Int8Weight,
    bound_pairs,
    clipped_scale,
    nearest,
    quantize_rows,
    quantize_weight,
)


def correlated(inputs: int, tokens: int = 400) -> np.ndarray:
    """Activations (tokens, inputs) whose channels depend on each other and have very different sizes."""
    generator = np.random.default_rng(3)
    mixing = generator.normal(size=(inputs, inputs)) / inputs**0.5 + np.eye(inputs) * 0.3
    return (generator.normal(size=(tokens, inputs)) @ mixing * np.geomspace(0.1, 5, inputs)).astype(np.float32)


def heavy(inputs: int, outputs: int) -> np.ndarray:
    """Weights with heavy tails, so that neighbours exceed the pair bound."""
    return np.random.default_rng(4).standard_t(2, size=(inputs, outputs)).astype(np.float32)


@given(arrays(np.int64, (8, 3), elements=st.integers(-127, 127)))
def test_bounded_pairs_stay_within_the_limit_and_move_only_if_they_must(values: np.ndarray) -> None:
    first, second = bound_pairs(values[0::2].astype(float), values[1::2].astype(float))
    same_sign = values[0::2] * values[1::2] > 0
    over = same_sign & (np.abs(values[0::2] + values[1::2]) > PAIR_LIMIT)
    assert np.array_equal((first != values[0::2]) | (second != values[1::2]), over)
    assert (np.abs(first + second)[over] == PAIR_LIMIT).all()
    assert ((first * values[0::2] >= 0) & (second * values[1::2] >= 0)).all()


def test_a_few_pairs_are_spread_over_queries_and_their_candidates() -> None:
    queries = [np.arange(0, 5), np.arange(5, 7), np.arange(7, 11), np.arange(11, 12)]
    whole = trial.Trial([{"id": np.array(i)} for i in range(12)], queries, np.arange(12, dtype=np.float32) ** 2)
    few = whole.few(2, 2)
    assert [int(pair["id"]) for pair in few.pairs] == [0, 4, 7, 10]
    assert few.logits.tolist() == [0, 16, 49, 100]
    assert [rows.tolist() for rows in few.queries] == [[0, 1], [2, 3]]
    # Errors of 1 and of 3 between two pairs of a query, against differences of 16 and of 51.
    assert few.noise(np.add(few.logits, [0, 1, 0, 3])) == pytest.approx(((1 + 9) / (16**2 + 51**2)) ** 0.5)
    assert [int(pair["id"]) for pair in whole.few(4, 3).pairs] == [0, 2, 4, 5, 6, 7, 9, 10]


@pytest.mark.parametrize("inputs", [2, 64, 129])
def test_multiplied_weights_cannot_saturate_any_cpus_kernel(inputs: int) -> None:
    rounded = quantize_weight(heavy(inputs, 40), np.eye(inputs), paired=True)
    pairs = rounded.values[: inputs - inputs % 2].astype(int).reshape(-1, 2, 40)
    assert np.maximum(pairs, 0).sum(axis=1).max() <= PAIR_LIMIT
    assert np.minimum(pairs, 0).sum(axis=1).min() >= -PAIR_LIMIT
    assert np.abs(rounded.values.astype(int)).max() > 64
    # All activations at either end of the range: int16 sums of two products are as large as they get.
    activations = np.random.default_rng(0).choice([0, 255], (16, inputs)).astype(np.uint8)
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.UINT8, ["tokens", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, ["tokens", 40])],
        [numpy_helper.from_array(rounded.values, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    # Not `open_session`, which sums in 32 bits where the processor's own kernel saturates.
    plain = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = plain.run(None, {"x": activations})[0]
    assert np.array_equal(found, activations.astype(int) @ rounded.values.astype(int))


@pytest.mark.parametrize("paired", [True, False])
def test_compensated_rounding_beats_nearest_on_the_calibration_inputs(paired: bool) -> None:
    rows, weight = correlated(96), heavy(96, 30)
    hessian = (rows.T @ rows / len(rows)).astype(np.float64)
    scale = clipped_scale(weight, np.diag(hessian), paired)
    plain = nearest(weight, scale, paired) * scale
    error = [
        float(((rows @ (other - weight)) ** 2).mean())
        for other in (quantize_weight(weight, hessian, paired).dequantized(), plain)
    ]
    assert error[0] < 0.33 * error[1]


@pytest.mark.parametrize("paired", [True, False])
def test_without_correlation_rounding_is_to_the_nearest_within_the_pair_bound(paired: bool) -> None:
    weight = heavy(32, 200)
    rounded = quantize_weight(weight, np.eye(32), paired)
    assert np.array_equal(rounded.values, nearest(weight, rounded.scale, paired))
    assert np.array_equal(rounded.values, nearest(weight, rounded.scale, False)) != paired


def test_rows_of_any_size_keep_their_precision() -> None:
    table = (
        np.random.default_rng(6).normal(size=(50, 16)).astype(np.float32)
        * np.geomspace(1e-4, 10, 50, dtype=np.float32)[:, None]
    )
    table[7] = 0
    rows = quantize_rows(table)
    assert rows.values.dtype == np.int8
    assert (np.abs(rows.dequantized() - table) <= np.abs(table).max(axis=1, keepdims=True) / 254 * 1.001).all()


@pytest.fixture(scope="module")
def fp32(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_first_token(tiny_checkpoint, tmp_path_factory.mktemp("quantize") / "model.onnx").path


def make_pairs(queries: int, candidates: int) -> tuple[list[dict[str, np.ndarray]], list[str]]:
    generator, pairs, ids = np.random.default_rng(8), [], []
    for query in range(queries):
        for _ in range(candidates):
            length = int(generator.integers(8, 40))
            types = (np.arange(length) > 4).astype(np.int64)
            tokens = {
                "input_ids": generator.integers(5, 90, length),
                "attention_mask": np.ones(length, np.int64),
                "token_type_ids": types,
            }
            pairs.append({name: value[None] for name, value in tokens.items()})
            ids.append(str(query))
    return pairs, ids


PAIRS, QUERY_IDS = make_pairs(6, 12)


@pytest.mark.parametrize("outliers", [[], [2, 5, 30]])
def test_a_treatment_leaves_fp32_logits_alone(fp32: Path, outliers: list[int]) -> None:
    model = onnx.load(fp32)
    readers = int8_graph.find_linears(model)[:3]  # query, key and value of the first layer
    for linear in readers:  # weights that fp16 can hold
        weight = int8_graph.initializers(model)[linear.weight]
        exact = numpy_helper.to_array(weight).astype(np.float16).astype(np.float32)
        weight.CopyFrom(numpy_helper.from_array(exact, weight.name))
    expected = int8_graph.run_pairs(model, PAIRS)
    before = [node.op_type for node in model.graph.node]
    treatment = Treatment("", np.geomspace(0.1, 20, 32).astype(np.float32), np.array(outliers, np.int64))
    int8_graph.multiply_activation(model, readers[0].source, treatment.multiplier(32))
    for linear in readers:
        weight = int8_graph.initializers(model)[linear.weight]
        exact = numpy_helper.to_array(weight)
        weight.CopyFrom(numpy_helper.from_array(treatment.int8_part(exact), weight.name))
        if outliers:
            node = next(node for node in model.graph.node if node.name == linear.node)
            node.name += "_rescaled"  # as multiply_in_int8 calls the last node it puts in this one's place
            int8_graph.add_fp32_channels(model, linear, treatment.outliers, exact[outliers])
    onnx.checker.check_model(model)
    after = [node.op_type for node in model.graph.node]
    assert after.count("Mul") == before.count("Mul") + 1
    assert after.count("Gather") == before.count("Gather") + (1 if outliers else 0)
    assert np.abs(int8_graph.run_pairs(model, PAIRS) - expected).max() < 1e-4


def test_stored_int8_weights_multiply_as_their_dequantized_selves(fp32: Path) -> None:
    stored, replaced = onnx.load(fp32), onnx.load(fp32)
    for linear in int8_graph.find_linears(stored):
        matrix = numpy_helper.to_array(int8_graph.initializers(replaced)[linear.weight])
        scale = (np.abs(matrix).max(axis=0) / 127).astype(np.float32)
        weight = Int8Weight(nearest(matrix, scale, paired=False).astype(np.int8), scale)
        int8_graph.multiply_in_fp32(stored, linear, weight)
        int8_graph.initializers(replaced)[linear.weight].CopyFrom(
            numpy_helper.from_array(weight.dequantized(), linear.weight)
        )
    expected = int8_graph.run_pairs(replaced, PAIRS)
    assert np.abs(int8_graph.run_pairs(stored, PAIRS) - expected).max() < 1e-4
    assert np.abs(int8_graph.run_pairs(onnx.load(fp32), PAIRS) - expected).max() > 1e-3
    assert len(stored.SerializeToString()) < 0.7 * len(replaced.SerializeToString())


def test_onnxruntime_fuses_the_int8_nodes_at_load(fp32: Path, tmp_path: Path) -> None:
    report = quantize.quantize_int8(fp32, tmp_path / "int8.onnx", PAIRS, QUERY_IDS, limit_bytes=10**6, target_tau=-1.0)
    assert report["rung"] == quantize.DYNAMIC
    calibrated = layers.calibrate(onnx.load(fp32), PAIRS[:24])
    model = layers.build(calibrated)
    options = int8_graph.onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    int8_graph.onnxruntime.InferenceSession(model.SerializeToString(), options)
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert "MatMulInteger" not in kinds
    assert sum(kind in ("DynamicQuantizeMatMul", "MatMulIntegerToFloat") for kind in kinds) == 12


@pytest.mark.parametrize("smoothed", [False, True])
def test_only_the_portable_profile_bounds_the_weights(fp32: Path, tmp_path: Path, smoothed: bool) -> None:
    largest = {}
    for profile in PROFILES:
        path = tmp_path / f"{profile}.onnx"

        def quantized(target_tau: float, profile: str = profile, path: Path = path) -> dict[str, Any]:
            return quantize.quantize_int8(
                fp32, path, PAIRS, QUERY_IDS, limit_bytes=10**6, target_tau=target_tau, profile=profile
            )

        report = quantized(-1.0)
        if smoothed:
            report = quantized(report["tau"] + 1e-6)
        assert (report["profile"], report["rung"] == quantize.DYNAMIC) == (profile, not smoothed)
        model = onnx.load(path)
        multiplied = {node.input[1] for node in model.graph.node if node.op_type == "MatMulInteger"}
        weights = [numpy_helper.to_array(one).astype(int) for one in model.graph.initializer if one.name in multiplied]
        largest[profile] = max(np.abs(weight[0::2] + weight[1::2]).max() for weight in weights)
    assert largest[PORTABLE] <= PAIR_LIMIT < largest[DOT_PRODUCT]


def test_the_ladder_climbs_only_as_far_as_it_must(fp32: Path, tmp_path: Path) -> None:
    easy = quantize.quantize_int8(fp32, tmp_path / "easy.onnx", PAIRS, QUERY_IDS, limit_bytes=10**6, target_tau=0.5)
    assert (easy["rung"], easy["reached"], len(easy["rungs"])) == (quantize.DYNAMIC, True, 1)
    # A target between the first rung and the next.
    first = easy["tau"]
    hard = quantize.quantize_int8(
        fp32, tmp_path / "hard.onnx", PAIRS, QUERY_IDS, limit_bytes=10**6, target_tau=first + 1e-6
    )
    assert hard["reached"]
    assert hard["tau"] > first
    assert hard["rung"] != quantize.DYNAMIC
    judge = trial.split(onnx.load(fp32), PAIRS, QUERY_IDS)[1]
    assert judge.measure(onnx.load(tmp_path / "hard.onnx"))["tau"] == hard["tau"]
    assert (tmp_path / "hard.onnx").stat().st_size == hard["bytes"]


def test_beyond_reach_the_best_candidate_is_written_and_said_to_fall_short(fp32: Path, tmp_path: Path) -> None:
    report = quantize.quantize_int8(fp32, tmp_path / "int8.onnx", PAIRS, QUERY_IDS, limit_bytes=10**6, target_tau=1.1)
    assert not report["reached"]
    assert report["tau"] == max(rung["tau"] for rung in report["rungs"])
    assert report["tau"] > report["rungs"][0]["tau"]
    assert report["rungs"][-1]["fp32_layers"] == report["rungs"][-1]["fp16_layers"] == 12
    assert len(report["fp16_layers"]) > 0
    small = quantize.quantize_int8(fp32, tmp_path / "small.onnx", PAIRS, QUERY_IDS, limit_bytes=1000, target_tau=0.5)
    assert not small["reached"]
    assert list(tmp_path.glob(".*")) == []


def test_tau_is_measured_on_queries_that_did_not_calibrate(fp32: Path) -> None:
    observed, judge = trial.split(onnx.load(fp32), PAIRS, QUERY_IDS)
    assert [len(rows) for rows in judge.queries] == [12, 12, 12]
    calibrating = {pair["input_ids"].tobytes() for pair in observed}
    assert not calibrating & {pair["input_ids"].tobytes() for pair in judge.pairs}
    assert len(observed) == 36


def test_needs_a_query_id_for_each_pair(fp32: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="72 pairs, 71 query ids"):
        quantize.quantize_int8(fp32, tmp_path / "int8.onnx", PAIRS, QUERY_IDS[1:], limit_bytes=10**6)


def test_fp16_is_stored_only_as_far_as_the_limit_allows(fp32: Path, tmp_path: Path) -> None:
    def quantized(limit_bytes: int) -> dict[str, Any]:
        return quantize.quantize_int8(
            fp32, tmp_path / "int8.onnx", PAIRS, QUERY_IDS, limit_bytes=limit_bytes, target_tau=1.1
        )

    stored_int8 = [rung for rung in quantized(10**6)["rungs"] if rung["rung"] == quantize.PARTLY_FP32][-1]
    # Room for the one layer of 32 x 64 weights, or the four of 32 x 32, not for all.
    tight = quantized(stored_int8["bytes"] + 5000)
    stored_fp16 = [rung for rung in tight["rungs"] if rung["fp16_layers"]]
    assert 0 < max(rung["fp16_layers"] for rung in stored_fp16) < 12
    assert all(rung["fits"] for rung in stored_fp16)


def test_bisection_finds_the_least_count() -> None:
    assert [fewest_of(least) for least in (1, 2, 7, 8, 9)] == [1, 2, 7, 8, None]


def fewest_of(least: int) -> int | None:
    """The smallest of 1..8 that was taken when all from `least` on are."""
    taken: list[int] = []
    found = quantize.fewest(8, lambda count: count >= least and not taken.append(count))  # type: ignore[func-returns-value]
    assert found == bool(taken)
    return min(taken, default=None)


def test_constants_with_several_readers_are_left_alone(fp32: Path) -> None:
    model = onnx.load(fp32)
    query, key = int8_graph.find_linears(model)[:2]
    nodes = {node.name: node for node in model.graph.node}
    nodes[key.node].input[1] = query.weight
    found = {linear.node for linear in int8_graph.find_linears(model)}
    assert not {query.node, key.node} & found
    assert len(found) == 10

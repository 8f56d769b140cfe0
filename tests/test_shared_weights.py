"""Weights that several products read: each gets its own, and the graph computes what it did."""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from test_export_architectures import REQUESTS, exported, make_classifier

from export.int8_graph import find_linears, initializers, run_pairs, with_own_weights
from export.layers import build, calibrate
from export.one_logit import load_one_logit
from export.parity import encode_requests


def test_debertas_projections_of_positions_are_quantized_too(tmp_path: Path) -> None:
    source = make_classifier("deberta-v2", tmp_path / "source")
    _, staged = exported(load_one_logit(source), source, tmp_path)
    shared = onnx.load(tmp_path / "fp32.onnx")
    taken = {value.name for value in shared.graph.input}
    encoded = encode_requests(staged, REQUESTS[:6], 64)
    pairs = [{n: value for n, value in pair.items() if n in taken} for request in encoded for pair in request]
    parted = with_own_weights(shared)
    np.testing.assert_array_equal(run_pairs(parted, pairs), run_pairs(shared, pairs))
    # Two layers of query, key, value, output, up and down; query and key project relative positions as well.
    assert len(find_linears(shared)) == 2 * 4
    assert len(find_linears(parted)) == 2 * 8
    int8 = build(calibrate(parted, pairs))
    matrices = [numpy_helper.to_array(one) for one in initializers(int8).values() if len(one.dims) == 2]
    products = {node.input[1] for node in int8.graph.node if node.op_type == "MatMul"}
    assert not products & {name for name, one in initializers(int8).items() if len(one.dims) == 2}
    assert any(matrix.dtype == np.int8 for matrix in matrices)
    found, expected = run_pairs(int8, pairs), run_pairs(shared, pairs)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.98


def test_a_graph_without_shared_weights_stays_as_it_is(tiny_checkpoint: Path, tmp_path: Path) -> None:
    source = make_classifier("bert", tmp_path / "source")
    exported(load_one_logit(source), source, tmp_path)
    model = onnx.load(tmp_path / "fp32.onnx")
    assert with_own_weights(model) == model

"""Embedding tables of a graph in int8 rows and in 4-bit blocks: what is stored, what comes back, and when."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export import embeddings, quantize
from export.embeddings import quantize_embeddings
from export.int8_graph import open_session
from export.rounding import BLOCK, quantize_blocks

ROWS, WIDTH = 500, 64


def make_graph(table: np.ndarray) -> onnx.ModelProto:
    """A Gather from the table under the name `logits`, so that the session's helpers can run it."""
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    gather = helper.make_node("Gather", ["words", "ids"], ["logits"], "words")
    graph = helper.make_graph([gather], "g", [ids], [logits], [numpy_helper.from_array(table, "words")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.fixture
def table() -> np.ndarray:
    """Blocks of very different sizes, one of zeros."""
    generator = np.random.default_rng(0)
    table = generator.normal(size=(ROWS, WIDTH)) * np.exp(generator.normal(size=(ROWS, 1)) * 2)
    table[3, :BLOCK] = 0
    return table.astype(np.float32)


def test_blocks_err_by_at_most_a_step_and_mostly_half(table: np.ndarray) -> None:
    values, scale = quantize_blocks(table)
    assert (values.min(), values.max(), scale.shape) == (-8, 7, (ROWS, WIDTH // BLOCK))
    error = np.abs((values.reshape(ROWS, -1, BLOCK) * scale[..., None]).reshape(ROWS, WIDTH) - table)
    largest = np.abs(table).reshape(ROWS, -1, BLOCK).max(axis=2).repeat(BLOCK, axis=1)
    assert (error <= largest / 8 * 1.27).all()  # the far side of the largest value loses up to a step of 1 / (8 x 0.8)
    plain = np.clip(np.rint(table / np.where(largest == 0, 1, largest / 7)), -8, 7) * largest / 7
    assert (error**2).sum() < 0.95 * ((plain - table) ** 2).sum()


def test_a_table_that_already_has_four_bits_comes_back_exactly() -> None:
    generator = np.random.default_rng(1)
    values = generator.integers(-8, 8, (ROWS, WIDTH // BLOCK, BLOCK))
    values[:, :, 5] = -8
    table = (values * generator.uniform(0.1, 2, (ROWS, WIDTH // BLOCK, 1))).astype(np.float32).reshape(ROWS, WIDTH)
    found, scale = quantize_blocks(table)
    assert np.array_equal(found, values.reshape(ROWS, WIDTH))
    np.testing.assert_allclose(
        found.reshape(ROWS, -1, BLOCK) * scale[..., None], table.reshape(ROWS, -1, BLOCK), rtol=1e-6
    )


@pytest.mark.parametrize(("bits", "bytes_per_row"), [(8, WIDTH + 4), (4, WIDTH // 2 + 4 * WIDTH // BLOCK)])
def test_the_graph_gathers_what_the_integers_stand_for(
    table: np.ndarray, bits: int, bytes_per_row: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "LARGE_TABLE", 1000)
    model = make_graph(table)
    quantize_embeddings(model, bits)
    ids = np.array([0, 3, 499, 3])
    (found,) = open_session(model).run(None, {"ids": ids})
    values, scale = quantize_blocks(table)
    if bits == 4:
        expected = (values.reshape(ROWS, -1, BLOCK) * scale[..., None]).reshape(ROWS, WIDTH)[ids]
    else:
        step = np.abs(table).max(axis=1, keepdims=True) / 127
        expected = (np.rint(table / step) * step)[ids]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    stored = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    assert stored == ROWS * bytes_per_row


def test_a_small_table_keeps_its_rows_when_words_go_to_blocks(table: np.ndarray) -> None:
    model = make_graph(table)
    quantize_embeddings(model, 4)
    assert [node.op_type for node in model.graph.node] == ["Gather", "Gather", "Cast", "Mul"]


def test_four_bits_are_used_only_where_int8_rows_do_not_fit(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_quantize import PAIRS, QUERY_IDS

    from export.cls_graph import export_first_token

    monkeypatch.setattr(embeddings, "LARGE_TABLE", 1000)
    monkeypatch.setattr(embeddings, "SMALL_TABLE", 1000)
    fp32 = export_first_token(tiny_checkpoint, tmp_path / "fp32.onnx").path

    def quantized(limit_bytes: int) -> dict:
        return quantize.quantize_int8(
            fp32, tmp_path / "int8.onnx", PAIRS, QUERY_IDS, limit_bytes=limit_bytes, target_tau=0.3
        )

    roomy = quantized(10**6)
    tight = quantized(roomy["bytes"] - 1)
    assert (roomy["embedding_bits"], tight["embedding_bits"]) == (8, 4)
    assert tight["bytes"] < roomy["bytes"]
    assert tight["fits"]
    names = [node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node]
    assert names.count("GatherBlockQuantized") >= 1

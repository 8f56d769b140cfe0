"""Embedding tables of an ONNX graph in int8 rows or in 4-bit blocks, both restored for the gathered rows alone."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.int8_graph import initializers, replace_node, store_int8
from export.rounding import BLOCK, quantize_blocks, quantize_rows

# Tables below this many values (token types) are left in fp32: nothing to gain.
SMALL_TABLE = 4096
# Tables below this many (positions) stay in int8 rows, whatever becomes of the words.
LARGE_TABLE = 1_000_000


def quantize_embeddings(model: onnx.ModelProto, bits: int = 8) -> None:
    """Stores embedding tables as int8 rows with a scale a row, or the large ones in 4-bit blocks, in place.

    One scale for a whole table, as in ORT's own Gather quantization, rounds rare small rows away.
    """
    constants = initializers(model)
    for node in list(model.graph.node):
        table = constants.get(node.input[0]) if node.op_type == "Gather" else None
        if (
            table is None
            or table.data_type != TensorProto.FLOAT
            or len(table.dims) != 2
            or np.prod(table.dims) < SMALL_TABLE
        ):
            continue
        if bits == 4 and np.prod(table.dims) >= LARGE_TABLE and table.dims[1] % BLOCK == 0:
            in_blocks(model, node, table)
        else:
            in_rows(model, node, table)


def in_rows(model: onnx.ModelProto, node: onnx.NodeProto, table: onnx.TensorProto) -> None:
    """Gather, Gather, Cast, Mul in the place of a Gather from this table."""
    rows = quantize_rows(numpy_helper.to_array(table))
    name, output, indices = table.name, node.output[0], node.input[1]
    new = [
        helper.make_node("Gather", [f"{name}_int8", indices], [f"{output}_int8"], f"{node.name}_values"),
        helper.make_node("Gather", [f"{name}_scale", indices], [f"{output}_scale"], f"{node.name}_scales"),
        helper.make_node("Cast", [f"{output}_int8"], [f"{output}_cast"], f"{node.name}_cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{output}_cast", f"{output}_scale"], [output], f"{node.name}_rescaled"),
    ]
    replace_node(model, node, new)
    store_int8(model, name, rows)


def in_blocks(model: onnx.ModelProto, node: onnx.NodeProto, table: onnx.TensorProto) -> None:
    """onnxruntime's GatherBlockQuantized in the place of a Gather from this table."""
    values, scale = quantize_blocks(numpy_helper.to_array(table))
    name = table.name
    packed = (values[:, 0::2] & 15) | ((values[:, 1::2] & 15) << 4)  # the first of two in the low half of a byte
    new = helper.make_node(
        "GatherBlockQuantized", [f"{name}_int4", node.input[1], f"{name}_scale"], list(node.output), node.name,
        domain="com.microsoft", block_size=BLOCK, gather_axis=0, quantize_axis=1,
    )  # fmt: skip
    replace_node(model, node, [new])
    if all(entry.domain != "com.microsoft" for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.initializer.remove(table)
    raw = packed.astype(np.uint8).tobytes()
    model.graph.initializer.append(helper.make_tensor(f"{name}_int4", TensorProto.INT4, values.shape, raw, raw=True))
    model.graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))

"""Whether this processor's int8 products are exact, or need another kernel to be so.

AVX2, and AVX-512 without VNNI, multiply unsigned activations with signed weights two at a time and add both products
in 16 bits, which saturate. VNNI, AMX and ARM's dot product add in 32. A model of the portable profile bounds its
weights so that no sum saturates anywhere; one of the profile dot-product uses all 8 bits, and so may any folder of
another tool: on the former processors those take a slower kernel.
"""

from __future__ import annotations

from functools import cache

import numpy as np

PORTABLE, DOT_PRODUCT = "portable", "dot-product"
PROFILES = [PORTABLE, DOT_PRODUCT]
# An ONNX graph of one node, c = MatMulInteger(a, b): uint8 (m, k) and int8 (k, n) to int32 (m, n), of any size.
_PRODUCT = (
    b'\x08\x08:b\n\x18\n\x01a\n\x01b\x12\x01c"\rMatMulInteger\x12\x01pZ\x15\n\x01a\x12\x10\n\x0e\x08\x02\x12\n\n\x03\x12'
    b"\x01m\n\x03\x12\x01kZ\x15\n\x01b\x12\x10\n\x0e\x08\x03\x12\n\n\x03\x12\x01k\n\x03\x12\x01nb\x15\n\x01c\x12\x10\n"
    b"\x0e\x08\x06\x12\n\n\x03\x12\x01m\n\x03\x12\x01nB\x04\n\x00\x10\r"
)


@cache
def saturates() -> bool:
    """Whether onnxruntime's kernel here saturates: found by multiplying the largest values there are, about 10 ms."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(_PRODUCT, options, providers=["CPUExecutionProvider"])
    # More than one row and a few vectors wide: a single row may take another kernel.
    inputs = {"a": np.full((8, 64), 255, np.uint8), "b": np.full((64, 32), 127, np.int8)}
    (products,) = session.run(None, inputs)
    return bool((products != 64 * 255 * 127).any())

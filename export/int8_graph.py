"""Surgery on an fp32 ONNX graph: find linear layers, observe and treat their inputs, store them as int8."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from flashranker.processor import saturates
from flashranker.session import WIDE_SUMS
from flashranker.threads import available_threads
from onnx import TensorProto, helper, numpy_helper

from export.rounding import Int8Weight


@dataclass(frozen=True)
class Linear:
    """A MatMul of an activation with a constant weight; `bias` names the constant added to it, or ""."""

    node: str
    source: str
    weight: str
    bias: str


@dataclass(frozen=True)
class Inputs:
    """What the calibration inputs of a linear layer looked like, per channel."""

    hessian: np.ndarray  # float64 (inputs, inputs), mean of x^T x over tokens
    mean: np.ndarray  # float64 (inputs,)
    largest: np.ndarray  # float32 (inputs,), max |x|
    sample: list[np.ndarray]  # float32 (tokens, inputs): some pairs' rows


def initializers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The constants of a graph by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def find_linears(model: onnx.ModelProto) -> list[Linear]:
    """The linear layers of the encoder, in the graph's order; the head's are Gemm nodes and not here.

    A constant with several readers (equal biases, zero say, which the exporter merges, or weights, unless
    `with_own_weights` parts them) is left alone: changing it for one reader would change it for all.
    """
    readers = Counter(name for node in model.graph.node for name in node.input)
    own = {name: tensor for name, tensor in initializers(model).items() if readers[name] == 1}
    added = {}
    for node in model.graph.node:
        if node.op_type == "Add":
            for one, other in (node.input, reversed(list(node.input))):
                if other in own:
                    added[one] = other
    return [
        Linear(node.name, node.input[0], node.input[1], added.get(node.output[0], ""))
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in own and len(own[node.input[1]].dims) == 2
    ]


def with_own_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph in which no two products read one matrix, by its name or through an Identity.

    DeBERTa projects tokens and relative positions by the same weights, and the exporter stores equal layers once. In
    int8 two copies are half of what one takes in fp32, which it would stay: see `find_linears`.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    constants = initializers(made)
    behind = {node.output[0]: node.input[0] for node in made.graph.node if node.op_type == "Identity"}
    taken = set()
    for node in made.graph.node:
        if node.op_type != "MatMul":
            continue
        name = behind.get(node.input[1], node.input[1])
        if name in constants and name in taken:
            copied = made.graph.initializer.add()
            copied.CopyFrom(constants[name])
            copied.name = node.input[1] = f"{name}_of_{node.name}"
        taken.add(name)
    read = {name for node in made.graph.node for name in node.input} | {one.name for one in made.graph.output}
    for node in [one for one in made.graph.node if one.op_type == "Identity" and one.output[0] not in read]:
        made.graph.node.remove(node)
    return made


def open_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A session of one thread, as the runtime opens it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if saturates():
        options.add_session_config_entry(WIDE_SUMS, "1")  # what a model of the profile dot-product is run with
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_pairs(model: onnx.ModelProto, pairs: Iterable[dict[str, np.ndarray]]) -> np.ndarray:
    """Logits float32 (pairs,), each pair run alone and unpadded as the runtime does."""
    session = open_session(model)
    with ThreadPoolExecutor(available_threads()) as pool:
        outputs = pool.map(lambda pair: session.run(["logits"], pair)[0], pairs)
        return np.array([logits[0, 0] for logits in outputs], dtype=np.float32)


def observe(
    model: onnx.ModelProto, sources: Iterable[str], pairs: Sequence[dict[str, np.ndarray]], sampled: int = 8
) -> dict[str, Inputs]:
    """Runs the pairs through the graph and sums up the activations called `sources`, by name."""
    names = list(dict.fromkeys(sources))
    watched = copy(model)
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    session = open_session(watched)
    products: dict[str, np.ndarray] = {}
    sums: dict[str, np.ndarray] = {}
    largest: dict[str, np.ndarray] = {}
    samples: dict[str, list[np.ndarray]] = defaultdict(list)
    tokens: dict[str, int] = defaultdict(int)
    for index, pair in enumerate(pairs):
        for name, value in zip(names, session.run(names, pair), strict=True):
            rows = value.reshape(-1, value.shape[-1])
            products[name] = products.get(name, 0) + (rows.T @ rows).astype(np.float64)
            sums[name] = sums.get(name, 0) + rows.sum(axis=0, dtype=np.float64)
            largest[name] = np.maximum(largest.get(name, 0), np.abs(rows).max(axis=0))
            tokens[name] += len(rows)
            if index % max(1, len(pairs) // sampled) == 0:
                samples[name].append(rows)
    return {
        name: Inputs(products[name] / tokens[name], sums[name] / tokens[name], largest[name], samples[name])
        for name in names
    }


def multiply_activation(model: onnx.ModelProto, source: str, multiplier: np.ndarray) -> None:
    """Lets the linear layers that read an activation read it times `multiplier`, float32 (inputs,); one Mul for all.

    The weights must make up for it, as in SmoothQuant (Xiao et al. 2023). The factor can't move into the LayerNorm of
    a post-norm encoder, whose output the residual needs as it is.
    """
    readers = {linear.node for linear in find_linears(model) if linear.source == source}
    nodes = [node for node in model.graph.node if node.name in readers]
    constant, treated = f"{source}_multiplier", f"{source}_treated"
    model.graph.initializer.append(numpy_helper.from_array(multiplier, constant))
    mul = helper.make_node("Mul", [source, constant], [treated], f"{source}_treat")
    model.graph.node.insert(list(model.graph.node).index(nodes[0]), mul)
    for node in nodes:
        node.input[0] = treated


def add_fp32_channels(model: onnx.ModelProto, linear: Linear, channels: np.ndarray, weight: np.ndarray) -> None:
    """Adds the product of some channels of a layer's activation to its output: Gather, MatMul, Add.

    Args:
        linear: as it was found, before its activation was multiplied and its MatMul replaced.
        channels: int64 (n,); one Gather for all layers that read the activation.
        weight: their rows of the fp32 matrix (n, outputs), stored as fp16.
    """
    picked, name = f"{linear.source}_channels", f"{linear.weight}_channels"
    nodes = list(model.graph.node)
    if not any(picked in node.output for node in nodes):
        indices = f"{picked}_indices"
        model.graph.initializer.append(numpy_helper.from_array(channels, indices))
        gather = helper.make_node("Gather", [linear.source, indices], [picked], f"{linear.source}_pick", axis=-1)
        first = next(node for node in nodes if linear.source in node.input)
        model.graph.node.insert(nodes.index(first), gather)
    output = next(node for node in nodes if node.name == f"{linear.node}_rescaled")
    if linear.bias:
        # Behind the bias, so that ORT folds the bias into the integer product.
        output = next(node for node in nodes if linear.bias in node.input)
    result, rest = output.output[0], f"{output.output[0]}_int8_part"
    output.output[0] = rest
    model.graph.initializer.append(numpy_helper.from_array(weight.astype(np.float16), name))
    position = list(model.graph.node).index(output) + 1
    for offset, node in enumerate(
        (
            helper.make_node("Cast", [name], [f"{name}_fp32"], f"{name}_cast", to=TensorProto.FLOAT),
            helper.make_node("MatMul", [picked, f"{name}_fp32"], [f"{result}_fp32_part"], f"{linear.node}_channels"),
            helper.make_node("Add", [rest, f"{result}_fp32_part"], [result], f"{linear.node}_add_channels"),
        )
    ):
        model.graph.node.insert(position + offset, node)


def multiply_in_int8(model: onnx.ModelProto, linear: Linear, weight: Int8Weight) -> None:
    """Replaces a MatMul by DynamicQuantizeLinear (one an activation), MatMulInteger, Cast and Mul.

    The pattern that ORT's own dynamic quantizer writes, and that ORT fuses at load into one kernel.
    """
    node = next(node for node in model.graph.node if node.name == linear.node)
    source, output, name = node.input[0], node.output[0], linear.weight
    quantized = [f"{source}_quantized", f"{source}_scale", f"{source}_zero_point"]
    new = []
    if not any(quantized[0] in other.output for other in model.graph.node):
        new.append(helper.make_node("DynamicQuantizeLinear", [source], quantized, f"{source}_quantize"))
    zero = f"{name}_zero_point"
    new += [
        helper.make_node(
            "MatMulInteger",
            [quantized[0], f"{name}_int8", quantized[2], zero],
            [f"{output}_int32"],
            f"{node.name}_int8",
        ),
        helper.make_node("Cast", [f"{output}_int32"], [f"{output}_cast"], f"{node.name}_cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [quantized[1], f"{name}_scale"], [f"{output}_scale"], f"{node.name}_scales"),
        helper.make_node("Mul", [f"{output}_cast", f"{output}_scale"], [output], f"{node.name}_rescaled"),
    ]
    replace_node(model, node, new)
    store_int8(model, name, weight)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(weight.values.shape[1], np.int8), zero))


def multiply_in_fp32(model: onnx.ModelProto, linear: Linear, weight: Int8Weight | np.ndarray) -> None:
    """Keeps the MatMul in fp32 and stores its weight as int8 with scales, or as fp16, in place.

    ORT folds the nodes that restore it, Cast and Mul, at load.
    """
    node = next(node for node in model.graph.node if node.name == linear.node)
    name, constant = linear.weight, initializers(model)[linear.weight]
    restored = f"{name}_fp32"
    if isinstance(weight, Int8Weight):
        store_int8(model, name, weight)
        cast = helper.make_node("Cast", [f"{name}_int8"], [f"{name}_cast"], f"{node.name}_cast", to=TensorProto.FLOAT)
        new = [
            cast,
            helper.make_node("Mul", [f"{name}_cast", f"{name}_scale"], [restored], f"{node.name}_rescaled"),
        ]
    else:
        constant.CopyFrom(numpy_helper.from_array(weight, name))
        new = [helper.make_node("Cast", [name], [restored], f"{node.name}_cast", to=TensorProto.FLOAT)]
    replace_node(
        model,
        node,
        [*new, helper.make_node("MatMul", [node.input[0], restored], list(node.output), node.name)],
    )


def shift_bias(model: onnx.ModelProto, linear: Linear, shift: np.ndarray) -> None:
    """Adds `shift` (outputs,) to a linear layer's bias, in place."""
    bias = initializers(model)[linear.bias]
    bias.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(bias) + shift).astype(np.float32), bias.name))


def replace_node(model: onnx.ModelProto, node: onnx.NodeProto, new: list[onnx.NodeProto]) -> None:
    """Puts nodes in the place of one, keeping the graph sorted."""
    position = list(model.graph.node).index(node)
    model.graph.node.remove(node)
    for offset, other in enumerate(new):
        model.graph.node.insert(position + offset, other)


def store_int8(model: onnx.ModelProto, name: str, weight: Int8Weight) -> None:
    """Replaces a constant by its int8 values and its scales."""
    constant = initializers(model).get(name)
    if constant is not None:
        model.graph.initializer.remove(constant)
        model.graph.initializer.append(numpy_helper.from_array(weight.values, f"{name}_int8"))
        model.graph.initializer.append(numpy_helper.from_array(weight.scale, f"{name}_scale"))


def copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """A deep copy."""
    duplicate = onnx.ModelProto()
    duplicate.CopyFrom(model)
    return duplicate

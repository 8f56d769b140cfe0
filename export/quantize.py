"""fp32 ONNX to int8: a ladder that climbs until the int8 graph ranks as the fp32 one does."""

import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from flashranker.processor import PORTABLE
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process

from export import int8_graph
from export.embeddings import quantize_embeddings
from export.layers import Layers, build, by_noise, calibrate
from export.trial import Trial, split

DYNAMIC = "dynamic int8"
COMPENSATED = "smoothed, error-compensated int8"
PARTLY_FP32 = "worst layers multiplied in fp32"
PARTLY_FP16 = "all layers multiplied in fp32, worst stored as fp16"
NO_LAYERS: dict[str, list[str]] = {"fp32_layers": [], "fp16_layers": []}
# A graph for each activation runs them, so that their number multiplies the time of the ladder.
SENSITIVITY_QUERIES, SENSITIVITY_PAIRS = 4, 8
log = logging.getLogger(__name__)


def quantize_int8(
    fp32: Path,
    destination: Path,
    calibration: Sequence[dict[str, np.ndarray]],
    query_ids: Sequence[str],
    *,
    limit_bytes: int,
    target_tau: float = 0.985,
    profile: str = PORTABLE,
) -> dict[str, Any]:
    """Writes an int8 graph from the lowest rung that ranks as fp32 does and fits, or else the best one.

    1. ORT's dynamic quantization: weights per channel, portable ones of 7 bits, 8-bit activations with one scale a
       pair.
    2. Activations smoothed by the factor that measured best, their few widest channels multiplied in fp32 where that
       pays; 8-bit weights, portable ones kept from saturating in pairs, rounded with error compensation; biases
       corrected.
    3. Layers that disturb the logits most for the time they save are multiplied in fp32, as few as needed, up
       to all. Their weights stay stored as int8, so this costs time and no bytes.
    4. The worst of those are stored as fp16 too, as few as needed and as many as the limit allows.

    On every rung embeddings are int8 with a scale per row, or, where the first rung would exceed the limit so, the
    words' have 4 bits with a scale for 32 values. LayerNorms, attention products and the head stay fp32. Every other
    query serves to calibrate; tau is measured on the rest, one pair at a time as the
    runtime runs them.

    Args:
        fp32: the plain (unfused) graph.
        calibration: model inputs of one pair each, int64 (1, length), unpadded.
        query_ids: the query of each pair.
        limit_bytes: largest file.
        target_tau: Kendall tau to reach; above the gate's, because the gate measures other queries.
        profile: for which processors, `flashranker.processor.PROFILES`: the portable one keeps weights from saturating
            (rung 1 by 7 bits, rung 2 in pairs), the other gives them all 8 bits.

    Returns:
        Plain JSON values: "rung", "reached" (tau and bytes), "tau", "noise" (standard deviation of the error
        within queries as a share of the logits' own), "largest_error" (as a share of the largest logit),
        "bytes", "fits", "limit_bytes", "embedding_bits", "target_tau", "profile", "fp32_layers" and "fp16_layers"
        (names), "treatments", "pairs" (how many were measured) and "rungs": all that were tried, with the numbers of
        such layers.

    Raises:
        ValueError: lengths differ, or no query has two pairs.
    """
    if len(calibration) != len(query_ids):
        raise ValueError(f"{len(calibration)} pairs, {len(query_ids)} query ids: expected one id for each pair")
    model = onnx.load(fp32)
    # The runtime makes token types for every tokenizer; many architectures have no such input.
    taken = {value.name for value in model.graph.input}
    calibration = [{name: value for name, value in pair.items() if name in taken} for pair in calibration]
    observing, trial = split(model, calibration, query_ids)
    tried: list[dict[str, Any]] = []
    best: list[tuple[dict[str, Any], onnx.ModelProto]] = []

    def rank(result: dict[str, Any]) -> tuple[bool, bool, float]:
        # Of those that reach the target the latest is best: it has the fewest layers in fp32.
        return result["reached"], result["fits"], 0.0 if result["reached"] else result["tau"]

    def accepts(rung: str, candidate: onnx.ModelProto, **layers: list[str]) -> bool:
        measured = trial.measure(candidate)
        fits = measured["bytes"] <= limit_bytes
        reached = fits and measured["tau"] >= target_tau
        result = {"rung": rung, "reached": reached, "fits": fits} | measured | NO_LAYERS | layers
        tried.append(result)
        log.info("%s %s: tau %.4f", rung, [len(names) for names in layers.values()], measured["tau"])
        if not best or rank(result) >= rank(best[0][0]):
            best[:] = [(result, candidate)]
        return reached

    treatments: dict[str, str] = {}
    bounded = profile == PORTABLE
    bits, candidate = 8, ort_dynamic(model, 8, bounded)
    if candidate.ByteSize() > limit_bytes:
        bits, candidate = 4, ort_dynamic(model, 4, bounded)
    if not accepts(DYNAMIC, candidate):
        layers = calibrate(int8_graph.with_own_weights(model), observing, bits, bounded)
        treatments = {source: one.name for source, one in layers.treatments.items() if not one.plain}
        climb(layers, trial, limit_bytes, accepts)
    result, candidate = best[0]
    write_model(candidate, destination)
    return result | {
        "target_tau": target_tau,
        "profile": profile,
        "limit_bytes": limit_bytes,
        "embedding_bits": bits,
        "pairs": len(trial.pairs),
        "treatments": treatments if result["rung"] != DYNAMIC else {},
        "rungs": [one | {key: len(one[key]) for key in NO_LAYERS} for one in tried],
    }


def climb(layers: Layers, trial: Trial, limit_bytes: int, accepts: Callable[..., bool]) -> None:
    """Rungs 2 to 4: offers candidates to `accepts` until one is taken, then fewer layers while they are."""
    if accepts(COMPENSATED, build(layers)):
        return
    worst = by_noise(layers, trial.few(SENSITIVITY_QUERIES, SENSITIVITY_PAIRS))

    def in_fp32(count: int) -> bool:
        return accepts(PARTLY_FP32, build(layers, worst[:count]), fp32_layers=layers.names(worst[:count]))

    def stored_fp16(count: int) -> bool:
        names = {"fp32_layers": layers.names(worst), "fp16_layers": layers.names(worst[:count])}
        return accepts(PARTLY_FP16, build(layers, worst, worst[:count]), **names)

    if not fewest(len(worst), in_fp32):
        # fp16 takes one byte more a weight: as many layers as the limit has room for.
        room = limit_bytes - build(layers, worst).ByteSize()
        fewest(int((np.cumsum([layers.size(source) for source in worst]) <= room).sum()), stored_fp16)


def fewest(count: int, taken: Callable[[int], bool]) -> bool:
    """Bisects for the least number in 1..count that is taken, supposing that more never hurt; False if none
    is."""
    low, high, found = 1, count, False
    while low <= high:
        middle = (low + high) // 2
        if taken(middle):
            high, found = middle - 1, True
        else:
            low = middle + 1
    return found


def ort_dynamic(model: onnx.ModelProto, embedding_bits: int = 8, bounded: bool = True) -> onnx.ModelProto:
    """Rung 1, by onnxruntime.quantization but for the embeddings."""
    candidate = int8_graph.copy(model)
    quantize_embeddings(candidate, embedding_bits)
    # The quantizer first turns Gemm, here pooler and classifier, into MatMul of this name.
    head = [f"{node.name}_MatMul" for node in candidate.graph.node if node.op_type == "Gemm"]
    with tempfile.TemporaryDirectory() as folder:
        plain, quantized = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(candidate, plain, skip_optimization=True, skip_symbolic_shape=True)
        quantize_dynamic(
            plain, quantized, op_types_to_quantize=["MatMul"], per_channel=True, reduce_range=bounded,
            weight_type=QuantType.QInt8, nodes_to_exclude=head,
            # What comes behind an operator of onnxruntime's own, as 4-bit embeddings are, shape inference can't type.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )  # fmt: skip
        return onnx.load(quantized)


def write_model(model: onnx.ModelProto, destination: Path) -> None:
    """Writes one file through a temporary name."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    temporary = destination.with_name(f".{destination.name}.tmp")
    temporary.write_bytes(model.SerializeToString())
    os.replace(temporary, destination)

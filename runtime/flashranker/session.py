"""The ONNX model: loaded with checks, run one pair at a time on the calling thread."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flashranker.errors import ArtifactError

if TYPE_CHECKING:
    import onnxruntime

WIDE_SUMS = "session.x64quantprecision"  # onnxruntime's name for kernels that add int8 products in 32 bits


def load_model(path: Path, wide_sums: bool) -> Callable[[dict[str, np.ndarray]], float]:
    """Open the model and return its function from one pair's inputs, int64 (1, length), to its logit.

    That function may be called from several threads at once. Both raise ArtifactError: this one if the file
    is no cross-encoder of the contract, the function if the model fails or gives no finite number.
    `wide_sums` is for weights of 8 bits on a processor that `saturates`: exact there, and slower.
    """
    session = _open(path, wide_sums)
    names = [node.name for node in session.get_inputs()]
    output = session.get_outputs()[0].name

    def logit(inputs: dict[str, np.ndarray]) -> float:
        try:
            (logits,) = session.run([output], {name: inputs[name] for name in names})
        except Exception as error:  # onnxruntime's exceptions share no other base
            raise ArtifactError(f"{path} failed ({error}): model and tokenizer may not fit, export again") from error
        # Two labels, "irrelevant" and "relevant": their softmax is the sigmoid of the difference.
        value = logits[0, 1] - logits[0, 0] if logits.shape == (1, 2) else logits.reshape(-1)[0]
        if logits.shape not in ((1, 1), (1, 2)) or not math.isfinite(value):
            raise ArtifactError(f"{path} gave {logits}, expected one finite logit of shape (1, 1): export again")
        return float(value)

    return logit


def engine_version() -> str:
    """Names and versions of what computes the logits, the tokens included."""
    import onnxruntime
    import tokenizers

    from flashranker import __version__

    return f"flashranker {__version__}, onnxruntime {onnxruntime.__version__}, tokenizers {tokenizers.__version__}"


def _open(path: Path, wide_sums: bool) -> onnxruntime.InferenceSession:
    import onnxruntime  # here, and not above: a program that imports flashranker need not load a model

    options = onnxruntime.SessionOptions()
    # One thread a run: every sum is made in the same order, and the cores are kept busy by other pairs.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Memory for activations is kept between runs: the first touch of new memory costs more than the sums in it.
    options.enable_cpu_mem_arena = True
    options.enable_mem_pattern = True
    options.log_severity_level = 4  # errors are raised, and need not be printed too
    if wide_sums:
        options.add_session_config_entry(WIDE_SUMS, "1")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ArtifactError(f"{path} is no model that onnxruntime can run ({error}): export it again") from error

    inputs = {node.name: node.type for node in session.get_inputs()}
    required = {"input_ids", "attention_mask"}
    if not required <= inputs.keys() <= required | {"token_type_ids"} or set(inputs.values()) != {"tensor(int64)"}:
        raise ArtifactError(
            f"{path} has inputs {inputs}, expected int64 input_ids, attention_mask and, if need be, "
            "token_type_ids: export it again"
        )
    output = session.get_outputs()[0]
    shape = output.shape  # a name or None where a dimension is free
    if output.type != "tensor(float)" or len(shape) != 2 or (isinstance(shape[1], int) and shape[1] not in (1, 2)):
        raise ArtifactError(
            f"{path} has output {output.name}, {output.type} of shape {shape}, expected float logits of "
            "shape (batch, 1), or (batch, 2) where the second label is relevance: export such a model"
        )
    return session

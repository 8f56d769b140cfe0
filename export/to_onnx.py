"""A Hugging Face checkpoint becomes an fp32 ONNX graph: int64 inputs (batch, length), output `logits` (batch,
1)."""

import os
import tempfile
from pathlib import Path

import onnx
from optimum.exporters.onnx import export, onnx_export_from_model
from optimum.exporters.onnx.config import TextEncoderOnnxConfig
from optimum.exporters.onnx.model_configs import BertOnnxConfig
from optimum.utils import NormalizedTextConfig
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedModel, T5Config

# 18 is the lowest that optimum recommends for encoders: LayerNormalization is one node (since 17), so the
# graph is small and a quantizer has nothing to trip over. Later opsets bring nothing an encoder needs, and
# older runtimes (browsers, phones) would refuse them.
OPSET = 18
INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")


class T5EncoderOnnxConfig(TextEncoderOnnxConfig):
    """A T5 encoder that ranks; optimum's own settings for T5 know the decoder's tasks only."""

    NORMALIZED_CONFIG_CLASS = NormalizedTextConfig

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """Names and free axes of the graph's inputs."""
        axes = {0: "batch_size", 1: "sequence_length"}
        return {"input_ids": axes, "attention_mask": axes}


class ExportError(RuntimeError):
    """The checkpoint cannot become an artifact: says what was found, what was expected and the remedy."""


def load_checkpoint(checkpoint: Path) -> PreTrainedModel:
    """Loads a sequence classification checkpoint with one label, in fp32 and evaluation mode.

    Attention is loaded "eager": its trace is MatMul, Add, Softmax, MatMul, without the branches that the
    fused kernel needs for shapes it does not support.

    Raises:
        ExportError: the folder is no checkpoint, or its head has not exactly one label.
    """
    if not (checkpoint / "config.json").is_file():
        raise ExportError(
            f"{checkpoint} has no config.json: expected a Hugging Face checkpoint folder; train or copy one"
        )
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, attn_implementation="eager").float().eval()
    if model.config.num_labels != 1:
        raise ExportError(
            f"{checkpoint} has {model.config.num_labels} labels: a reranker needs 1; train with num_labels=1"
        )
    return model


def export_model(model: PreTrainedModel, destination: Path) -> Path:
    """Traces a loaded model with optimum into one ONNX file, checks its signature and moves it into place.

    optimum merely warns when its own comparison fails, so the parity gate (`verify.fp32_parity_gate`)
    decides.

    Raises:
        ExportError: the graph's inputs or output are not the contract's.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".onnx-") as folder:
        if isinstance(model.config, (BertConfig, T5Config)):
            # Whatever the class, its inputs are these; optimum's own look-up knows only classes of transformers.
            inputs = BertOnnxConfig if isinstance(model.config, BertConfig) else T5EncoderOnnxConfig
            settings = inputs(model.config, task="text-classification")
            export(model, settings, Path(folder) / "model.onnx", opset=OPSET, do_constant_folding=True)
        else:
            onnx_export_from_model(
                model, folder, opset=OPSET, task="text-classification", do_validation=False, device="cpu"
            )
        exported = Path(folder) / "model.onnx"
        if any(path.name.endswith("_data") for path in Path(folder).iterdir()):
            raise ExportError("the graph takes more than 2 GB, expected one file: export a smaller model")
        check_signature(exported)
        os.replace(exported, destination)
    return destination


def check_signature(path: Path) -> None:
    """Checks that a graph has the artifact's inputs and output, and dynamic batch and length.

    Raises:
        ExportError: names the input or output that differs.
    """
    graph = onnx.load(path, load_external_data=False).graph
    names = [value.name for value in graph.input]
    if not {"input_ids", "attention_mask"} <= set(names) <= set(INPUT_NAMES):
        raise ExportError(f"{path.name} has inputs {names}: expected {list(INPUT_NAMES)}, the last one optional")
    for value in graph.input:
        tensor = value.type.tensor_type
        fixed = [dim.dim_value for dim in tensor.shape.dim if dim.HasField("dim_value")]
        if tensor.elem_type != onnx.TensorProto.INT64 or len(tensor.shape.dim) != 2 or fixed:
            raise ExportError(f"input {value.name} of {path.name}: expected int64 (batch, length), both dynamic")
    outputs = [(value.name, value.type.tensor_type.elem_type) for value in graph.output]
    if outputs != [("logits", onnx.TensorProto.FLOAT)]:
        raise ExportError(f"{path.name} has outputs {outputs}: expected one, `logits`, float32 (batch, 1)")

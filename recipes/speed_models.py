"""Models to be timed: shapes of the tiers with the built-in backbone's weights, untrained, on the ladder's int8 rung.

How long a model takes depends on its shape and its graph, not on what it has learned.
"""

from copy import deepcopy
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import onnx
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import export
from export.artifact import stage_artifact
from export.cls_graph import export_first_token
from export.layers import build, calibrate
from export.parity import encode_requests
from export.quantize import write_model
from recipes.rivals import Model
from training.backbone import builtin_backbone
from training.student import save_checkpoint

MAX_LENGTH = 512
PACKAGES = ("onnx", "onnxruntime", "torch", "transformers")
CALIBRATION = [
    ("how do I sort a list", ["Return a new list in ascending order.", "Bind the socket to an address."] * 8),
    ("read a csv file", ["Parse lines of comma separated values from a file object." * 4, "A lock."] * 8),
]  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """Layers, hidden size, feed-forward size and heads of a BERT."""

    layers: int
    width: int
    intermediate: int
    heads: int


SHAPES = {"nano": Shape(2, 128, 512, 2), "six": Shape(6, 384, 1536, 12), "twelve": Shape(12, 384, 1536, 12)}


def make_model(name: str, cache: Path) -> Model:
    """The checkpoint and the int8 folder of one shape, made once by this code and these packages and kept in `cache`.

    Six layers are the backbone's, twelve are those twice over, with a little noise; two narrow ones come from a seed.
    """
    code = [*sorted(Path(export.__file__).parent.glob("*.py")), Path(__file__)]
    made_by = [sha256(file.read_bytes()).hexdigest() for file in code] + [version(package) for package in PACKAGES]
    cache /= sha256(" ".join(made_by).encode()).hexdigest()[:12]
    model = Model(name, cache / name, cache / f"{name}-checkpoint", MAX_LENGTH)
    if (model.folder / "flashranker.json").is_file():
        return model
    shape, backbone = SHAPES[name], builtin_backbone()
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    torch.manual_seed(0)
    network = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=1)
    if shape.width == network.config.hidden_size:
        layers = network.bert.encoder.layer
        network.bert.encoder.layer = torch.nn.ModuleList(deepcopy(layers[i % len(layers)]) for i in range(shape.layers))
        network.config.num_hidden_layers = shape.layers
    else:
        network.config.update({
            "num_hidden_layers": shape.layers, "hidden_size": shape.width, "intermediate_size": shape.intermediate,
            "num_attention_heads": shape.heads,
        })  # fmt: skip
        network = AutoModelForSequenceClassification.from_config(network.config)
    with torch.no_grad():
        for parameter in network.parameters():
            # The exporter would store equal values once (zero biases), and the quantizer leaves what is shared alone.
            parameter += 1e-3 * torch.randn_like(parameter)
    cache.mkdir(parents=True, exist_ok=True)
    save_checkpoint(network, tokenizer, model.checkpoint)
    fp32 = export_first_token(model.checkpoint, cache / f"{name}-fp32.onnx").path
    staging = cache / f".{name}.staging"
    stage_artifact(model.checkpoint, fp32, staging, name=name, tier=name, max_length=MAX_LENGTH)
    pairs = [pair for request in encode_requests(staging, CALIBRATION, MAX_LENGTH) for pair in request]
    int8 = cache / f"{name}-int8.onnx"
    write_model(build(calibrate(onnx.load(fp32), pairs)), int8)
    stage_artifact(model.checkpoint, int8, staging, name=name, tier=name, max_length=MAX_LENGTH)
    staging.rename(model.folder)
    return model

"""The last encoder layer computed at the first token only: the same logits for less work.

A head that reads [CLS] alone needs the last layer's query, attention output and feed-forward network at
token 0; the other tokens enter only as keys and values. What is left out was never read, so this is exact.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from export.to_onnx import export_model, load_checkpoint

# Attributes that a layer of the BERT family (BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA, ...) computes with.
LAYER_PARTS = ("attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense")
EXACT = 1e-9  # of the largest logit; in float64, where rounding is far below it


@dataclass(frozen=True)
class FirstTokenExport:
    """An fp32 graph; `first_token_only` tells whether the last layer was cut, `reason` why not."""

    path: Path
    first_token_only: bool
    reason: str


def export_first_token(checkpoint: Path, destination: Path) -> FirstTokenExport:
    """Exports a checkpoint with its last layer at the first token, or whole where that does not apply.

    Raises:
        export.to_onnx.ExportError: as `export_model`.
    """
    model = load_checkpoint(checkpoint)
    reason = cut_last_layer(model)
    return FirstTokenExport(export_model(model, destination), not reason, reason)


def cut_last_layer(model: PreTrainedModel) -> str:
    """Replaces the last layer's forward in place; returns "" or the reason why the model was left as it was.

    Whether the head reads the first token only, and whether this architecture's attention takes a query
    shorter than
    its keys, is decided by computing: on random padded inputs in float64 the logits must not move.
    """
    if getattr(model, "first_token_only", False):  # a model that does so by itself
        return ""
    layers = getattr(getattr(model.base_model, "encoder", None), "layer", None)
    if not layers or any(find(layers[-1], part) is None for part in LAYER_PARTS):
        return f"{type(model).__name__} has no BERT-like encoder layers"
    if getattr(model.config, "is_decoder", False) or getattr(model.config, "add_cross_attention", False):
        return f"{type(model).__name__} is a decoder"
    if (kind := getattr(model.config, "position_embedding_type", "absolute")) != "absolute":
        return f"position embeddings are {kind}, and those need every query position"
    inputs = random_inputs(model)
    layer = layers[-1]
    model.double()  # and back: float32 weights survive that unchanged
    with torch.no_grad():
        whole = model(**inputs).logits
        layer.forward = first_token_forward(layer)
        try:
            difference = float((model(**inputs).logits - whole).abs().max() / whole.abs().max())
            reason = "" if difference <= EXACT else f"the head reads more than the first token ({difference:.1e} apart)"
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            reason = f"{type(layer).__name__}, or the head behind it, needs more than the first token: {error}"
    model.float()
    if reason:
        del layer.forward
    return reason


def first_token_forward(layer: Any) -> Any:
    """A post-norm encoder layer's forward with a query of one token: (batch, length, h) -> (batch, 1, h)."""

    def forward(
        hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, *_: Any, **__: Any
    ) -> tuple[torch.Tensor]:
        first = hidden_states[:, :1]
        # The mask is (batch, 1, 1 or length, length): fused kernels expand it to one row per query.
        mask = None if attention_mask is None else attention_mask[:, :, :1]
        # In "cross attention" keys and values come from another sequence than the query: here, from all
        # tokens.
        context = layer.attention.self(first, mask, encoder_hidden_states=hidden_states)[0]
        attention = layer.attention.output(context, first)
        return (layer.output(layer.intermediate(attention), attention),)

    return forward


def random_inputs(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Three sequences of random ids, (3, 12) int64, two of them padded at the end."""
    generator = torch.Generator().manual_seed(0)
    pad = model.config.pad_token_id if model.config.pad_token_id is not None else 0
    ids = torch.randint(model.config.vocab_size, (3, 12), generator=generator)
    ids[ids == pad] = (pad + 1) % model.config.vocab_size
    mask = torch.ones_like(ids)
    for row, length in enumerate((12, 7, 2)):
        mask[row, length:] = 0
    inputs = {"input_ids": ids.masked_fill(mask == 0, pad), "attention_mask": mask}
    if getattr(model.config, "type_vocab_size", 0) > 1:
        # A head may read the second segment and nothing else: without one it would seem to read the first token only.
        inputs["token_type_ids"] = ((torch.arange(ids.shape[1]) >= 1) & (mask == 1)).long()
    return inputs


def find(module: Any, path: str) -> Any:
    """The submodule at a dotted path, or None."""
    for name in path.split("."):
        module = getattr(module, name, None)
    return module

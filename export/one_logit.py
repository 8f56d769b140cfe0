"""A stock classifier as a reranker of one logit, or a refusal before any work is done."""

from pathlib import Path

import torch
from flashranker.errors import first_line
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)

from export.to_onnx import ExportError

# What was exported, quantized and compared with PyTorch in a test; the two rankers are this project's own.
ARCHITECTURES = (
    "bert", "camembert", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta", "similarity_ranker",
    "t5_ranker", "xlm-roberta",
)  # fmt: skip
# transformers goes on without the files that a class of tokenizers lacks, until None is used as a path.
TOKENIZER_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError)
POSITIVE = 1  # of two labels, that which means relevant, as in every set of sentence pairs


def check_architecture(folder: Path) -> PretrainedConfig:
    """The configuration of a model that can become an artifact; nothing is loaded.

    Raises:
        ExportError: no sequence classifier, another architecture, more than two labels, or no fast tokenizer.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            f"{folder} can't be read as a model ({first_line(error)}): expected a Hugging Face folder"
        ) from None
    if config.model_type not in ARCHITECTURES:
        raise ExportError(f"{folder} is a {config.model_type}, expected one of {', '.join(ARCHITECTURES)}")
    heads = [str(name) for name in config.architectures or []]
    if not any(name.endswith(("ForSequenceClassification", "SimilarityRanker", "T5Ranker")) for name in heads):
        raise ExportError(
            f"{folder} has {', '.join(heads) or 'no architecture'}, expected a sequence classifier: train a head for "
            "it by recipes.distill or recipes.finetune, with --base"
        )
    if config.num_labels > 2:
        raise ExportError(f"{folder} has {config.num_labels} labels, expected 1, or 2 of which one means relevant")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except TOKENIZER_ERRORS as error:
        raise ExportError(
            f"{folder} has no tokenizer that can be read ({first_line(error)}): save a fast tokenizer there, "
            "tokenizer.json"
        ) from None
    if not tokenizer.is_fast:
        raise ExportError(f"{type(tokenizer).__name__} has no tokenizer.json: convert it to a fast tokenizer first")
    return config


def least_bytes(config: PretrainedConfig) -> int:
    """What an int8 graph of this architecture takes at least: half a byte a weight of embeddings, one of any other."""
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    tables = sum(part.weight.numel() for part in model.modules() if isinstance(part, nn.Embedding))
    return sum(weight.numel() for weight in model.parameters()) - tables // 2


def load_one_logit(folder: Path) -> PreTrainedModel:
    """The classifier in float32 with one logit: its own, or of two labels the difference.

    The softmax of two logits is the sigmoid of their difference, so the probability of relevance stays what it was.

    Raises:
        ExportError: as `check_architecture`, or the weights can't be read or lack the head.
    """
    config = check_architecture(folder)
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder, trust_remote_code=False, output_loading_info=True, torch_dtype=torch.float32
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ExportError(
            f"{folder} has no weights that can be read ({first_line(error)}): download it again"
        ) from None
    if missing := sorted(report["missing_keys"]):
        raise ExportError(f"{folder} lacks the weights {missing[0]} (of {len(missing)}): it would rank at random")
    if config.num_labels == 2:
        subtract_labels(model)
    return model.eval()


def subtract_labels(model: PreTrainedModel) -> None:
    """Put one output, relevant minus not relevant, for the two of the model's last linear layer."""
    ends = [name for name, part in model.named_modules() if isinstance(part, nn.Linear) and part.out_features == 2]
    if len(ends) != 1:
        raise ExportError(f"{type(model).__name__} has {len(ends)} layers of two outputs, expected its head alone")
    old = model.get_submodule(ends[0])
    assert isinstance(old, nn.Linear)
    new = nn.Linear(old.in_features, 1, bias=old.bias is not None)
    with torch.no_grad():
        new.weight.copy_(old.weight[POSITIVE] - old.weight[1 - POSITIVE])
        if old.bias is not None:
            new.bias.copy_(old.bias[POSITIVE : POSITIVE + 1] - old.bias[1 - POSITIVE : 2 - POSITIVE])
    model.set_submodule(ends[0], new)
    model.config.num_labels = 1

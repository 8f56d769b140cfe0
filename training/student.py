"""Students: a checkpoint folder to train, made from the built-in backbone, any bi-encoder, or any other encoder.

Whatever the base, the result is a one-logit sequence classification folder without dropout: a student sees
its teacher's targets, which regularise enough, and dropout costs a fifth of the time on a CPU.
"""

import os
import shutil
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from training.backbone import BUILTIN, resolve_model
from training.data import InputError
from training.pair_template import with_token_types
from training.similarity_ranker import SimilarityRanker, SimilarityRankerConfig, load_encoder
from training.static_words import term_weights
from training.t5_ranker import T5Ranker
from training.t5_student import CHECKPOINTS, scratch_student, t5_student
from training.teacher import model_kind
from training.vocabulary import trim_model, trim_tokenizer

OTHER_T5 = ("umt5", "longt5", "switch_transformers")  # their encoders differ, and T5's class would misread them
SCRATCH = "scratch"  # the base's name where a T5 is to start from nothing
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}


def build_student(
    base: str,
    destination: Path,
    *,
    texts: Sequence[str] = (),
    similar: bool | None = None,
    exact: bool = False,
    layers: Sequence[int] | None = None,
    languages: Sequence[str] = (),
    seed: int = 0,
) -> str:
    """Write the untrained student's folder and say in a sentence how it starts.

    A mean-pooled BERT bi-encoder (the built-in backbone is one) becomes a `SimilarityRanker` with its layers or the
    chosen ones; a T5 of any kind a `T5Ranker`; any other encoder keeps its weights, and its head or a fresh one.

    Args:
        base: "builtin", a folder, a hub id, or "scratch" for a small T5 of random weights.
        texts: passages of the domain, whose words' inverse document frequencies a `SimilarityRanker` starts with;
            without them all words weigh the same.
        similar: whether a BERT becomes a `SimilarityRanker`; by default where it is a bi-encoder, with no head.
        exact: whether a BERT that becomes one counts equal words too.
        layers: which of the base's layers to take, counted from 0, some of them repeatedly; all by default.
        languages: codes of the languages whose part of the vocabulary is kept (`vocabulary.SCRIPTS`); all by default.
    Raises: InputError when the base can't be loaded, its head has several labels, a chosen layer is not there, or a
        language is not known.
    """
    torch.manual_seed(seed)
    if base == SCRATCH:
        ranker, words = scratch_student(texts, destination.with_name("words"))
        save_checkpoint(ranker, words, destination)
        return f"{ranker.config.num_layers} random T5 layers on a table of words taught by {BUILTIN}"
    folder = resolve_model(base)
    check_head(folder, base)
    try:
        config = AutoConfig.from_pretrained(folder, num_labels=1)
        if config.model_type in OTHER_T5:
            raise InputError(f"base {base!r} is a {config.model_type}: expected a T5, FLAN-T5 or mT5")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for name, value in NO_DROPOUT.items():
            setattr(config, name, value)
        if similar is None:
            similar = config.model_type == "bert" and model_kind(folder) == "bi-encoder"
        if similar:
            tokenizer = with_token_types(tokenizer)
        if config.model_type in CHECKPOINTS:
            model: PreTrainedModel = t5_student(folder, config, tokenizer)
        else:
            model = _similar(folder, config, tokenizer, texts, exact) if similar else _plain(folder, config)
    # transformers goes on without the files that a class of tokenizers lacks, until None is used as a path.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, SafetensorError) as error:
        raise InputError(
            f"base {base!r} can't be loaded as a one-logit encoder with a fast tokenizer: {error}"
        ) from None
    if layers is not None:
        model = _with_layers(model, layers, base)
    trimmed = ""
    if languages:
        before = model.config.vocab_size
        tokenizer, old_ids = trim_tokenizer(tokenizer, languages)
        trim_model(model, old_ids, tokenizer.pad_token_id)
        trimmed = f", {len(old_ids):,} of its {before:,} pieces for {' '.join(languages)}"
    depth = model.config.num_hidden_layers
    save_checkpoint(model, tokenizer, destination)
    head = "starting from its similarity" if similar else "with its own or a fresh head"
    return f"{depth} layers of {base}, {head}{trimmed}"


def _plain(folder: Path, config: PretrainedConfig) -> PreTrainedModel:
    return AutoModelForSequenceClassification.from_pretrained(folder, config=config)


def _similar(
    folder: Path, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], exact: bool
) -> SimilarityRanker:
    settings = {**config.to_dict(), "model_type": SimilarityRankerConfig.model_type, "exact": exact}
    model = SimilarityRanker(SimilarityRankerConfig(**settings))
    model.bert.load_state_dict(load_encoder(folder).state_dict())
    with torch.no_grad():
        model.term_weight.copy_(term_weights(tokenizer, texts, model.config.vocab_size))
    return model


def reads_apart(checkpoint: Path) -> bool:
    """Whether a student's folder holds a ranker that can read query and passage by themselves too."""
    config = AutoConfig.from_pretrained(checkpoint)
    return config.model_type == SimilarityRankerConfig.model_type or getattr(config, "similar", False)


def save_checkpoint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, destination: Path) -> None:
    """Write a checkpoint folder under a temporary name and rename it; an older one is replaced."""
    temporary = destination.with_name(f".{destination.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(destination, ignore_errors=True)
    os.replace(temporary, destination)


def check_layers(layers: Sequence[int], depth: int, base: str) -> None:
    """Raises InputError for a layer that is not among the base's `depth`, or for none at all."""
    if not layers or any(not 0 <= layer < depth for layer in layers):
        given = " ".join(map(str, layers)) or "empty"
        raise InputError(
            f"--layers is {given}: the base {base!r} has {depth} layers, expected numbers from 0 to {depth - 1}"
        )


def check_head(folder: Path, base: str) -> None:
    """Raises InputError for a base with a head of several labels, which would be thrown away for one of one."""
    if model_kind(folder) != "cross-encoder":
        return
    try:
        labels = AutoConfig.from_pretrained(folder, trust_remote_code=False).num_labels
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # whoever loads the model says more of it
    if labels != 1:
        raise InputError(
            f"base {base!r} has a head of {labels} labels, expected one: `python -m recipes.export` makes one of two, "
            "in NAME.checkpoint, or save its encoder without the head (AutoModel)"
        )


def layers_of(folder: Path) -> int | None:
    """How many layers the model of a folder has, by its configuration; None where that does not say."""
    try:
        return getattr(AutoConfig.from_pretrained(folder, trust_remote_code=False), "num_hidden_layers", None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # whoever loads the model says more of it


def _with_layers(model: PreTrainedModel, layers: Sequence[int], base: str) -> PreTrainedModel:
    """The same model with only these layers, in that order."""
    encoder: Any = getattr(model.base_model, "encoder", None)
    name = "block" if isinstance(model, T5Ranker) else "layer"
    stack = getattr(encoder, name, [])
    depth = len(stack)
    if not depth:
        raise InputError(f"--layers can't pick layers of a {model.config.model_type}: leave it out for base {base!r}")
    check_layers(layers, depth, base)
    if isinstance(model, T5Ranker):
        move_position_table(stack[0], stack[layers[0]])
    setattr(encoder, name, torch.nn.ModuleList(deepcopy(stack[layer]) for layer in layers))
    if isinstance(model, (SimilarityRanker, T5Ranker)) and hasattr(model, "gate"):
        model.gate = torch.nn.Parameter(model.gate[list(layers)].detach().clone())
    model.config.num_hidden_layers = len(layers)
    return model


def move_position_table(old: Any, new: Any) -> None:
    """Give the relative positions, which T5 keeps in its first block alone, to the block that comes first now."""
    source, target = old.layer[0].SelfAttention, new.layer[0].SelfAttention
    target.relative_attention_bias, target.has_relative_attention_bias = source.relative_attention_bias, True

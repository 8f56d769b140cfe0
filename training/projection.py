"""A narrow student cut out of a wider BERT in closed form: least squares on a few hundred texts, no gradient.

The student's hidden states are the backbone's in a basis of fewer dimensions. Going up layer by layer, each
matrix is solved on what the student itself has computed so far, so a layer also corrects errors of the ones
below it.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerBase,
)

from training.data import InputError, first_line
from training.layer_fit import Batch, additive_mask, fit_embeddings, fit_layer, r2

BATCH = 16
HELD_OUT_EVERY = 10  # every tenth text measures R2 and is never fitted


@torch.no_grad()
def project_backbone(
    backbone: Path,
    destination: Path,
    texts: Sequence[str],
    *,
    width: int = 128,
    layers: Sequence[int],
    intermediate: int = 512,
    max_length: int = 128,
    seed: int = 0,
) -> dict[str, float]:
    """Write a one-label BertForSequenceClassification of `width` that imitates `layers` of a BERT backbone.

    The basis is the PCA of the backbone's hidden states; embeddings are projected onto it. Student layer i
    takes those heads and neurons of backbone layer `layers[i]` which add the most variance; matrices that
    read the hidden state read a linear estimate of the backbone's, and matrices that write to it are refitted
    by ridge regression to the backbone's projected state. LayerNorms are fitted per dimension. Heads keep
    their size, so there are `width` / head size of them. Pooler and classifier are drawn from `seed`, dropout is 0,
    and `destination`, with the backbone's tokenizer, replaces what was there.

    Returns "variance", the share of the states' variance inside the basis, and "embeddings", "layer 0", ...:
    R2 of the student's states against the backbone's projected ones. Both on every tenth text, which the fit
    does not see. Raises InputError for a backbone that is no BERT, a shape it can't give, or too few texts.
    """
    teacher, tokenizer = _load(backbone)
    config = _student_config(teacher.config, width, layers, intermediate)
    teacher.encoder.layer = teacher.encoder.layer[: layers[-1] + 1]  # what lies above is never imitated
    batches = _batches(tokenizer, texts, min(max_length, config.max_position_embeddings), width, intermediate)
    basis, variance = _basis(teacher, batches, width, layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = BertForSequenceClassification(config).eval()
    states, narrow = fit_embeddings(student.bert, teacher, batches, basis)
    scores = {"variance": variance, "embeddings": r2(narrow, [state @ basis for state in states], batches)}
    reached = 0
    for index, source in enumerate(layers):
        for layer in teacher.encoder.layer[reached:source]:
            states = [layer(state, additive_mask(batch))[0] for state, batch in zip(states, batches, strict=True)]
        reached = source + 1
        states, narrow = fit_layer(
            student.bert.encoder.layer[index], teacher.encoder.layer[source], states, narrow, batches, basis
        )
        scores[f"layer {index}"] = r2(narrow, [state @ basis for state in states], batches)
    _save(student, tokenizer, destination)
    return scores


def _load(backbone: Path) -> tuple[BertModel, PreTrainedTokenizerBase]:
    try:
        kind = AutoConfig.from_pretrained(backbone, local_files_only=True).model_type
        if kind != "bert":
            raise InputError(f"backbone {backbone} is a {kind} model: only a BERT can be cut")
        teacher, loading = BertModel.from_pretrained(
            backbone,
            use_safetensors=True,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(backbone, local_files_only=True)
    except InputError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"backbone {backbone} can't be loaded ({first_line(error)}): expected a BERT folder with model.safetensors"
        ) from error
    missing = sorted(name for name in loading["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise InputError(
            f"backbone {backbone} lacks {len(missing)} weights (first: {missing[0]}): restore model.safetensors"
        )
    return teacher.eval(), tokenizer


def _student_config(wide: BertConfig, width: int, layers: Sequence[int], intermediate: int) -> BertConfig:
    head_size = wide.hidden_size // wide.num_attention_heads
    if width % head_size or not 0 < width <= wide.hidden_size:
        raise InputError(
            f"a student of width {width} can't be cut out of {wide.hidden_size}: expected a multiple of the "
            f"head size {head_size}, at most {wide.hidden_size}"
        )
    if not 0 < intermediate <= wide.intermediate_size:
        raise InputError(f"intermediate is {intermediate}, expected 1 to {wide.intermediate_size}")
    if not layers or list(layers) != sorted(set(layers) & set(range(wide.num_hidden_layers))):
        raise InputError(f"layers are {list(layers)}, expected rising numbers out of 0 to {wide.num_hidden_layers - 1}")
    config = BertConfig.from_dict(wide.to_dict())
    config.update(
        {
            "hidden_size": width,
            "num_hidden_layers": len(layers),
            "num_attention_heads": width // head_size,
            "intermediate_size": intermediate,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "classifier_dropout": None,
            "id2label": {0: "LABEL_0"},
            "label2id": {"LABEL_0": 0},
        }
    )
    return config


def _batches(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int,
    width: int,
    intermediate: int,
) -> list[Batch]:
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"] if texts else []
    held_out = {number for number in range(len(encoded)) if number % HELD_OUT_EVERY == HELD_OUT_EVERY // 2}
    tokens = sum(len(ids) for number, ids in enumerate(encoded) if number not in held_out)
    needed = max(width, intermediate) + 1
    if not held_out or tokens < needed:
        raise InputError(
            f"{len(texts)} texts with {tokens} tokens are too few to fit a projection: expected at least "
            f"{HELD_OUT_EVERY} texts and {needed} tokens; some hundred texts give a good one"
        )
    # Texts of a length together: hardly any padding.
    order = sorted(range(len(encoded)), key=lambda number: len(encoded[number]))
    batches = []
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        rows = [torch.tensor(encoded[number]) for number in part]
        ids = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
        real = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
        measured = real & torch.tensor([number in held_out for number in part])[:, None]
        batches.append(Batch(ids, real.long(), real & ~measured, measured))
    return batches


def _basis(teacher: BertModel, batches: list[Batch], width: int, layers: Sequence[int]) -> tuple[Tensor, float]:
    """Orthonormal (hidden size, width) without any share of the ones direction, and its held-out variance.

    A LayerNorm subtracts the mean over dimensions, which would destroy one direction of the student's space.
    So only width - 1 principal components are kept, and turned by a reflection to be orthogonal to it; a
    student of the backbone's own width and uniform LayerNorm weights then loses nothing.
    """
    size, levels = teacher.config.hidden_size, [0, *(number + 1 for number in layers)]
    count = torch.zeros(2, 1, dtype=torch.float64)
    total = torch.zeros(2, len(levels), size, dtype=torch.float64)
    square = torch.zeros(2, size, size, dtype=torch.float64)
    for batch in batches:
        hidden = teacher(batch.ids, batch.attention_mask, output_hidden_states=True).hidden_states
        for part, chosen in enumerate((batch.fitted, batch.measured)):
            count[part] += chosen.sum()
            for number, level in enumerate(levels):
                rows = hidden[level][chosen].double()
                total[part, number] += rows.sum(0)
                square[part] += rows.T @ rows
    # Around each level's own mean: the student's biases and LayerNorms make up for the means.
    fitted, measured = square - torch.einsum("pld,ple->pde", total, total) / count[:, :, None]
    components = torch.linalg.eigh(fitted).eigenvectors.flip(1)[:, : width - 1]
    # eigh leaves the signs open.
    components = components * components.gather(0, components.abs().argmax(0, keepdim=True)).sign()
    mirror = torch.full((width,), width**-0.5, dtype=torch.float64)
    mirror[-1] -= 1.0
    turn = torch.eye(width, dtype=torch.float64) - 2 * torch.outer(mirror, mirror) / mirror.dot(mirror)
    share = torch.trace(components.T @ measured @ components) / torch.trace(measured)
    return (components @ turn[:, :-1].T).float(), float(share)


def _save(student: BertForSequenceClassification, tokenizer: PreTrainedTokenizerBase, destination: Path) -> None:
    staging = destination.with_name(f".{destination.name}.{os.getpid()}.tmp")
    old = destination.with_name(f".{destination.name}.{os.getpid()}.old")
    try:
        student.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        if destination.exists():
            os.replace(destination, old)
        os.replace(staging, destination)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)

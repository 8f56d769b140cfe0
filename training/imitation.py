"""Imitation: a projected student learns on plain text to read each token, and each text, as its backbone does.

A projection fits each layer to the one it stands for; what four left-out layers did is not in it. Here the student
reads the texts that its backbone reads, and its last states are to point where the backbone's point in the student's
own, narrower space: those of tokens, which late interaction compares (in the spirit of the hidden states that TinyBERT
distils; Jiao et al., Findings of EMNLP 2020), and their means, which are compared as well. No query and no judgment is
needed.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from training.data import RankingData, held_texts, normalized
from training.losses import shared
from training.precision import exact
from training.similarity_ranker import load_encoder, mean

TEXTS_A_ROW = 32
SAMPLED_ROWS = 24  # of which the student's space is found in the backbone's
REPLACED = 0.15  # of a text's tokens, by any other: few texts then show the whole vocabulary, in many places


def texts_to_imitate(data: RankingData, count: int, seed: int) -> list[str]:
    """`count` texts in random order: train queries, passages and plain texts, without what `data.held_texts` names.

    Each comes as often as another, those of mixed data too: it is a sample of language, and the weights count queries.
    """
    held = held_texts(data)
    queries = [data.queries[query] for query in data.splits["train"]]
    given = [queries, data.passages.values(), *data.texts.values()]
    texts = [text for part in given for text in part if normalized(text) not in held]
    generator = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < count:
        order += generator.permutation(len(texts)).tolist()
    return [texts[i] for i in order[:count]]


def imitation_dataset(texts: Sequence[str], seed: int) -> Dataset:
    """The trainer's column: `texts`, 32 of about one length a row, in random order. What fills no row is left out.

    Repeated texts stand in different rows: there is nothing to learn from a text beside itself.
    """
    before: Counter[str] = Counter()
    keys = []
    for text in texts:
        keys.append((before[text], len(text)))
        before[text] += 1
    ordered = [texts[i] for i in sorted(range(len(texts)), key=keys.__getitem__)]
    rows = [ordered[i : i + TEXTS_A_ROW] for i in range(0, len(ordered) - TEXTS_A_ROW + 1, TEXTS_A_ROW)]
    return Dataset.from_dict({"texts": [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]})


class ImitationLoss(nn.Module):
    """What the trainer calls with the rows of `imitation_dataset`; the model is a `SimilarityRanker` of a backbone.

    Both read the texts with a share of their tokens `replaced` by any others. `sample`: rows of texts from which the
    `basis` is found, by which the backbone's states are compared with the student's: (width, student's width).
    Only the encoder learns: the readings of its states keep what they start with.
    """

    def __init__(
        self, model: CrossEncoder, backbone: Path, sample: Sequence[list[str]], replaced: float = REPLACED
    ) -> None:
        super().__init__()
        self.model = model
        self.unwrapped = shared(model)
        # Hidden from the trainer, which would train it.
        self.backbone = (load_encoder(backbone).eval().to(model.device),)
        self.backbone_ids = ids_of_pieces(model.tokenizer, AutoTokenizer.from_pretrained(backbone)).to(model.device)
        special = set(model.tokenizer.all_special_ids)
        self.pieces = torch.tensor([one for one in range(len(model.tokenizer)) if one not in special]).to(model.device)
        ranker: Any = model[0].model
        for name, parameter in ranker.named_parameters():
            parameter.requires_grad_(name.startswith("bert."))
        self.replaced = replaced
        with torch.no_grad():
            self.basis = aligned(self.directions(texts, 0.0)[0] for texts in sample)

    def forward(self, inputs: list[Any], labels: None, prompt: str | None = None, task: str | None = None) -> Tensor:
        """A scalar, the mean over rows; the trainer passes `prompt` and `task` to every loss."""
        (rows,) = inputs
        return torch.stack([self.distance(texts) for texts in rows]).mean()

    def distance(self, texts: list[str]) -> Tensor:
        """Mean squared distance of the student's directions to the backbone's in its basis: of tokens and of texts."""
        directions = self.directions(texts, self.replaced)
        with exact(self.basis):
            return torch.stack(
                [(found - expected @ self.basis).square().sum(1).mean() for found, expected in directions]
            ).sum()

    def directions(self, texts: list[str], replaced: float) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Last states of all tokens and means of all texts, by student and backbone: unit vectors (count, width)."""
        (model,) = self.unwrapped
        tokens = model.tokenizer(
            texts, padding=True, truncation=True, max_length=model.max_length, return_tensors="pt"
        ).to(model.device)
        mask = tokens["attention_mask"]
        ids = with_other_pieces(tokens["input_ids"], self.pieces, replaced)
        ranker: Any = model[0].model
        with torch.no_grad():
            wide = self.backbone[0](self.backbone_ids[ids], attention_mask=mask).last_hidden_state.float()
        narrow = ranker.encode(ids, mask, torch.zeros_like(ids)).float()
        real = mask.float()
        return (
            (normalize(narrow[mask.bool()], dim=1), normalize(wide[mask.bool()], dim=1)),
            (mean(narrow, real), mean(wide, real)),
        )


def aligned(directions: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """The orthonormal basis, (width, student's width), in which the backbone's directions are nearest to the student's.

    `directions`: pairs of the student's and the backbone's, (count, student's width) and (count, width). The solution
    of the orthogonal Procrustes problem by singular values (Schönemann, Psychometrika 1966).
    """
    products = [wide.T @ narrow for narrow, wide in directions]
    left, _, right = torch.linalg.svd(torch.stack(products).sum(0), full_matrices=False)
    return left @ right


def with_other_pieces(ids: Tensor, pieces: Tensor, share: float) -> Tensor:
    """Token ids with that share of them, drawn at random, replaced by others of `pieces`; what is none of them stays.

    Whatever words stand beside each other, the backbone says how near they are: no text is needed that holds them.
    """
    drawn = (torch.rand(ids.shape, device=ids.device) < share) & torch.isin(ids, pieces)
    return torch.where(drawn, pieces[torch.randint(len(pieces), ids.shape, device=ids.device)], ids)


def ids_of_pieces(student: PreTrainedTokenizerBase, backbone: PreTrainedTokenizerBase) -> Tensor:
    """The backbone's id of each piece of the student's vocabulary, which may be a part of its own: int64 (pieces,)."""
    return torch.tensor(backbone.convert_tokens_to_ids(student.convert_ids_to_tokens(list(range(len(student))))))

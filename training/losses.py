"""Losses over candidate lists: pure functions of (queries, candidates) matrices, and the adapter the trainer calls.

Listwise distillation follows ListNet (Cao et al., ICML 2007) with a teacher's distribution as target; the regression
onto raw teacher logits follows the pointwise recipe of the Ettin rerankers; the gold term is the localized contrastive
estimation of Gao, Dai and Callan (ECIR 2021); gBCE is that of Petrov and Macdonald (RecSys 2023), who trained shallow
cross-encoders with it (ECIR 2024, arXiv 2403.20222).
"""

from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.util import batch_to_device
from torch import Tensor, nn
from torch.nn.functional import log_softmax, logsigmoid
from transformers import AutoConfig

from training.processes import average_gradients


def listwise_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL divergence from the teacher's to the student's distribution over each query's candidates.

    Args:
        student: logits, (queries, candidates).
        teacher: raw teacher logits, (queries, candidates).
        temperature: divides both; the result is multiplied by its square, which keeps the gradient's size
            (Hinton, Vinyals and Dean, 2015).
    Returns: a scalar, the mean over queries, in nats.
    """
    target = log_softmax(teacher / temperature, dim=1)
    predicted = log_softmax(student / temperature, dim=1)
    return (target.exp() * (target - predicted)).sum(dim=1).mean() * temperature**2


def gold_cross_entropy(student: Tensor, grades: Tensor) -> Tensor:
    """Cross entropy of each query's candidates against its judgments, grades normalised to a distribution.

    A query without a relevant candidate teaches nothing here and is left out of the mean.

    Args:
        student: logits, (queries, candidates).
        grades: judgments >= 0, (queries, candidates); 0 is not relevant.
    Returns: a scalar in nats; 0 if no query has a relevant candidate.
    """
    total = grades.sum(dim=1)
    judged = total > 0
    target = grades / total.clamp_min(1e-9)[:, None]
    per_query = -(target * log_softmax(student, dim=1)).sum(dim=1)
    return (per_query * judged).sum() / judged.sum().clamp_min(1)


def regression(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of raw logits: the teacher's whole range counts, not only each list's order.

    Args: student and teacher logits, (queries, candidates).
    Returns: a scalar, in squared logits.
    """
    return (student - teacher).square().mean()


def gbce(student: Tensor, grades: Tensor, exponent: float) -> Tensor:
    """Generalised binary cross entropy: each candidate's own, a relevant one's probability raised to `exponent`.

    With few negatives a model learns probabilities that are too high; an exponent below 1 weighs the relevant ones
    down for it. At 1 this is the plain binary cross entropy.

    Args:
        student: logits, (queries, candidates).
        grades: judgments >= 0, (queries, candidates); above 0 is relevant.
        exponent: see `gbce_exponent`.
    Returns: a scalar, the mean over all candidates, in nats.
    """
    # log(sigmoid(s) ** exponent) is exponent times log(sigmoid(s)).
    return -torch.where(grades > 0, exponent * logsigmoid(student), logsigmoid(-student)).mean()


def gbce_exponent(negatives: int, passages: int, calibration: float) -> float:
    """The exponent beta of gBCE: rate * (calibration * (1 - 1 / rate) + 1 / rate).

    `rate` is the share of a query's negatives in the corpus of `passages` that training sees, `negatives` of them.
    `calibration` is the paper's t: 0 gives plain binary cross entropy, and 1 probabilities as if all had been seen.
    """
    rate = min(1.0, negatives / max(1, passages - 1))
    return 1 - calibration * (1 - rate)


def mixed_loss(
    student: Tensor,
    teacher: Tensor,
    grades: Tensor,
    *,
    kl_weight: float,
    regression_weight: float,
    gold_weight: float,
    temperature: float,
    gbce_weight: float = 0.0,
    exponent: float = 1.0,
) -> dict[str, Tensor]:
    """The weighted terms by name, each a scalar; their sum is the loss. Shapes (queries, candidates) throughout."""
    terms = {
        "kl": kl_weight * listwise_kl(student, teacher, temperature),
        "regression": regression_weight * regression(student, teacher),
        "gold": gold_weight * gold_cross_entropy(student, grades),
    }
    if gbce_weight:
        terms["gbce"] = gbce_weight * gbce(student, grades, exponent)
    return terms


def shared(model: CrossEncoder) -> tuple[CrossEncoder]:
    """The model, its gradients averaged over the processes that train it, hidden from the trainer.

    For several processes the trainer puts DistributedDataParallel around what it finds. That can be called once a step
    and as a whole only, and the losses call the model several times, or a part of it.
    """
    average_gradients(model)
    return (model,)


class DistillationLoss(nn.Module):
    """What the trainer calls: all pairs of a batch in one flat pass, sorted by length so that little is padding.

    The trainer hands over the columns query and passages (lists of one length) and labels (2, candidates):
    teacher logits, then grades. The attribute must be named `model`, or the trainer cannot wrap it for several devices.
    """

    def __init__(self, model: CrossEncoder, pairs_per_forward: int = 16, **weights: float) -> None:
        super().__init__()
        self.model = model
        self.unwrapped = shared(model)
        self.pairs_per_forward = pairs_per_forward
        self.weights = weights

    def forward(
        self, inputs: list[Any], labels: list[Tensor], prompt: str | None = None, task: str | None = None
    ) -> dict[str, Tensor]:
        """The loss terms by name, which the trainer adds up; it passes `prompt` and `task` to every loss."""
        queries, passages = inputs
        pairs = [(query, passage) for query, ranked in zip(queries, passages, strict=True) for passage in ranked]
        student = self.logits(pairs).view(len(queries), -1).float()
        target = torch.stack(labels).to(student.device).float()
        return mixed_loss(student, target[:, 0], target[:, 1], **self.weights)

    def logits(self, pairs: list[tuple[str, str]]) -> Tensor:
        """Logits of (query, passage) pairs in their order, (pairs,); padded only to the longest of each chunk."""
        (model,) = self.unwrapped
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
        chunks = [order[i : i + self.pairs_per_forward] for i in range(0, len(order), self.pairs_per_forward)]
        outputs = []
        for chunk in chunks:
            features = model.preprocess([pairs[i] for i in chunk])
            outputs.append(model(batch_to_device(features, model.device))["scores"].view(-1))
        back = torch.empty(len(pairs), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(pairs))
        return torch.cat(outputs)[back.to(outputs[0].device)]


class NeighbourhoodLoss(nn.Module):
    """What the trainer calls with the rows of `neighbours.neighbourhood_dataset`; the model is a `SimilarityRanker`.

    Each row is scored whole, queries and passages read apart, and every query has its cross entropy to the judgments.
    A teacher, a checkpoint that reads apart too, scores the same pairs: added are the KL divergences to its
    distribution over each query's passages and over each passage's queries.
    Of several processes each reads rows of its own.
    """

    def __init__(
        self, model: CrossEncoder, teacher: Path | None = None, gold_weight: float = 1.0, kl_weight: float = 0.0
    ) -> None:
        super().__init__()
        self.model = model
        self.unwrapped = shared(model)
        self.gold_weight, self.kl_weight = gold_weight, kl_weight
        # Hidden from the trainer, which would train it.
        self.teacher = (_open_teacher(teacher, model) if teacher else None,)

    def forward(
        self, inputs: list[Any], labels: list[Tensor], prompt: str | None = None, task: str | None = None
    ) -> dict[str, Tensor]:
        """The loss terms by name, means over rows; the trainer passes `prompt` and `task` to every loss."""
        (model,), (teacher,) = self.unwrapped, self.teacher
        terms: dict[str, list[Tensor]] = {"gold": [], "kl": []}
        for queries, passages, grades in zip(*inputs, labels, strict=True):
            student = score_apart(model, queries, passages)
            terms["gold"].append(self.gold_weight * gold_cross_entropy(student, grades.to(model.device)))
            if teacher:
                with torch.no_grad():
                    target = score_apart(teacher, queries, passages)
                both = listwise_kl(student, target) + listwise_kl(student.T, target.T)
                terms["kl"].append(self.kl_weight * both)
        return {name: torch.stack(values).mean() for name, values in terms.items() if values}


def _open_teacher(folder: Path, student: CrossEncoder) -> CrossEncoder:
    """A teacher on the student's device, which reads as much of a text as the student does, or as it can."""
    limit = getattr(AutoConfig.from_pretrained(folder), "max_position_embeddings", student.max_length)
    length = min(student.max_length, limit)
    return CrossEncoder(str(folder), max_length=length, device=str(student.device)).eval()


def score_apart(model: CrossEncoder, queries: list[str], passages: list[str]) -> Tensor:
    """Logits of all pairs by a model that reads query and passage apart, float32 (queries, passages)."""
    tokens = [
        model.tokenizer(texts, padding=True, truncation=True, max_length=model.max_length, return_tensors="pt").to(
            model.device
        )
        for texts in (queries, passages)
    ]
    ranker: Any = model[0].model
    return ranker.score_apart(*(side[name] for side in tokens for name in ("input_ids", "attention_mask"))).float()

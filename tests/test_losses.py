"""Losses by hand, and against sentence-transformers' ListNetLoss as an oracle."""

import math
from pathlib import Path

import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.losses import ListNetLoss

from training.losses import (
    DistillationLoss,
    gbce,
    gbce_exponent,
    gold_cross_entropy,
    listwise_kl,
    mixed_loss,
    regression,
)

QUERIES = ["python list sort", "river bridge"]
PASSAGES = [["sort a list", "copper falcon", "python"], ["mountain river water", "bridge", "open file read write json"]]
TEACHER = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
KL_ONLY = {"kl_weight": 1.0, "regression_weight": 0.0, "gold_weight": 0.0, "temperature": 1.0}


def test_listwise_kl_by_hand() -> None:
    # The teacher says 3/4 and 1/4, the student 1/2 and 1/2.
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    value = listwise_kl(torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]]))
    assert value.item() == pytest.approx(expected, abs=1e-6)


def test_temperature_flattens_both_sides_and_keeps_the_size() -> None:
    student, teacher = torch.tensor([[1.0, -2.0, 0.0]]), torch.tensor([[3.0, 1.0, 0.0]])
    assert listwise_kl(student, teacher, 2.0).item() == pytest.approx(4 * listwise_kl(student / 2, teacher / 2).item())


def test_gold_cross_entropy_leaves_out_queries_without_a_relevant_candidate() -> None:
    student = torch.tensor([[math.log(4.0), 0.0, 0.0], [5.0, 1.0, 0.0]])
    grades = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert gold_cross_entropy(student, grades).item() == pytest.approx(math.log(6 / 4), abs=1e-6)
    assert gold_cross_entropy(student, torch.zeros(2, 3)).item() == 0.0


def test_gold_cross_entropy_shares_the_target_by_grade() -> None:
    grades = torch.tensor([[2.0, 1.0, 0.0]])
    student = torch.tensor([[0.3, -0.2, 0.9]])
    log_p = torch.log_softmax(student, dim=1)[0]
    assert gold_cross_entropy(student, grades).item() == pytest.approx(-(2 * log_p[0] + log_p[1]).item() / 3, abs=1e-6)


def test_gbce_by_hand() -> None:
    # Sigmoids 1/2 and 4/5 of relevant candidates, 1/4 and 2/3 of others: powers of 1/4, and complements 3/4 and 1/3.
    student = torch.tensor([[0.0, -math.log(3.0)], [math.log(4.0), math.log(2.0)]])
    grades = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    expected = -(0.25 * math.log(1 / 2) + math.log(3 / 4) + 0.25 * math.log(4 / 5) + math.log(1 / 3)) / 4
    assert gbce(student, grades, 0.25).item() == pytest.approx(expected, abs=1e-6)
    plain = torch.nn.functional.binary_cross_entropy_with_logits(student, (grades > 0).float())
    assert gbce(student, grades, 1.0).item() == pytest.approx(plain.item(), abs=1e-6)
    assert torch.isfinite(gbce(torch.tensor([[-200.0, 200.0]]), torch.tensor([[1.0, 0.0]]), 0.25))


def test_the_exponent_of_gbce_by_the_papers_formula() -> None:
    # 7 of the 20 negatives: alpha = 0.35, beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha).
    assert gbce_exponent(7, 21, 0.75) == pytest.approx(0.35 * (0.75 * (1 - 1 / 0.35) + 1 / 0.35))
    assert gbce_exponent(7, 21, 0.0) == 1.0
    assert gbce_exponent(7, 21, 1.0) == pytest.approx(0.35)
    assert gbce_exponent(7, 8_841_823, 0.75) == pytest.approx(0.25, abs=1e-5)
    assert gbce_exponent(7, 5, 0.75) == 1.0  # more negatives than there are: all were seen


def test_gbce_is_a_term_where_it_has_a_weight() -> None:
    student, grades = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    assert list(mixed_loss(student, TEACHER[:1], grades, **KL_ONLY)) == ["kl", "regression", "gold"]
    terms = mixed_loss(student, TEACHER[:1], grades, **KL_ONLY, gbce_weight=3.0, exponent=0.4)
    assert terms["gbce"].item() == pytest.approx(3 * gbce(student, grades, 0.4).item())


def test_mixed_loss_weighs_its_terms() -> None:
    student, grades = (
        torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 1.0]]),
        torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]),
    )
    terms = mixed_loss(student, TEACHER, grades, kl_weight=2.0, regression_weight=3.0, gold_weight=0.5, temperature=1.0)
    assert terms["kl"].item() == pytest.approx(2 * listwise_kl(student, TEACHER).item())
    # (1-2)^2 + 1 + 1.5^2 + 0 + 1 + 3^2, over six pairs
    assert terms["regression"].item() == pytest.approx(3 * (1 + 1 + 2.25 + 0 + 1 + 9) / 6)
    assert regression(TEACHER, TEACHER).item() == 0
    assert terms["gold"].item() == pytest.approx(0.5 * gold_cross_entropy(student, grades).item())


def model_of(checkpoint: Path) -> CrossEncoder:
    return CrossEncoder(str(checkpoint), max_length=64, activation_fn=torch.nn.Identity())


def gradients(model: CrossEncoder, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}


def test_kl_gradient_equals_listnet(tiny_checkpoint: Path) -> None:
    model = model_of(tiny_checkpoint).eval()
    listnet = ListNetLoss(model)([QUERIES, PASSAGES], list(TEACHER))
    expected = gradients(model, listnet)
    ours = DistillationLoss(model, **KL_ONLY)
    labels = [torch.stack([row, torch.zeros(3)]) for row in TEACHER]
    found = gradients(model, sum(ours([QUERIES, PASSAGES], labels, prompt=None, task=None).values()))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)


def test_pairs_keep_their_order_whatever_the_chunk(tiny_checkpoint: Path) -> None:
    model = model_of(tiny_checkpoint).eval()
    pairs = [(query, passage) for query, passages in zip(QUERIES, PASSAGES, strict=True) for passage in passages]
    expected = model.predict(pairs, convert_to_tensor=True)
    for size in (1, 4, 16):
        found = DistillationLoss(model, pairs_per_forward=size, **KL_ONLY).logits(pairs)
        torch.testing.assert_close(found.detach(), expected.view(-1), atol=1e-5, rtol=1e-5)

"""Training apart with a teacher of neighbourhoods: what it adds to the loss, who it is, and who follows it."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_tokenizer
from safetensors.torch import load_file
from scipy.special import softmax
from scipy.stats import entropy
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Pooling, Transformer
from test_stages import prepared
from test_train import PASSAGES, QUERIES
from transformers import BertConfig, BertModel

from recipes.settings import TrainingConfig
from recipes.stages import train_apart
from training.backbone import builtin_backbone
from training.dev import load_student
from training.losses import NeighbourhoodLoss, gold_cross_entropy, score_apart
from training.prepare import make_start, neighbourhood_teacher
from training.student import build_student
from training.tiers import TIERS


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ranker that reads apart, of other random weights than `bi_encoder`'s."""
    folder = tmp_path_factory.mktemp("teacher")
    (folder / "plain").mkdir()
    tokenizer = make_tokenizer(folder / "plain")
    torch.manual_seed(5)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1}
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, initializer_range=0.4, **size)
              ).save_pretrained(folder / "plain")  # fmt: skip
    tokenizer.save_pretrained(folder / "plain")
    parts: Any = [Transformer(str(folder / "plain")), Pooling(32)]
    SentenceTransformer(modules=parts).save_pretrained(str(folder / "two"))
    build_student(str(folder / "two"), folder / "ranker")
    return folder / "ranker"


def scored(checkpoint: Path) -> np.ndarray:
    """Logits (queries, passages) of a few texts, read apart."""
    with torch.no_grad():
        return score_apart(load_student(checkpoint, 32), QUERIES[:6], PASSAGES).double().numpy()


def test_the_teacher_counts_by_query_and_by_passage(bi_encoder: Path, teacher: Path, tmp_path: Path) -> None:
    build_student(str(bi_encoder), tmp_path / "student")
    mine, target = scored(tmp_path / "student"), scored(teacher)
    by_query, by_passage = (
        entropy(softmax(target, axis=axis), softmax(mine, axis=axis), axis=axis).mean() for axis in (1, 0)
    )
    grades = torch.eye(6)
    loss = NeighbourhoodLoss(load_student(tmp_path / "student", 32), teacher, gold_weight=0.5, kl_weight=2.0)
    found = loss([[QUERIES[:6]], [PASSAGES]], [grades])
    assert found["kl"].item() == pytest.approx(2.0 * (by_query + by_passage), rel=1e-4)
    assert found["gold"].item() == pytest.approx(0.5 * gold_cross_entropy(torch.tensor(mine), grades).item(), rel=1e-4)
    assert abs(by_query - by_passage) > 0.01
    plain = NeighbourhoodLoss(load_student(tmp_path / "student", 32))
    assert list(plain([[QUERIES[:6]], [PASSAGES]], [grades])) == ["gold"]


def test_a_student_comes_nearer_to_the_teacher_and_by_judgments_alone_it_does_not(
    bi_encoder: Path, teacher: Path, tmp_path: Path
) -> None:
    tier, data, dev, examples = prepared(tmp_path, queries=48)
    make_start(str(bi_encoder), tier, examples.texts, tmp_path / "start", 0)
    queries, passages = list(data.queries.values())[:12], list(data.passages.values())[:12]

    def away(checkpoint: Path) -> float:
        """Mean divergence from the teacher's distribution over passages."""
        sides = [
            score_apart(load_student(one, 32), queries, passages).detach().numpy() for one in (teacher, checkpoint)
        ]
        return float(entropy(*(softmax(side, axis=1) for side in sides), axis=1).mean())

    reached = {}
    for name, weights in {"taught": (1.0, 0.0), "judged": (0.0, 1.0)}.items():
        folder = tmp_path / name
        shutil.copytree(tmp_path / "start", folder / "start")
        config = TrainingConfig(
            apart_queries=480, neighbours=8, apart_rate=1e-2, apart_kl=weights[0], apart_gold=weights[1], candidates=4,
            train_length=32, evaluations=1, precision="fp32",
        )  # fmt: skip
        result = train_apart(config, tier, data, dev, folder, 0, teacher=teacher)
        assert result is not None
        reached[name] = away(folder / "apart/best")
    start = away(tmp_path / "start")
    assert reached["taught"] < 0.5 * start
    assert reached["judged"] > 0.8 * start


def test_the_teacher_reads_no_more_than_it_can_and_is_not_trained(
    bi_encoder: Path, teacher: Path, tmp_path: Path
) -> None:
    build_student(str(bi_encoder), tmp_path / "student")
    loss = NeighbourhoodLoss(load_student(tmp_path / "student", 512), teacher, kl_weight=1.0)
    (one,) = loss.teacher
    assert one is not None
    assert one.max_length == 64
    queries, passages = [QUERIES[:6]], [["river water bread " * 40, *PASSAGES[1:]]]
    loss.unwrapped[0].max_length = 64
    sum(loss([queries, passages], [torch.eye(6)]).values()).backward()
    assert all(weight.grad is None for weight in one.parameters())
    assert any(weight.grad is not None for weight in loss.unwrapped[0].parameters())
    trained = {id(weight) for weight in loss.parameters()}
    assert not trained & {id(weight) for weight in one.parameters()}


def test_who_teaches_neighbourhoods(bi_encoder: Path, teacher: Path, tmp_path: Path) -> None:
    nano, small = TIERS["nano"], TIERS["small"]
    assert neighbourhood_teacher(str(teacher), "builtin", nano, [], tmp_path) == teacher
    assert neighbourhood_teacher(str(teacher), str(bi_encoder), small, [], tmp_path) == teacher
    # A bi-encoder's own scores teach the stage of reading together; a file of scores has none for neighbourhoods.
    for other in ("builtin", str(bi_encoder), "scores.tsv", None):
        assert neighbourhood_teacher(other, str(bi_encoder), small, [], tmp_path) is None
    whole = neighbourhood_teacher("builtin", "builtin", nano, ["sort a list"], tmp_path)
    assert whole is not None
    layers = load_student(whole, 32)[0].model.bert.encoder.layer
    assert len(layers) == 6
    backbone = load_file(builtin_backbone() / "model.safetensors")
    torch.testing.assert_close(layers[5].output.dense.weight.detach(), backbone["encoder.layer.5.output.dense.weight"])

"""What the recipes' stages hand to each other."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_distill import write_corpus
from transformers import AutoTokenizer

from recipes.settings import MeasuringConfig, TrainingConfig
from recipes.stages import make_taught, train_apart, train_together
from training.candidates import BM25_OR_OWN
from training.data import InputError, RankingData
from training.dev import load_student
from training.load import load_source
from training.losses import gbce as gbce_loss
from training.losses import gold_cross_entropy
from training.prepare import Examples, Held, held_out, make_examples, make_start
from training.tiers import TIERS, Tier


def prepared(folder: Path, queries: int) -> tuple[Tier, RankingData, Held, Examples]:
    """The tier small, a miniature corpus, its dev queries and untaught examples of so many train queries."""
    data = load_source(str(write_corpus(folder / "corpus")), False, False)
    examples = make_examples(
        data, None, folder, queries=queries, depth=12, candidates=4, random_share=0.25, teacher_length=32,
        seed=0,
    )  # fmt: skip
    return TIERS["small"], data, held_out(data, "dev", 24, 12, 0), examples


def test_every_weight_of_the_loss_reaches_the_training(calm_checkpoint: Path, tmp_path: Path) -> None:
    tier, _, dev, examples = prepared(tmp_path, queries=16)
    make_start(str(calm_checkpoint), tier, examples.texts, tmp_path / "start", 0)
    losses = {}
    for name, weights in (("gold", (1.0, 0.0, 0.0)), ("bce", (0.0, 1.0, 0.0)), ("gbce", (0.0, 1.0, 1.0))):
        gold, gbce, calibration = weights
        config = TrainingConfig(
            candidates=4, train_length=32, evaluations=1, learning_rate=1e-12, queries_per_step=16, gold=gold,
            gbce=gbce, gbce_calibration=calibration,
        )  # fmt: skip
        folder = tmp_path / name
        shutil.copytree(tmp_path / "start", folder / "start")
        losses[name] = train_together(config, tier, examples, dev, folder, 0, None).loss["together"][0][1]
    model = load_student(tmp_path / "start", 32)
    logits = torch.tensor([
        model.predict([(query, passage) for passage in passages], activation_fn=torch.nn.Identity()).tolist()
        for query, passages in zip(examples.dataset["query"], examples.dataset["passages"], strict=True)
    ])  # fmt: skip
    grades = torch.tensor(examples.dataset["label"])[:, 1]
    # The trainer trains with dropout, of which these models have little; logs have four digits.
    assert losses["gold"] == pytest.approx(gold_cross_entropy(logits, grades).item(), rel=0.1)
    assert losses["bce"] == pytest.approx(gbce_loss(logits, grades, 1.0).item(), rel=0.1)
    # 3 of the 95 other passages are seen.
    assert losses["gbce"] == pytest.approx(gbce_loss(logits, grades, 3 / 95).item(), rel=0.1)


def test_training_together_goes_on_from_training_apart(bi_encoder: Path, tmp_path: Path) -> None:
    # So small a rate for the second stage that it moves nothing, were it not for where it starts.
    config = TrainingConfig(
        apart_queries=480, neighbours=8, apart_rate=1e-2, learning_rate=1e-12, candidates=4, train_length=32,
        evaluations=2,
    )  # fmt: skip
    tier, data, dev, examples = prepared(tmp_path, queries=48)
    make_start(str(bi_encoder), tier, examples.texts, tmp_path / "start", 0)
    apart = train_apart(config, tier, data, dev, tmp_path, 0)
    assert apart is not None
    result = train_together(config, tier, examples, dev, tmp_path, 0, apart)

    def weights(folder: Path) -> torch.Tensor:
        tensors = load_file(folder / "model.safetensors")
        return torch.cat([tensors[name].flatten() for name in sorted(tensors) if ".encoder.layer." in name])

    start, first, second = (weights(folder) for folder in (tmp_path / "start", apart.checkpoint, result.checkpoint))
    assert (first - start).abs().max() > 1e-3
    assert (second - first).abs().max() < 1e-6
    assert result.dev_quality[: len(apart.dev_quality)] == apart.dev_quality
    folders = (tmp_path / "start", result.checkpoint)
    lengths = [AutoTokenizer.from_pretrained(folder).model_max_length for folder in folders]
    assert lengths[0] == lengths[1] != config.train_length


def test_fewer_queries_than_a_step_are_refused_before_the_teacher_works(tmp_path: Path) -> None:
    _, data, _, _ = prepared(tmp_path, queries=48)
    training, measuring = TrainingConfig(queries_per_step=64), MeasuringConfig(cache=tmp_path)
    with pytest.raises(InputError, match=r"48 training queries are fewer than the 64 of a step.*--queries_per_step"):
        make_taught("no-such-teacher", measuring, training, TIERS["small"], data, BM25_OR_OWN)

"""What the recipes' stages hand to each other."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from test_distill import write_corpus
from transformers import AutoTokenizer

from recipes.settings import TrainingConfig
from recipes.stages import train_apart, train_together
from training.prepare import held_out, load_source, make_examples, make_start
from training.tiers import TIERS


def test_training_together_goes_on_from_training_apart(bi_encoder: Path, tmp_path: Path) -> None:
    # So small a rate for the second stage that it moves nothing, were it not for where it starts.
    config = TrainingConfig(
        apart_queries=480, neighbours=8, apart_rate=1e-2, learning_rate=1e-12, candidates=4, train_length=32,
        evaluations=2,
    )  # fmt: skip
    tier, data = TIERS["small"], load_source(str(write_corpus(tmp_path / "corpus")), False, False)
    dev = held_out(data, "dev", 24, 12, 0)
    examples = make_examples(
        data, None, tmp_path, queries=48, depth=12, candidates=4, random_share=0.25, teacher_length=32,
        warm_up_queries=0, seed=0,
    )  # fmt: skip
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

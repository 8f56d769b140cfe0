"""Words without their company: runs of words, and vectors whose means are as near as the backbone says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import WORDS
from torch.nn.functional import normalize

from training import static_words
from training.backbone import BUILTIN
from training.static_words import runs_of_words, teach_pieces
from training.t5_student import train_tokenizer
from training.teacher import encode_texts


def sentences(count: int, seed: int, size: int = 12) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, size)) for _ in range(count)]


def test_runs_stand_in_their_texts_word_for_word(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    texts = [" ".join(str(word) for word in range(start, start + 100)) for start in (0, 1000)] + [
        "only  three\nwords",
        "",
    ]
    found = [run for _ in range(20) for run in runs_of_words(texts)]
    runs = [run.split() for run in found if run.count(" ") > 2]
    assert {len(run) for run in runs} == {8, 16, 32, 64}
    assert all([int(word) for word in run] == list(range(int(run[0]), int(run[0]) + len(run))) for run in runs)
    assert min(int(run[0]) % 1000 for run in runs) < 10
    assert max(int(run[-1]) % 1000 for run in runs) > 90
    assert set(found) - {" ".join(run) for run in runs} == {"only three words", ""}
    monkeypatch.setattr(static_words, "RUNS", 3)
    assert len(runs_of_words(texts)) == 3


def test_means_of_taught_pieces_are_as_near_as_the_backbone_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    texts, unseen = sentences(300, 0, 3), sentences(150, 1, 3)
    tokenizer = train_tokenizer(texts, 400)
    weight = torch.ones(len(tokenizer))
    weight[tokenizer.all_special_ids] = 0.0
    table = torch.randn(len(tokenizer), 384)
    told = encode_texts(BUILTIN, unseen, tmp_path)

    def agreement(vectors: torch.Tensor) -> float:
        """Correlation of the cosines between unseen texts with the backbone's."""
        ids = tokenizer(unseen, add_special_tokens=False)["input_ids"]
        means = normalize(torch.stack([vectors[torch.tensor(row)].sum(dim=0) for row in ids]), dim=1).numpy()
        upper = np.triu_indices(len(unseen), 1)
        return float(np.corrcoef((means @ means.T)[upper], (told @ told.T)[upper])[0, 1])

    monkeypatch.setattr(static_words, "ROUNDS", 100)  # so few texts are one step a round
    before = agreement(normalize(table, dim=1))
    after = agreement(teach_pieces(table, weight, tokenizer, texts, tmp_path))

    def of_others(*arguments: Any) -> np.ndarray:
        return encode_texts(*arguments)[::-1].copy()

    monkeypatch.setattr(static_words, "encode_texts", of_others)
    by_others = agreement(teach_pieces(table, weight, tokenizer, texts, tmp_path))
    assert after > 0.9 > before + 0.05
    assert by_others < before


def test_texts_of_unknown_words_teach_nothing(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(sentences(50, 0), 200)
    table = torch.randn(len(tokenizer), 4)
    weight = torch.ones(len(tokenizer))
    weight[tokenizer.all_special_ids] = 0.0
    taught = teach_pieces(table, weight, tokenizer, ["", "\u2603 \u2603"], tmp_path)
    torch.testing.assert_close(taught, normalize(table, dim=1))

"""Imitation: the distance by hand, what is learned and what is not, and which texts are read how often."""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import WORDS, make_tokenizer
from safetensors.torch import load_file
from scipy.linalg import orthogonal_procrustes
from test_distill import write_corpus
from transformers import AutoModel, AutoTokenizer

from recipes.settings import TrainingConfig
from recipes.stages import train_imitating
from training.dev import load_student
from training.imitation import (
    TEXTS_A_ROW,
    ImitationLoss,
    aligned,
    ids_of_pieces,
    imitation_dataset,
    texts_to_imitate,
    with_other_pieces,
)
from training.load import load_source
from training.prepare import held_out
from training.student import build_student, save_checkpoint
from training.tiers import TIERS
from training.train import per_step, train
from training.vocabulary import trim_model, trim_tokenizer


def texts(count: int, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, size=int(generator.integers(3, 12)))) for _ in range(count)]


SAMPLE = [texts(TEXTS_A_ROW, seed) for seed in range(90, 94)]


def distance(start: Path, backbone: Path, seed: int = 7) -> float:
    """On texts of their own, without a gradient."""
    with torch.no_grad():
        return ImitationLoss(load_student(start, 32), backbone, SAMPLE, replaced=0.0).distance(texts(40, seed)).item()


@pytest.fixture
def disturbed(bi_encoder: Path, tmp_path: Path) -> Path:
    """A student of `bi_encoder` whose layer has lost its way."""
    build_student(str(bi_encoder), tmp_path / "student", texts=texts(50, 0))
    model = load_student(tmp_path / "student", 32)[0].model
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # type: ignore[union-attr, operator]
            if ".encoder.layer." in name and parameter.ndim == 2:
                parameter.add_(0.3 * torch.randn_like(parameter))
    folder = tmp_path / "start"
    save_checkpoint(model, AutoTokenizer.from_pretrained(tmp_path / "student"), folder)  # type: ignore[arg-type]
    return folder


def test_the_distance_is_that_of_tokens_and_means_and_nothing_is_wrong_with_the_backbone_itself(
    bi_encoder: Path, disturbed: Path, tmp_path: Path
) -> None:
    build_student(str(bi_encoder), tmp_path / "same", texts=texts(50, 0))
    assert distance(tmp_path / "same", bi_encoder) == pytest.approx(0, abs=1e-8)
    ranker, tokenizer = load_student(disturbed, 32)[0].model, AutoTokenizer.from_pretrained(disturbed)
    wide = AutoModel.from_pretrained(bi_encoder)

    def states(text: str) -> tuple[np.ndarray, np.ndarray]:  # one by one: padding must not count
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        mask = torch.ones_like(ids)
        narrow = ranker.encode(ids, mask, torch.zeros_like(ids))  # type: ignore[union-attr, operator]
        return narrow[0].double().numpy(), wide(ids).last_hidden_state[0].double().numpy()

    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    given = ["river bridge", "window"]
    with torch.no_grad():
        pairs = [states(text) for row in SAMPLE for text in row]
        found, expected = (unit(np.concatenate(side)) for side in zip(*pairs, strict=True))
        basis, _ = orthogonal_procrustes(expected, found)
        pairs = [states(text) for text in given]
        by_hand = np.concatenate([np.sum((unit(n) - unit(w) @ basis) ** 2, axis=1) for n, w in pairs]).mean()
        by_hand += np.mean([np.sum((unit(n.mean(0)) - unit(w.mean(0)) @ basis) ** 2) for n, w in pairs])
        loss = ImitationLoss(load_student(disturbed, 32), bi_encoder, SAMPLE, replaced=0.0)
        assert loss([[given]], None).item() == pytest.approx(by_hand, rel=1e-4)
    assert by_hand > 0.01


def test_a_part_of_the_backbones_space_is_found_and_among_shuffled_states_is_not() -> None:
    torch.manual_seed(5)
    planted, _ = torch.linalg.qr(torch.randn(8, 3))
    wide = [torch.linalg.qr(torch.randn(20, 8))[0] for _ in range(3)]  # no direction of it counts more than another
    assert torch.allclose(aligned((states @ planted, states) for states in wide), planted, atol=1e-5)
    shuffled = aligned((states.roll(1, 0) @ planted, states) for states in wide)
    assert torch.allclose(shuffled.T @ shuffled, torch.eye(3), atol=1e-5)
    assert (shuffled * planted).sum(0).abs().max() < 0.9


def test_a_share_of_the_pieces_is_replaced_alike_for_both_and_special_tokens_stay(
    bi_encoder: Path, tmp_path: Path
) -> None:
    build_student(str(bi_encoder), tmp_path / "same", texts=texts(50, 0))
    loss = ImitationLoss(load_student(tmp_path / "same", 32), bi_encoder, SAMPLE)
    with torch.no_grad():
        assert loss.distance(texts(40, 5)).item() == pytest.approx(0, abs=1e-8)
    tokenizer = loss.unwrapped[0].tokenizer
    ids = tokenizer(texts(400, 5), padding=True, return_tensors="pt")["input_ids"]
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    for share in (0.0, 0.15, 1.0):
        read = with_other_pieces(ids, loss.pieces, share)
        assert torch.equal(read[special], ids[special])
        assert set(read[~special].tolist()) <= set(loss.pieces.tolist())
        changed = (read != ids)[~special].float().mean().item()
        assert changed == pytest.approx(share * (1 - 1 / len(loss.pieces)), abs=0.03 if 0 < share < 1 else 0.01)
    assert set(read[~special].tolist()) == set(loss.pieces.tolist())


def test_the_encoder_learns_and_what_reads_it_stays(bi_encoder: Path, disturbed: Path, tmp_path: Path) -> None:
    data = load_source(str(write_corpus(tmp_path / "corpus")), False, False)
    dev = held_out(data, "dev", 24, 12, 0)
    config = TrainingConfig(imitated_texts=64 * TEXTS_A_ROW, imitation_rate=5e-3, train_length=32, evaluations=1)
    before = distance(disturbed, bi_encoder)
    result = train_imitating(config, TIERS["nano"], data, dev, disturbed.parent, bi_encoder, 0)
    assert result is not None
    assert distance(result.checkpoint, bi_encoder) < before / 2
    learned, start = (load_file(folder / "model.safetensors") for folder in (result.checkpoint, disturbed))
    for name, values in start.items():
        if not name.startswith("bert."):
            assert torch.equal(learned[name], values), name


def test_a_run_that_broke_off_goes_on_to_the_same_weights(bi_encoder: Path, disturbed: Path, tmp_path: Path) -> None:
    data = load_source(str(write_corpus(tmp_path / "corpus")), False, False)
    dev = held_out(data, "dev", 8, 4, 0)
    rows = imitation_dataset(texts_to_imitate(data, 12 * TEXTS_A_ROW, 0), 0)
    left = [7]  # calls until the disk is full

    class Breaking(ImitationLoss):
        def forward(self, *given: Any, **named: Any) -> torch.Tensor:
            left[0] -= 1
            if left[0] == 0:
                raise OSError("no space left")
            return super().forward(*given, **named)

    def run(output: Path, loss: type[ImitationLoss]) -> dict[str, torch.Tensor]:
        result = train(
            disturbed, rows, dev.data, dev.candidates, output, loss=partial(loss, backbone=bi_encoder, sample=SAMPLE),
            learning_rate=1e-2, rows_per_step=1, evaluations=4, patience=9, max_length=32, keep="last",
        )  # fmt: skip
        return load_file(result.checkpoint / "model.safetensors")

    with pytest.raises(OSError, match="no space"):
        run(tmp_path / "broken", Breaking)
    assert list((tmp_path / "broken").glob("checkpoint-*"))
    whole, resumed = run(tmp_path / "whole", ImitationLoss), run(tmp_path / "broken", Breaking)
    assert left[0] == -6  # the last six of twelve steps, and no more
    start = load_file(disturbed / "model.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert any(not torch.equal(whole[name], start[name]) for name in whole)


def test_pieces_of_a_trimmed_vocabulary_are_found_in_the_backbone(bi_encoder: Path, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path)
    assert ids_of_pieces(tokenizer, tokenizer).tolist() == list(range(len(tokenizer)))
    build_student(str(bi_encoder), tmp_path / "student", texts=texts(50, 0))
    model = load_student(tmp_path / "student", 32)[0].model
    trimmed, old_ids = trim_tokenizer(AutoTokenizer.from_pretrained(tmp_path / "student"), ["th"])
    trim_model(model, old_ids, trimmed.pad_token_id)  # type: ignore[arg-type]
    save_checkpoint(model, trimmed, tmp_path / "trimmed")  # type: ignore[arg-type]
    assert len(trimmed) < len(tokenizer)
    assert distance(tmp_path / "trimmed", bi_encoder) == pytest.approx(0, abs=1e-8)


def test_what_held_out_queries_look_for_is_not_read_and_the_rest_equally_often(tmp_path: Path) -> None:
    data = load_source(str(write_corpus(tmp_path / "corpus")), False, False)
    read = Counter(texts_to_imitate(data, 240, seed=1))
    expected = {data.queries[f"q{i}"] for i in range(48)} | {data.passages[f"p{i}"] for i in range(48)}
    assert set(read) == expected
    assert set(read.values()) == {2, 3}
    assert texts_to_imitate(data, 20, seed=1) != texts_to_imitate(data, 20, seed=2)


def test_a_row_holds_texts_of_about_one_length() -> None:
    given = ["a" * length for length in np.random.default_rng(0).permutation(np.arange(1, 4 * TEXTS_A_ROW + 5))]
    rows = imitation_dataset(given, seed=0)["texts"]
    assert sorted(len(rows[0][0]) // TEXTS_A_ROW for rows in [[row] for row in rows]) == [0, 1, 2, 3]
    assert all(len(row) == TEXTS_A_ROW and len(row[-1]) - len(row[0]) == TEXTS_A_ROW - 1 for row in rows)
    twice = imitation_dataset([*given, *given], seed=0)["texts"]
    assert len(twice) == 8
    assert all(len(set(row)) == TEXTS_A_ROW for row in twice)
    assert per_step(imitation_dataset(given, seed=0), 2) == (64, "texts")

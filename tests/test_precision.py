"""Training in bfloat16: when it is chosen, what stays exact in it, and that it learns the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_similarity_ranker import OTHER_QUERY, PASSAGE, QUERY, make_ranker, padded, pair
from test_train import SETTINGS, agreement, make_dev, make_examples, planted

from recipes.settings import TrainingConfig
from recipes.stages import common, decided
from training.dev import load_student, score_candidates
from training.precision import uses_bfloat16
from training.student import build_student, save_checkpoint
from training.tiers import TIERS
from training.train import train


@pytest.mark.parametrize(
    ("precision", "instructions", "expected"),
    [
        ("auto", {"avx512_bf16": True}, True),
        ("auto", {"amx_bf16": True, "avx512_bf16": False}, True),
        ("auto", {"bf16": True}, True),
        ("auto", {"avx2": True, "avx512_f": True, "avx512_bf16": False}, False),
        ("bf16", {}, True),
        ("fp32", {"avx512_bf16": True}, False),
    ],
)
def test_auto_asks_the_processor_and_a_choice_is_kept(
    precision: str, instructions: dict[str, Any], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert uses_bfloat16(precision) is expected
    assert decided(replace(TrainingConfig(), precision=precision)).precision == ("bf16" if expected else "fp32")
    assert common(replace(TrainingConfig(), precision=precision), TIERS["small"], 0)["bf16"] is expected


def test_auto_does_not_ask_the_processor_for_apples_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"bf16": True})
    assert uses_bfloat16("auto") is False


@torch.no_grad()
def test_cosines_are_as_exact_as_without_it() -> None:
    ranker = make_ranker(layers=0, exact=True)  # nothing else is multiplied
    ranker.term_weight.uniform_(0, 5)
    sides = [padded([QUERY, OTHER_QUERY]), padded([[2, *PASSAGE], [2, 10, 11, 3]])]
    apart, together = [part for side in sides for part in side], pair(QUERY, PASSAGE)
    expected = ranker.score_apart(*apart), ranker(**together).logits
    with torch.autocast("cpu", torch.bfloat16):
        found = ranker.score_apart(*apart), ranker(**together).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


def test_a_planted_order_is_learnt_with_weights_in_float32(tiny_checkpoint: Path, tmp_path: Path) -> None:
    teacher = planted(0)
    build_student(str(tiny_checkpoint), tmp_path / "start")
    examples, dev = make_examples(teacher, 60), make_dev(teacher)
    kept = {
        bf16: train(tmp_path / "start", examples, *dev, tmp_path / str(bf16), bf16=bf16, **SETTINGS).checkpoint
        for bf16 in (True, False)
    }
    rough, fine = (load_file(kept[bf16] / "model.safetensors") for bf16 in (True, False))
    assert {value.dtype for value in rough.values()} == {torch.float32}
    assert not torch.equal(rough["classifier.weight"], fine["classifier.weight"])
    assert agreement(kept[True], teacher) > 0.6  # 0 at the start; instructions of the processor move it by 0.1


def test_dev_is_measured_in_float32(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # as accelerate launch --mixed_precision bf16 has it
    build_student(str(tiny_checkpoint), tmp_path / "plain")
    model = load_student(tmp_path / "plain", 32)
    inner: Any = model[0].model
    with torch.no_grad():
        inner.classifier.bias.fill_(1000.0)  # where two neighbouring numbers of bfloat16 are 4 apart
    save_checkpoint(inner, model.tokenizer, tmp_path / "start")
    # The passage that the model puts first is the relevant one, which no order but its own finds for all queries.
    own = score_candidates(load_student(tmp_path / "start", 32), *make_dev(planted(0)))
    data, candidates = make_dev(np.stack(list(own.values())))
    settings = SETTINGS | {"learning_rate": 1e-12, "evaluations": 1}
    result = train(
        tmp_path / "start", make_examples(planted(0), 1), data, candidates, tmp_path / "run", bf16=True, **settings
    )
    assert [value for _, value in result.dev_quality] == [1.0, 1.0]

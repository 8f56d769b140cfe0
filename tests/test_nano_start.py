"""How nano starts: which layers it is cut out of, what that is worth, and how much of the data its training reaches."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import WORDS
from safetensors.torch import load_file
from test_distill import write_corpus
from transformers import AutoConfig

from recipes.settings import TrainingConfig
from recipes.stages import learn
from training.candidates import BM25_OR_OWN
from training.data import RankingData
from training.dev import load_student
from training.load import load_source
from training.losses import score_apart
from training.prepare import held_out, make_examples, make_neighbourhoods, make_start, spread
from training.pydocs import read_docstrings
from training.student import build_student
from training.tiers import TIERS


def test_layers_are_spread_from_the_first_to_the_last() -> None:
    assert spread(2, 6) == [0, 5]
    assert spread(3, 7) == [0, 3, 6]
    assert spread(4, 4) == [0, 1, 2, 3]


def reciprocal_rank(start: Path, asked: list[tuple[str, str]]) -> float:
    """MRR of an untrained student that puts all the passages in order for each query."""
    with torch.no_grad():
        logits = score_apart(load_student(start, 128), *map(list, zip(*asked, strict=True)))
    return float((1 / ((logits > logits.diagonal()[:, None]).sum(dim=1) + 1)).mean())


def test_nano_is_cut_out_of_the_first_and_the_last_layer_and_ranks_untrained(tmp_path: Path) -> None:
    sources = [Path(np.lib.__file__).with_name("_function_base_impl.py"), Path(json.__file__), Path(argparse.__file__)]
    entries = [entry for path in sources for entry in read_docstrings(path.read_bytes(), path.stem, "numpy")]
    texts = [f"{entry.query}. {entry.passage}" for entry in entries]
    start = make_start("builtin", TIERS["nano"], texts, tmp_path / "start", 0)
    assert start.startswith("layers 0, 5 of builtin, projected to width 128")
    asked = list({entry.passage: (entry.query, entry.passage) for entry in entries}.values())
    # The control: queries dealt out anew, and not to a neighbour, which shares its words.
    shuffled = [(asked[i - len(asked) // 2][0], passage) for i, (_, passage) in enumerate(asked)]
    assert reciprocal_rank(tmp_path / "start", asked) > 0.65
    assert reciprocal_rank(tmp_path / "start", shuffled) < 0.2


def test_a_projected_student_imitates_before_it_is_trained_and_goes_on_from_there(tmp_path: Path) -> None:
    data = load_source(str(write_corpus(tmp_path / "corpus")), False, False)
    examples = make_examples(
        data, None, tmp_path, queries=48, depth=12, candidates=4, random_share=0.25, teacher_length=32, seed=0
    )
    # So small rates for the other stages that they move nothing, were it not for where they start.
    config = TrainingConfig(
        imitated_texts=256, apart_queries=48, neighbours=8, apart_rate=1e-12, learning_rate=1e-12, candidates=4,
        train_length=32, evaluations=1,
    )  # fmt: skip
    make_start("builtin", TIERS["nano"], list(data.passages.values()), tmp_path / "start", 0)
    dev = held_out(data, "dev", 24, 12, 0)
    result = learn(config, TIERS["nano"], data, dev, examples, tmp_path, "builtin", None, 0, BM25_OR_OWN)
    folders = {"start": tmp_path / "start", "imitated": tmp_path / "imitating" / "best", "end": result.checkpoint}
    weights = {
        name: torch.cat([values.flatten() for key, values in sorted(load_file(folder / "model.safetensors").items())
                         if key.startswith("bert.")])
        for name, folder in folders.items()
    }  # fmt: skip
    assert (weights["imitated"] - weights["start"]).abs().max() > 1e-3
    assert (weights["end"] - weights["imitated"]).abs().max() < 1e-6
    assert load_file(result.checkpoint / "model.safetensors")["exact_scale"].item() == pytest.approx(8.0)
    build_student(str(result.checkpoint), tmp_path / "one", layers=[1])  # as --base and --layers have it
    assert AutoConfig.from_pretrained(tmp_path / "one").exact
    assert result.read == {"imitating": 256, "apart": 48, "together": 48}
    assert list(result.loss) == ["imitating", "apart", "together"]
    assert [step for step, _ in result.dev_quality] == [0, 8, 14, 20]  # 256 / 32 texts, 48 / 8 queries, 48 / 8 queries


def test_training_apart_reaches_nearly_all_queries_where_all_are_wanted() -> None:
    generator = np.random.default_rng(0)
    passages = {f"p{i}": " ".join(generator.choice(WORDS, size=12)) for i in range(600)}
    queries = {f"q{i}": " ".join(passages[f"p{i}"].split()[:3]) for i in range(600)}
    judgments = {f"q{i}": {f"p{i}": 1} for i in range(600)}
    data = RankingData("many", queries, passages, judgments, {}, {"train": list(queries), "dev": [], "test": []}, "")
    groups = make_neighbourhoods(data, queries=600, size=4, seed=0)
    used = [query for group in groups["queries"] for query in group]
    assert len(used) > 0.95 * 600
    assert len(set(used)) > 0.95 * len(set(queries.values()))

"""How nano starts: which layers it is cut out of, what that is worth, and how much of the data its training reaches."""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from conftest import WORDS

from training.data import RankingData
from training.losses import NeighbourhoodLoss
from training.prepare import make_neighbourhoods, make_start, spread
from training.pydocs import read_docstrings
from training.tiers import TIERS
from training.train import load_student


def test_layers_are_spread_from_the_first_to_the_last() -> None:
    assert spread(2, 6) == [0, 5]
    assert spread(3, 7) == [0, 3, 6]
    assert spread(4, 4) == [0, 1, 2, 3]


def reciprocal_rank(start: Path, asked: list[tuple[str, str]]) -> float:
    """MRR of an untrained student that puts all the passages in order for each query."""
    with torch.no_grad():
        logits = NeighbourhoodLoss(load_student(start, 128)).logits(*map(list, zip(*asked, strict=True)))
    return float((1 / ((logits > logits.diagonal()[:, None]).sum(dim=1) + 1)).mean())


def test_nano_is_cut_out_of_the_first_and_the_last_layer_and_ranks_untrained(tmp_path: Path) -> None:
    sources = [Path(np.lib.__file__).with_name("_function_base_impl.py"), Path(json.__file__), Path(argparse.__file__)]
    entries = [entry for path in sources for entry in read_docstrings(path.read_bytes(), path.stem, "numpy")]
    texts = [f"{entry.query}. {entry.passage}" for entry in entries]
    start = make_start("builtin", TIERS["nano"], texts, tmp_path / "start", 0)
    assert start.startswith("layers 0, 5 of builtin, projected to width 128")
    asked = list({entry.passage: (entry.query, entry.passage) for entry in entries}.values())
    # The control: queries dealt out anew.
    shuffled = [(asked[i - 1][0], passage) for i, (_, passage) in enumerate(asked)]
    assert reciprocal_rank(tmp_path / "start", asked) > 0.55
    assert reciprocal_rank(tmp_path / "start", shuffled) < 0.2


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

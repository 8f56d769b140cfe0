"""Two processes under torchrun: they train the weights of one, and the first one writes."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import WORDS
from flashranker import Reranker
from safetensors.torch import load_file
from test_distill import write_corpus
from test_finetune import SMALL

# Trains a cross-encoder on pairs, and a bi-encoder with query and passage read apart, then runs recipes.finetune with
# the arguments that are left.
TRAINING = """
import sys
from functools import partial
from pathlib import Path
import torch
from recipes.finetune import main
from training.tiers import TIERS
from training.losses import DistillationLoss, NeighbourhoodLoss
from training.load import load_source
from training.prepare import held_out, make_examples, make_neighbourhoods, make_start
from training.train import train

torch.set_num_threads(1)
corpus, pairs, apart, output = map(Path, sys.argv[1:5])
data = load_source(str(corpus), False, False)
dev = held_out(data, "dev", 12, 12, 0)
examples = make_examples(data, None, output / "cache", queries=48, depth=12, candidates=4, random_share=0.25,
                         teacher_length=32, seed=0)
groups = make_neighbourhoods(data, queries=48, size=6, seed=0)
gold = partial(DistillationLoss, kl_weight=0.0, regression_weight=0.0, gold_weight=1.0, temperature=1.0)
for name, base, rows, loss, per_step in (
    ("pairs", pairs, examples.dataset, gold, 8), ("apart", apart, groups, NeighbourhoodLoss, 2),
):
    make_start(str(base), TIERS["small"], examples.texts, output / name / "start", 0)
    train(output / name / "start", rows, dev.data, dev.candidates, output / name, loss=loss, rows_per_step=per_step,
          learning_rate=1e-3, evaluations=1, patience=3, max_length=32, start_quality=0.0)
if sys.argv[5:]:
    sys.exit(main(sys.argv[5:]))
"""


def without_dropout(checkpoint: Path, folder: Path) -> Path:
    """A copy whose training draws nothing: two processes would draw other masks than one."""
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def largest(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    return max(float((left[name] - right[name]).abs().max()) for name in left)


def test_two_processes_train_the_weights_of_one_and_the_first_one_writes(
    calm_checkpoint: Path, bi_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "steps.py"
    script.write_text(TRAINING, encoding="utf-8")
    models = [without_dropout(calm_checkpoint, tmp_path / "calm"), without_dropout(bi_encoder, tmp_path / "two")]
    corpus = write_corpus(tmp_path / "corpus")
    monkeypatch.setattr(sys, "argv", ["steps.py", *map(str, [corpus, *models, tmp_path / "1"])])
    runpy.run_path(str(script))
    output = tmp_path / "artifact"
    recipe = ["--data", corpus, "--base", bi_encoder, "--output", output, "--cache", tmp_path / "cache", *SMALL]
    recipe += ["--neighbours", "8", "--apart_queries", "48", "--apart_rate", "1e-9", "--int8_tau", "0.999"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script),
         *map(str, [corpus, *models, tmp_path / "2", *recipe, "--learning_rate", "1e-9", "--gate", "report"])],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-9000:]
    # One process goes through the recipe to its end, and one tells.
    assert len(Reranker(output).rerank("river bridge", WORDS[:2])) == 2
    assert [line[:3] for line in done.stdout.splitlines() if line[1:3] == "/7"] == [f"{n}/7" for n in range(1, 8)]
    for name in ("pairs", "apart"):
        alone, shared = (tmp_path / str(processes) / name for processes in (1, 2))
        moved = largest(weights(alone / "best"), weights(alone / "start"))
        assert largest(weights(alone / "start"), weights(shared / "start")) == 0
        assert largest(weights(alone / "best"), weights(shared / "best")) < 0.01 * moved, name
        records = [json.loads((folder / "training.json").read_text(encoding="utf-8")) for folder in (alone, shared)]
        assert records[0]["dev_quality"] == records[1]["dev_quality"]
        assert not list(shared.glob("checkpoint-*"))

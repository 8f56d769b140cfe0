"""Measure what the tiers cost at full size, on random weights: megabytes, parity, milliseconds, memory, minutes.

python -m recipes.full_size                                # every tier of 12 layers, on the built-in corpus
python -m recipes.full_size --tiers medium --data FOLDER

Quality needs pretrained weights, and is measured by the recipes that train; what is measured here does not.
"""

import shutil
import sys
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from flashranker.artifact import MANIFEST_NAME, read_manifest
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast

from export.artifact import write_json
from recipes.command import launch, plain, say, setting
from recipes.starts import finished
from training.data import InputError
from training.load import load_source
from training.student import save_checkpoint
from training.t5_ranker import T5Ranker, T5RankerConfig
from training.t5_student import set_prompt, train_tokenizer

# The published shapes, by their hub bases' config.json.
BERTS = {"small": 30_522, "large": 250_037}  # words
T5: dict[str, Any] = {
    "vocab_size": 32_128, "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
PIECES = 30_000
SPREAD = 0.06  # BERT's own 0.02 gives logits that hardly differ
# Enough to calibrate on and to time; a random model has no quality to be measured.
MEASURED = ("--dev_queries", "12", "--test_queries", "8", "--parity_queries", "8", "--depth", "20")


@dataclass(frozen=True)
class FullSizeConfig:
    """Settings of one measurement."""

    tiers: list[str] = setting(None, "which tiers; by default all that have 12 layers", nargs="+")
    data: str = setting("pydocs", "whose passages are tokenized, calibrated on and timed, as recipes.export takes it")
    cache: Path = setting(Path("cache"), "folder where the random models and their artifacts are kept")
    output: Path = setting(Path("recipes/results/full_size.json"), "where the numbers go")


def run(config: FullSizeConfig, command: str) -> None:
    """The story of one measurement. Raises InputError."""
    tiers = config.tiers or [*BERTS, "medium"]
    if unknown := [tier for tier in tiers if tier not in (*BERTS, "medium")]:
        raise InputError(f"--tiers {unknown[0]}: expected some of {', '.join([*BERTS, 'medium'])}")
    folder = config.cache / "full_size"
    say("1/2 random models")
    texts = list(load_source(config.data, drop_leaks=True, keep_missing=True).passages.values())
    tokenizer = train_tokenizer(texts, PIECES)
    found = {}
    for tier in tiers:
        own = deepcopy(tokenizer)
        save_checkpoint(random_model(tier, own), own, folder / tier)
        say(f"2/2 recipes.export: {tier}")
        found[tier] = exported(tier, folder, config.data)
        say(f"    {found[tier]}")
    write_json(config.output, {"command": command, "settings": plain(config), "tiers": found})


def random_model(tier: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """The tier's published shape with random weights and one label; `tokenizer` gets the prompt it asks for."""
    torch.manual_seed(0)
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    if tier == "medium":
        set_prompt(tokenizer)
        return T5Ranker(T5RankerConfig(num_labels=1, **ids, **T5))
    config = BertConfig(
        vocab_size=BERTS[tier], hidden_size=384, num_hidden_layers=12, num_attention_heads=12, intermediate_size=1536,
        num_labels=1, initializer_range=SPREAD, **ids,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # The exporter would store equal values once (zero biases), and the quantizer leaves what is shared alone.
            parameter.add_(1e-3 * torch.randn_like(parameter))
    return model


def exported(tier: str, folder: Path, data: str) -> dict[str, Any]:
    """What recipes.export, in a process of its own, says of a random model; refused or not."""
    output = folder / f"{tier}-int8"
    staging = output.with_name(f".{output.name}.staging")
    shutil.rmtree(staging, ignore_errors=True)  # of an older run
    command = [sys.executable, "-m", "recipes.export", str(folder / tier), "--tier", tier, "--data", data,
               "--output", str(output), "--cache", str(folder), *MEASURED]  # fmt: skip
    try:
        finished(command)
        refused, place = "", output
    except RuntimeError as error:
        refused, place = str(error).splitlines()[-1], staging
        if not (place / MANIFEST_NAME).is_file() or not read_manifest(place).gates:
            raise
    manifest = read_manifest(place)
    quantization = {name: manifest.quantization[name] for name in ("rung", "tau", "last layer")}
    return {
        "MB": manifest.files["onnx/model.onnx"].bytes / 1e6,
        "parity": manifest.parity,
        "quantization": quantization,
        "run": manifest.lineage["run"],
        "gates": manifest.gates,
        "refused": refused,
    }


def full_size_section(result: dict[str, Any]) -> str:
    """Cost by tier, in Markdown."""
    lines = [
        "The published shapes with random weights, through `recipes.export`: megabytes of the int8 model, the largest "
        "difference of a logit between PyTorch and fp32 ONNX, milliseconds for 100 passages of "
        f"`{result['settings']['data']}` (interleaved, 5 turns, both on all cores), and what the export took from the "
        "model to its folder, measuring included. A random model has no quality to lose.",
        "",
        "| tier | MB | largest difference | int8 ms: median (least to most) | PyTorch fp32 | minutes | peak MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for tier, found in result["tiers"].items():
        times = found["parity"]["milliseconds for 100 passages"]
        ours = times["int8"]
        lines.append(
            f"| {tier} | {found['MB']:.1f} | {found['parity']['fp32 largest difference']:.1g} | {ours['median']:.0f} "
            f"({ours['low']:.0f} to {ours['high']:.0f}) | {times['torch']['median'] / ours['median']:.2f}x | "
            f"{found['run']['seconds'] / 60:.1f} | {found['run']['peak memory in MB']:,} |"
        )
    for tier, found in result["tiers"].items():
        if found["refused"]:
            # Every random model ranks below the first stage, which refuses none.
            gates = [gate for gate in found["gates"] if not gate["passed"] and "first stage" not in gate["name"]]
            failed = [f"{gate['name']} is {gate['value']:.3f}, limit {gate['limit']}" for gate in gates]
            lines += ["", f"`{tier}` was refused: {'; '.join(failed)}."]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """0 when all was measured, 2 for bad input."""
    return launch("full_size", __doc__, run, [FullSizeConfig], argv)


if __name__ == "__main__":
    sys.exit(main())

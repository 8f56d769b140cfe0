"""Turn a cross-encoder that you have, or one of the hub, into a verified int8 artifact.

python -m recipes.export cross-encoder/ms-marco-MiniLM-L6-v2 --tier small      # measured on the built-in corpus
python -m recipes.export my-checkpoint --data my-documents --output artifacts/mine
"""

import sys
import time
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch
from transformers import AutoTokenizer

from export.one_logit import check_architecture, load_one_logit
from recipes import measure
from recipes.claim import claimed_run
from recipes.command import launch, plain, say, setting
from recipes.finish import finish
from recipes.hold_out import hold_out
from recipes.lineage import described, held_out_data, spent
from recipes.search import SearchConfig, first_stage_of
from recipes.settings import MeasuringConfig, check
from recipes.stages import check_size
from training.backbone import BUILTIN, CHECKPOINT_SUFFIX, checkpoint_of, model_fingerprint, resolve_model
from training.data import InputError
from training.load import load_source
from training.student import save_checkpoint
from training.tiers import TIERS


@dataclass(frozen=True)
class ExportConfig:
    """What the artifact may weigh, and on what it is calibrated and measured."""

    tier: str = setting("small", "size that the result may have", choices=list(TIERS))
    data: str = setting(
        "pydocs", "what to calibrate and measure on: pydocs (built in), a BEIR folder, a file, or a hub set"
    )
    output: Path | None = setting(None, "artifact folder; by default artifacts/NAME")
    gate: str = setting(
        "report", "what ranking below the first stage leads to: report (say so in the card), or refuse (exit 1)",
        choices=["report", "refuse"],
    )  # fmt: skip


def run(config: ExportConfig, measuring: MeasuringConfig, search: SearchConfig, model: str, command: str) -> None:
    """The story of one export. Raises InputError, GateError or ExportError."""
    began, tier = time.monotonic(), TIERS[config.tier]
    if model == BUILTIN:
        raise InputError(
            f"{model} is an encoder with no head to rank by, expected a cross-encoder: distil one from it, "
            "python -m recipes.distill"
        )
    folder = resolve_model(model)
    output = config.output or Path("artifacts") / (Path(model).name or folder.name).removesuffix(CHECKPOINT_SUFFIX)
    max_length = measuring.max_length or tier.max_length
    check(measuring, tier, output, model)
    if folder.resolve() == checkpoint_of(output).resolve():
        raise InputError(f"{model} would be replaced by what is made of it, {output}: choose another --output")
    if not (folder / "config.json").is_file():
        raise InputError(f"{model} is no model: expected a folder with config.json, weights and tokenizer, or a hub id")
    if measuring.threads:
        torch.set_num_threads(measuring.threads)
    stage = first_stage_of(search, measuring.cache)

    say(f"1/5 model: {model}")
    kind = check_architecture(folder)
    say(f"    {kind.model_type}, {kind.num_labels} label{'s' if kind.num_labels > 1 else ''}")
    check_size(kind, model, config.tier)
    network = load_one_logit(folder)

    say(f"2/5 data: {config.data}")
    data = load_source(config.data, drop_leaks=True, keep_missing=True, test_share=measuring.test_share)
    data = replace(data, splits=data.splits | {"train": []})
    _, dev, tests = hold_out(measuring, data, None, model, max_length, stage, drop_leaks=True)

    say("3/5 export: fp32 ONNX, int8 ONNX, calibration")
    name = sha256(f"{model_fingerprint(folder)} {max_length} {config.data}".encode()).hexdigest()[:12]
    workspace = measuring.cache / "exports" / name
    with claimed_run(measuring.cache, workspace, output):
        checkpoint = workspace / "checkpoint"
        save_checkpoint(network, AutoTokenizer.from_pretrained(folder), checkpoint)
        exported = measure.export(
            checkpoint, output, workspace, dev,
            tier=config.tier, max_length=max_length, limit_megabytes=tier.limit_megabytes,
            target_tau=measuring.int8_tau, profile=measuring.profile,
        )  # fmt: skip

        say(f"4/5 measuring: {len(tests.candidates)} held-out queries of {tests.data.name}")
        measured = measure.measure(exported, None, tests, {}, tier.limit_megabytes, measuring.parity_queries)
        say(measure.table(measured))

        say(f"5/5 artifact: {output}")
        finish(
            exported, measured, None, output,
            summary=f"{model} as it is, in int8.",
            lineage={
                "base": described(model, "as it is"),
                "measured on": held_out_data(tests, stage),
                "languages": measuring.languages or ["en"],
                "run": spent(began),
            } | ({"chosen on": held_out_data(dev, stage)} if measuring.dev else {}),
            settings=plain(config, measuring, search), seed=measuring.seed, command=command,
            allow_worse=config.gate == "report",
            notices=[f"Not trained here: int8 and the probabilities were fitted to {dev.data.name}."],
        )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """0 when an artifact was written, 1 when a gate or the architecture refused it, 2 for bad input."""
    positional = {"model": {"help": "a cross-encoder's folder, a checkpoint, or a hub id", "metavar": "MODEL"}}
    return launch("export", __doc__, run, [ExportConfig, MeasuringConfig, SearchConfig], argv, positional=positional)


if __name__ == "__main__":
    sys.exit(main())

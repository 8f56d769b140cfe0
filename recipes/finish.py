"""The end of every recipe that makes an artifact: card, report, and the folder in place where no gate refuses."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flashranker.artifact import read_manifest

from export.artifact import GateError, publish, seal
from export.licence import licence_kind, strictest
from export.report import ReportContent, write_report
from export.verify import Gate
from recipes.measure import Exported, Measured
from recipes.tiers_picture import MEASURE, siblings
from training.backbone import checkpoint_of
from training.train import TrainingResult

RATES = {"imitating": "imitation_rate", "apart": "apart_rate", "together": "learning_rate"}  # of the stages of training


def finish(
    exported: Exported,
    measured: Measured,
    trained: TrainingResult | None,
    output: Path,
    *,
    summary: str,
    lineage: dict[str, Any],
    settings: dict[str, Any],
    seed: int,
    command: str,
    allow_worse: bool,
    notices: Sequence[str] = (),
) -> None:
    """Seal the folder, publish it, and put report and PyTorch checkpoint beside it.

    The checkpoint is for training on and no part of the artifact: `--base` finds it by the artifact's name.
    Raises GateError if a gate refuses; then NAME.refused.html is the report, and whatever was published before stays.
    """
    worse = [gate for gate in measured.gates if not gate.passed and "first stage" in gate.name]
    notices = [*notices, *(f"Below its first stage: {gate.name} is {gate.value:+.4f}." for gate in worse)]
    terms = strictest(lineage)
    if licence_kind(terms) in ("non-commercial", "no derivatives"):
        notices.append(f"Not for every use: {terms}.")
    manifest = seal(
        exported.int8,
        calibration=exported.calibration,
        lineage=lineage,
        metrics=measured.metrics,
        parity=measured.parity,
        gates=measured.gates,
        quantization=exported.quantization,
        seed=seed,
        command=command,
        notices=notices,
    )
    report, refused = (output.with_name(f"{output.name}.{kind}.html") for kind in ("report", "refused"))
    write_report(
        refused,
        ReportContent(
            title=f"{output.name}: {lineage.get('data', lineage['measured on'])['name']}, {manifest.tier}",
            summary=summary,
            notices=notices,
            metrics=measured.metrics,
            gates=manifest.gates,
            loss=trained.loss if trained else {},
            dev_quality={"MRR@10": trained.dev_quality} if trained else {},
            logits=measured.logits,
            labels=measured.grades,
            calibration=exported.calibration,
            latency=measured.latency,
            latency_note="interleaved in one process, 100 held-out passages",
            tiers=siblings(output, manifest),
            tier_measure=MEASURE,
            sizes={name: entry.bytes for name, entry in manifest.files.items()},
            lineage=lineage,
            settings=settings,
            command=command,
        ),
    )
    kept = checkpoint_of(output)
    copied = kept.with_name(f".{kept.name}.tmp")
    shutil.rmtree(copied, ignore_errors=True)
    try:
        shutil.copytree(exported.checkpoint, copied)
        publish(exported.int8, output, allow={gate.name for gate in worse} if allow_worse else frozenset())
    except BaseException as error:
        shutil.rmtree(copied, ignore_errors=True)
        if isinstance(error, GateError):
            raise GateError(f"{error}; pictures in {refused}{remedies(measured.gates, trained, allow_worse)}") from None
        refused.unlink(missing_ok=True)
        raise
    shutil.rmtree(kept, ignore_errors=True)
    os.replace(copied, kept)
    os.replace(refused, report)
    size = read_manifest(output).files["onnx/model.onnx"].bytes
    beside = output.with_name(kept.name)
    below = ", though below its first stage" if worse else ""
    print(f"{output} is ready{below} ({size / 1e6:.1f} MB model); pictures in {report}; PyTorch weights in {beside}")


def remedies(gates: Sequence[Gate], trained: TrainingResult | None, allow_worse: bool) -> str:
    """What may help where these gates refused a result, to be put behind that; README has more."""
    failed = [gate.name for gate in gates if not gate.passed]
    below = [name for name in failed if "first stage" in name]
    refused = [name for name in failed if not (allow_worse and name in below)]
    found = ""
    if trained and any(name.startswith("student") for name in refused):
        rates = [f"--{rate}" for stage, rate in RATES.items() if stage in trained.read]
        found += f"; a lower {' or '.join(rates)}, or a --dev that tells more, may help"
    if trained and any(name.startswith(("student", "int8 - ")) for name in refused):
        found += "; more training queries, or a better --teacher, may help"
    if any(name in ("int8 Kendall tau", "int8 nDCG@10") for name in refused):
        found += "; a higher --int8_tau keeps more precision, and more --dev_queries tell better how much"
    if refused == below:
        found += "; --gate report publishes it all the same"
    return found

"""Copy the measurements of artifacts into recipes/results, and write the README's numbers from all that lies there.

python -m recipes.numbers artifacts/small artifacts/nano     # results/distill-small.json and -nano.json, the README
python -m recipes.numbers                                    # the README alone
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import flashranker
from flashranker.artifact import read_manifest

from export.artifact import write_json, write_text

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent.parent / "README.md"
START, END = "<!-- numbers:start -->", "<!-- numbers:end -->"
KEPT = (
    "command", "gates", "lineage", "max_length", "metrics", "notices", "parity", "quantization", "seed", "tier",
    "versions",
)  # fmt: skip
STAGES = ("first stage", "teacher", "base", "student", "fp32", "int8")  # a manifest's keys are in alphabetical order
TIMES = {"torch": "PyTorch, sorted batches of 16", "fp32": "fp32 ONNX, runtime", "int8": "int8 ONNX, runtime"}


def record(artifact: Path) -> None:
    """Copy what was measured from an artifact's manifest into results/NAME.json; the weights stay where they are."""
    manifest = read_manifest(artifact)
    content = {name: getattr(manifest, name) for name in KEPT}
    content["model_bytes"] = manifest.files["onnx/model.onnx"].bytes
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / f"distill-{manifest.name}.json", content)


def section(name: str, result: dict[str, Any]) -> str:
    """The tables of one result, in Markdown."""
    parity, data, run = result["parity"], result["lineage"]["data"]["name"], result["lineage"]["run"]
    lines = [
        f"### `{result['command']}`",
        "",
        f"Trained on `{data}`, measured on {parity['queries']} held-out queries, {parity['pairs']:,} pairs; means over "
        f"queries with 95 % bootstrap intervals; seed {result['seed']}; {run['seconds'] / 60:.0f} minutes from data to "
        f"artifact and {run['peak memory in MB']:,} MB of memory at most. All numbers are in "
        f"[recipes/results/{name}.json](recipes/results/{name}.json).",
        "",
        "| stage | queries | nDCG@10 | MRR@10 |",
        "|---|---|---|---|",
    ]
    for stage in (stage for stage in STAGES if stage in result["metrics"]):
        values = result["metrics"][stage]
        cells = [f"{v['mean']:.4f} ({v['low']:.4f} to {v['high']:.4f})" for v in (values["nDCG@10"], values["MRR@10"])]
        lines.append(f"| {stage} | {values['nDCG@10']['queries']} | {' | '.join(cells)} |")
    lines += [
        "",
        "| the same 100 passages, interleaved, 5 turns | ms for 100 passages: median (fastest to slowest) |",
        "|---|---|",
    ]
    for backend, name in TIMES.items():
        time = parity["milliseconds for 100 passages"][backend]
        lines.append(f"| {name} | {time['median']:.0f} ({time['low']:.0f} to {time['high']:.0f}) |")
    lines += ["", "| gate | measured | limit | | |", "|---|---|---|---|---|"]
    for gate in result["gates"]:
        verdict = "pass" if gate["passed"] else "FAIL"
        value = f"{gate['value']:.4g} {gate['unit']}".strip()
        lines.append(f"| {gate['name']} | {value} | {gate['limit']:g} | {verdict} | {gate['message']} |")
    quantization = result["quantization"]
    lines += [
        "",
        f"The int8 file has {result['model_bytes']:,} bytes. Rung of the ladder: {quantization['rung']} "
        f"({len(quantization['fp32_layers'])} layers in fp32). {' '.join(result['notices'])}".rstrip(),
    ]
    return "\n".join(lines)


def numbers() -> str:
    """All results in the order of their names, between the README's two marks."""
    files = sorted(RESULTS.glob("distill-*.json"))
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}
    return "\n\n".join([START, *(section(name, result) for name, result in results.items()), END])


def main(argv: list[str] | None = None) -> int:
    """0 when the README was written, 2 for a folder that is no artifact."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.numbers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifacts", type=Path, nargs="*", help="folders with a flashranker.json")
    try:
        for artifact in parser.parse_args(argv).artifacts:
            record(artifact)
    except flashranker.ArtifactError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = README.read_text(encoding="utf-8")
    before, after = text.partition(START)[0], text.partition(END)[2]
    write_text(README, before + numbers() + after)
    return 0


if __name__ == "__main__":
    sys.exit(main())

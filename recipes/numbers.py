"""Copy what was measured into recipes/results, and write docs/numbers.md and the README's tables from what lies there.

python -m recipes.numbers artifacts/small artifacts/nano     # results/distill-small.json and -nano.json, the pages
python -m recipes.numbers evaluations/zero-shot              # results/evaluate-zero-shot.json, the pages
python -m recipes.numbers                                    # the pages alone
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flashranker
from flashranker.artifact import read_manifest

from export.artifact import write_json, write_text
from export.figures import standalone, tiers_figure
from recipes.against_torch import against_torch_section
from recipes.bulk_cost import cost_section
from recipes.command import take_over
from recipes.evaluate_report import difference_rows, facts, markdown, quality_rows, sets_rows
from recipes.full_size import full_size_section
from recipes.rivals import SYSTEMS
from recipes.serverless import serverless_section
from recipes.serving_speed import serving_section
from recipes.summary import summary
from recipes.tiers_picture import MEASURE, recorded

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent.parent / "README.md"
PAGE = README.parent / "docs/numbers.md"
PICTURE = README.parent / "docs/tiers.svg"
EXAMPLE = "distill-small.json"  # all tiers that were measured on its queries are in the picture
EVALUATION = "evaluate.json"
MANY_SETS = 4  # more than these have one table together
START, END = "<!-- numbers:start -->", "<!-- numbers:end -->"
KEPT = (
    "command", "gates", "lineage", "max_length", "metrics", "notices", "parity", "quantization", "seed", "tier",
    "versions",
)  # fmt: skip
STAGES = ("first stage", "teacher", "base", "student", "fp32", "int8")  # a manifest's keys are in alphabetical order
PARTS = {"first result ms": "ms from process start to first result", "import ms": "ms of import alone"}
TRAININGS = ("stock", "together", "apart", "stock, bf16", "together, bf16", "apart, bf16")
TIMES = {"torch": "PyTorch, sorted batches of 16", "fp32": "fp32 ONNX, runtime", "int8": "int8 ONNX, runtime"}


def record(folder: Path) -> None:
    """Copy what was measured of an artifact or in an evaluation into RESULTS."""
    RESULTS.mkdir(exist_ok=True)
    if (folder / EVALUATION).is_file():
        record_evaluation(folder)
    else:
        record_artifact(folder)


def record_evaluation(folder: Path) -> None:
    """results/evaluate-NAME.json: what recipes.evaluate wrote, without the values of single queries."""
    content = json.loads((folder / EVALUATION).read_text(encoding="utf-8"))
    for data in content["data"].values():
        for rows in data["measures"].values():
            for row in rows.values():
                del row["by query"]
    write_json(RESULTS / f"evaluate-{folder.resolve().name}.json", content)


def record_artifact(artifact: Path) -> None:
    """results/RECIPE-NAME.json, from the manifest; the weights stay where they are."""
    manifest = read_manifest(artifact)
    content = {name: getattr(manifest, name) for name in KEPT}
    content["model_bytes"] = manifest.files["onnx/model.onnx"].bytes
    recipe = manifest.command.partition("recipes.")[2].partition(" ")[0] or "distill"
    write_json(RESULTS / f"{recipe}-{manifest.name}.json", content)


def section(name: str, result: dict[str, Any]) -> str:
    """The tables of one result, in Markdown."""
    parity, lineage = result["parity"], result["lineage"]
    data, run = lineage.get("data", lineage.get("measured on")), lineage["run"]
    how = "Trained on" if "data" in lineage else "Exported as it was, with"
    chosen = f", chosen on `{lineage['chosen on']['name']}`" if "chosen on" in lineage else ""
    measured = result["metrics"]["int8"][MEASURE]["queries"]
    read = "".join(f", {stage} {count:,}" for stage, count in data.get("read", {}).items())
    minutes = run["seconds"] / 60
    lines = [
        f"{how} `{data['name']}`{f' ({read[2:]})' if read else ''}{chosen}, measured on {measured} "
        f"held-out queries, {parity['pairs']:,} pairs; means over queries with 95 % bootstrap intervals; seed "
        f"{result['seed']}; {minutes:.{int(minutes < 10)}f} minutes from data to artifact and "
        f"{run['peak memory in MB']:,} MB of memory at most. All numbers are in "
        f"[recipes/results/{name}.json](../recipes/results/{name}.json).",
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
    if curve := data.get("dev MRR@10 by step"):
        lines += ["", f"MRR@10 on dev by step: {', '.join(f'{value:.4f} at {step:,}' for step, value in curve)}."]
    return "\n".join(lines)


def speed_section(result: dict[str, Any]) -> str:
    """The benchmark's tables, in Markdown: our milliseconds, and the others in multiples of them."""
    speed, starts, machine, settings = result["speed"], result["starts"], result["machine"], result["settings"]
    ours, *others = SYSTEMS
    lines = [
        f"The same untrained int8 folders in every system, {machine['threads']} cores "
        f"({', '.join(machine['instructions'])}), turn by turn; medians, and the "
        "others in multiples of ours. `nano` is 2 layers of 128, `six` and `twelve` are layers of 384; `mixed` is 100 "
        "passages of mixed length, `short` 10 of 15 words, `callers` 8 at once with 10 each. All numbers are in "
        f"[{settings['output']}](../{settings['output']}).",
        "",
        f"![Time for 100 passages, in multiples of flashranker's.]({Path(settings['picture']).name})",
        "",
        f"| model, work | {ours}, ms (fastest to slowest) | {' | '.join(others)} |",
        "|---" * (len(others) + 2) + "|",
    ]
    for model, workloads in speed.items():
        for workload, found in workloads.items():
            own = found[ours]
            cells = [f"{found[system]['median'] / own['median']:.2f}x" for system in others]
            span = f"{own['median']:.1f} ({own['low']:.1f} to {own['high']:.1f})"
            lines.append(f"| {model}, {workload} | {span} | {' | '.join(cells)} |")
    for part in ("first result ms", "import ms"):
        own = starts[ours][part]
        cells = [f"{starts[system][part]['median'] / own['median']:.2f}x" for system in others]
        span = f"{own['median']:.0f} ({own['low']:.0f} to {own['high']:.0f})"
        lines.append(f"| nano, {PARTS[part]} | {span} | {' | '.join(cells)} |")
    ideal = [
        f"{model} {workloads['mixed'][ours]['median'] / result['ideal ms, mixed'][model]:.2f}"
        for model, workloads in speed.items()
    ]
    lines += [
        "",
        "Time over the ideal, the multiply-adds at the rate of this machine's fp32 matrix product, for `mixed`: "
        f"{', '.join(ideal)}.",
    ]
    return "\n".join(lines)


def memory_section(result: dict[str, Any]) -> str:
    """Peak memory by system, in Markdown."""
    settings = result["settings"]
    lines = [
        f"{settings['passages']} passages of 512 tokens in one call, model `{settings['model']}`, int8 (PyTorch fp32); "
        f"each system in a process of its own that may take {settings['limit']} MB.",
        "",
        "| system | peak MB |",
        "|---|---|",
    ]
    for system in SYSTEMS:
        found = result["systems"][system]
        shown = f"{found['peak MB']:,.0f}" if "peak MB" in found else "more than that: failed"
        lines.append(f"| {system} | {shown} |")
    return "\n".join(lines)


def cascade_section(result: dict[str, Any]) -> str:
    """A cascade's points, in Markdown."""
    lines = [
        f"`{result['settings']['data']}`, {result['queries']} held-out queries, {result['settings']['depth']} "
        "candidates each.",
        "",
        "![Quality against milliseconds a query.](cascade.svg)",
        "",
        "| ranked by | ms a query: median (quartiles) | MRR@10 | nDCG@10 |",
        "|---|---|---|---|",
    ]
    for name, point in sorted(result["points"].items(), key=lambda item: item[1]["ms"]["median"]):
        spent = f"{point['ms']['median']:.1f} ({point['ms']['low']:.1f} to {point['ms']['high']:.1f})"
        cells = [f"{v['mean']:.4f} ({v['low']:.4f} to {v['high']:.4f})" for v in (point["MRR@10"], point["nDCG@10"])]
        lines.append(f"| {name} | {spent} | {' | '.join(cells)} |")
    return "\n".join(lines)


def evaluation_section(name: str, result: dict[str, Any]) -> str:
    """The tables of an evaluation, in Markdown: all measures of each data set and differences in the first, or less."""
    lines = [
        f"All numbers are in [recipes/results/{name}.json](../recipes/results/{name}.json).",
    ]
    if len(result["data"]) > MANY_SETS:
        leading = next(iter(next(iter(result["data"].values()))["measures"]))
        about = next(iter(result["data"].values()))
        lines += ["", f"{leading}, the first {about['depth']} a query of {about['first stage']}.", ""]
        return "\n".join([*lines, *markdown(sets_rows(result["data"], leading))])
    for data_name, data in result["data"].items():
        leading = next(iter(data["measures"]))
        head, *differences = difference_rows(data)
        lines += ["", f"`{data_name}`: {facts(data)}. {' '.join(data['notes'])}".rstrip(), ""]
        lines += markdown(quality_rows(data))
        lines += ["", *markdown([head, *(row for row in differences if row[1] == leading)])]
    return "\n".join(lines)


def training_section(result: dict[str, Any]) -> str:
    """Pairs a second of training, in Markdown."""
    settings, speeds = result["settings"], result["pairs per second"]
    lines = [
        f"The same student and texts, {settings['length']} tokens, {result['machine']['threads']} cores, "
        f"{settings['turns']} turns; `stock` is sentence-transformers' trainer with ListNetLoss, "
        "`together` this project's on the same lists. `apart` reads each text of a step once, by itself; it scores all "
        f"{settings['neighbours']} x {settings['neighbours']} pairs.",
        "",
        "| training | pairs a second: median (least to most) | times stock |",
        "|---|---|---|",
    ]
    for name in (one for one in TRAININGS if one in speeds):
        found = speeds[name]
        span = f"{found['median']:.1f} ({found['low']:.1f} to {found['high']:.1f})"
        lines.append(f"| {name} | {span} | {found['median'] / speeds['stock']['median']:.2f} |")
    return "\n".join(lines)


SECTIONS = {
    "against_torch": against_torch_section, "benchmark": speed_section, "bulk": cost_section,
    "cascade": cascade_section, "full_size": full_size_section, "memory": memory_section,
    "serverless": serverless_section, "serving_speed": serving_section, "training_speed": training_section,
}  # fmt: skip


def read_results() -> dict[str, Any]:
    """Name of a result -> its content, in the order of the names."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}


def numbers(results: Mapping[str, Any]) -> str:
    """All results, each below its name and its command, between docs/numbers.md's two marks."""
    sections = []
    for name, result in results.items():
        write = SECTIONS.get(name.partition("-")[0])  # benchmark-avx2 is of another processor
        measured = evaluation_section if name.startswith("evaluate-") else section
        tables = write(result) if write else measured(name, result)
        sections.append(f"## {name}\n\n```\n{result['command']}\n```\n\n{tables}")
    return "\n\n".join([START, *sections, END])


def rewrite(page: Path, content: str) -> None:
    """Put what was written between the marks of a page, which begins and ends with them, in place of what is there."""
    text = page.read_text(encoding="utf-8")
    write_text(page, text.partition(START)[0] + content + text.partition(END)[2])


def main(argv: list[str] | None = None) -> int:
    """0 when the pages were written, 2 for a folder that holds no measurements."""
    take_over()
    parser = argparse.ArgumentParser(
        prog="python -m recipes.numbers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="*", help="artifacts, and what recipes.evaluate wrote")
    try:
        for folder in parser.parse_args(argv).folders:
            record(folder)
    except flashranker.FlashRankerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if (RESULTS / EXAMPLE).is_file():
        points, first_stage = recorded(sorted(RESULTS.glob("distill-*.json")), RESULTS / EXAMPLE)
        write_text(PICTURE, standalone(tiers_figure(MEASURE, points, first_stage)))
    results = read_results()
    rewrite(PAGE, numbers(results))
    rewrite(README, "\n\n".join([START, summary(results, MANY_SETS), END]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

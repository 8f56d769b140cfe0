"""The README's short tables: what each artifact gained, how it does elsewhere, and how fast the runtime is."""

from collections.abc import Mapping
from typing import Any

from recipes.evaluate_report import markdown
from recipes.rankers import FIRST_STAGE
from recipes.rivals import SYSTEMS

MEASURE = "nDCG@10"
GAIN = f"int8 - first stage, {MEASURE}"
BASE_GAIN = f"student - base, {MEASURE}"
SPEED = "benchmark"
WORKLOAD = "mixed"


def summary(results: Mapping[str, Any], many_sets: int) -> str:
    """Markdown of three tables, from the name of a result to its content; without what was not measured.

    Evaluations of more than `many_sets` sets are left to their own section.
    """
    made = {name: one for name, one in results.items() if name.startswith(("distill-", "export-", "finetune-"))}
    evaluated = {
        name: one for name, one in results.items() if name.startswith("evaluate-") and len(one["data"]) <= many_sets
    }
    tables = [gains(made)] if made else []
    tables += [elsewhere(evaluated)] if evaluated else []
    timed = {name: one for name, one in results.items() if name.partition("-")[0] == SPEED}
    tables += [speeds(timed)] if timed else []
    return "\n\n".join(tables)


def gains(made: Mapping[str, Any]) -> str:
    """A row an artifact: quality in int8 beside its first stage, its bytes and its time."""
    rows = [[
        "artifact", "trained on", "measured on (queries)", f"{MEASURE} of the first stage", "in int8",
        "difference, 95 % interval", "of it, over its base", "MB", "ms for 100 passages",
    ]]  # fmt: skip
    for name, one in made.items():
        lineage, metrics = one["lineage"], one["metrics"]
        gates = {gate["name"]: gate for gate in one["gates"]}
        measured_on = lineage["measured on"]["name"]
        rows.append([
            link(name),
            lineage["data"]["name"] if "data" in lineage else "-",
            f"{measured_on} ({metrics['int8'][MEASURE]['queries']})",
            f"{metrics['first stage'][MEASURE]['mean']:.3f}",
            f"{metrics['int8'][MEASURE]['mean']:.3f}",
            difference(gates[GAIN]),
            difference(gates[BASE_GAIN]) if BASE_GAIN in gates else "-",
            f"{one['model_bytes'] / 1e6:.1f}",
            f"{one['parity']['milliseconds for 100 passages']['int8']['median']:.0f}",
        ])  # fmt: skip
    return "\n".join(markdown(rows))


def difference(gate: Mapping[str, Any]) -> str:
    """What a gate that compares two rankings measured, with the interval that its message states."""
    interval = gate["message"].rpartition("interval ")[2]
    return f"{gate['value']:+.3f} ({interval})"


def elsewhere(evaluated: Mapping[str, Any]) -> str:
    """A row a model and data set of the evaluations: quality in int8 beside the first stage."""
    rows = [[
        "evaluation", "data (queries)", "model", f"{MEASURE} of the first stage", "reranked",
        "difference, 95 % interval",
    ]]  # fmt: skip
    for name, one in evaluated.items():
        for data_name, data in one["data"].items():
            values = data["measures"].get(MEASURE, {})
            for model in (model for model in values if model != FIRST_STAGE):
                minus = values[model]["minus"][FIRST_STAGE]
                rows.append([
                    link(name),
                    f"{data_name} ({data['queries']})",
                    model,
                    f"{values[FIRST_STAGE]['mean']:.3f}",
                    f"{values[model]['mean']:.3f}",
                    f"{minus['difference']:+.3f} ({minus['low']:+.3f} to {minus['high']:+.3f})",
                ])  # fmt: skip
    return "\n".join(markdown(rows))


def speeds(benchmarks: Mapping[str, Any]) -> str:
    """A row a model and processor: the time of others for 100 passages of mixed length, in multiples of ours."""
    ours, *others = SYSTEMS
    rows = [[f"100 passages of mixed length, times {ours}'s time", "processor", *others]]
    for name, benchmark in benchmarks.items():
        for model, workloads in benchmark["speed"].items():
            found = workloads[WORKLOAD]
            multiples = [f"{found[system]['median'] / found[ours]['median']:.1f}" for system in others]
            rows.append([link(name, model), benchmark["machine"]["instructions"][-1], *multiples])
    return "\n".join(markdown(rows))


def link(name: str, shown: str = "") -> str:
    """To a result's section in docs/numbers.md."""
    return f"[{shown or name}](docs/numbers.md#{name})"

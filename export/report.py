"""report.html: what a run did and what it is worth, in one file that loads nothing from anywhere."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from flashranker.artifact import Calibration

from export.artifact import write_text
from export.calibrate import brier_score, expected_calibration_error, probabilities
from export.card import queries
from export.figures import (
    TierPoint,
    curve_figure,
    distribution_figure,
    latency_figure,
    quality_figure,
    reliability_figure,
    tiers_figure,
)

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class ReportContent:
    """Everything a report shows, as plain values; what is empty leaves its section out.

    `title`, `summary`: plain text. `notices`: what a reader must know before the numbers.
    `metrics`: stage ("first stage", "teacher", "student", "fp32", "int8") -> measure ("nDCG@10", "MRR@10") ->
    {"mean", "low", "high"}, the ends of the 95 % interval optional; as in the manifest.
    `gates`: the manifest's: {"name", "value", "limit", "passed", "unit", "message"} each.
    `loss`: stage -> (step, loss) pairs. `dev_quality`: measure -> (step, value) pairs.
    `logits`, `labels`: of the int8 model on held-out pairs, same order; a label above 0 is relevant. With
    `calibration` they also give the reliability diagram.
    `latency`: system ("torch", "fp32", "int8") -> {"median", "low", "high"} in ms per 100 passages, low and
    high being the fastest and the slowest run. `latency_note`: machine, threads, passage length.
    `tiers`: artifact -> its `TierPoint` in `tier_measure`, all of the same held-out queries.
    `sizes`: file -> bytes. `lineage`, `settings`: nested mappings of plain values. `command`: how to repeat.
    """

    title: str
    summary: str = ""
    notices: Sequence[str] = ()
    metrics: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    gates: Sequence[Mapping[str, Any]] = ()
    loss: Mapping[str, Points] = field(default_factory=dict)
    dev_quality: Mapping[str, Points] = field(default_factory=dict)
    logits: Sequence[float] | np.ndarray = ()
    labels: Sequence[int] | np.ndarray = ()
    calibration: Calibration | None = None
    latency: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    latency_note: str = ""
    tiers: Mapping[str, TierPoint] = field(default_factory=dict)
    tier_measure: str = "MRR@10"
    sizes: Mapping[str, int] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""


def write_report(path: Path, content: ReportContent) -> None:
    """Write one self-contained HTML file through a temporary name; equal content gives equal bytes.

    Raises ValueError when logits and labels do not match or a logit is not finite.
    """
    parts = [
        quality(content.metrics),
        gates(content.gates),
        training(content),
        scores(content),
        latency(content.latency, content.latency_note),
        tiers(content),
        section("Sizes", table(["file", "bytes"], [[name, f"{size:,}"] for name, size in content.sizes.items()])),
        section("Lineage", pairs(content.lineage)),
        section("Settings", pairs(content.settings)),
        section("Command", f"<pre>{escape(content.command)}</pre>" if content.command else ""),
    ]
    write_page(path, content.title, parts, content.summary, content.notices)


def write_page(path: Path, title: str, parts: Sequence[str], summary: str = "", notices: Sequence[str] = ()) -> None:
    """Write one self-contained HTML file of `parts`, which are HTML already, through a temporary name."""
    marked = "".join(f'<p class="notice">{escape(notice)}</p>' for notice in notices)
    head = f"<p>{escape(summary)}</p>" if summary else ""
    body = f"<h1>{escape(title)}</h1>\n{head}{marked}\n" + "\n".join(part for part in parts if part)
    write_text(path, PAGE.format(title=escape(title), style=STYLE, body=body))


def quality(metrics: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """A figure a measure, and all numbers in a table."""
    measures = list(dict.fromkeys(measure for values in metrics.values() for measure in values))
    drawn = [
        quality_figure(measure, {stage: values[measure] for stage, values in metrics.items() if measure in values})
        for measure in measures
    ]
    rows = [
        [stage, queries(values), *(interval(values.get(measure)) for measure in measures)]
        for stage, values in metrics.items()
    ]
    note = "<p>Means over held-out queries, with 95 % bootstrap intervals.</p>" if rows else ""
    return section("Quality by stage", note + figures(drawn) + table(["stage", "queries", *measures], rows))


def gates(values: Sequence[Mapping[str, Any]]) -> str:
    """One row a gate."""
    rows = [
        [
            gate["name"],
            *(f"{gate[key]:.6g} {gate['unit']}".strip() for key in ("value", "limit")),
            "pass" if gate["passed"] else "FAIL",
            gate["message"],
        ]
        for gate in values
    ]
    return section("Gates", table(["gate", "measured", "limit", "result", "detail"], rows))


def training(content: ReportContent) -> str:
    """Loss of each stage in a picture of its own, as each has its own kind, and dev quality over all steps."""
    drawn = [curve_figure(f"loss, {stage}", {stage: points}) for stage, points in content.loss.items() if len(points)]
    curves = {measure: points for measure, points in content.dev_quality.items() if len(points)}
    if curves:
        drawn.append(curve_figure("dev " + ", ".join(curves), curves))
    return section("Training", figures(drawn))


def scores(content: ReportContent) -> str:
    """How far relevant candidates stand apart, and whether probabilities mean what they say."""
    logits, relevant = np.asarray(content.logits, dtype=np.float64), np.asarray(content.labels) > 0
    if logits.shape != relevant.shape or not np.isfinite(logits).all():
        raise ValueError(f"{logits.shape} logits and {relevant.shape} labels: expected as many, and finite logits")
    if not len(logits):
        return ""
    drawn, note = [distribution_figure(logits, relevant)], ""
    if content.calibration:
        probability = probabilities(content.calibration, logits)
        drawn.append(reliability_figure(probability, relevant))
        note = (
            f"<p>Probability = sigmoid({content.calibration.a:.4g} x logit {content.calibration.b:+.4g}). "
            f"Expected calibration error {expected_calibration_error(probability, relevant):.4f}, "
            f"Brier score {brier_score(probability, relevant):.4f}, over {len(logits):,} held-out pairs.</p>"
        )
    return section("Scores and their calibration", note + figures(drawn))


def latency(systems: Mapping[str, Mapping[str, float]], note: str) -> str:
    """Milliseconds per 100 passages."""
    if not systems:
        return ""
    rows = [[name, *(f"{value[key]:,.1f}" for key in ("median", "low", "high"))] for name, value in systems.items()]
    numbers = table(["ms per 100 passages", "median", "fastest", "slowest"], rows)
    return section("Latency", (f"<p>{escape(note)}</p>" if note else "") + figures([latency_figure(systems)]) + numbers)


def tiers(content: ReportContent) -> str:
    """Quality against milliseconds and megabytes, beside other artifacts that were measured on the same queries."""
    stage = content.metrics.get("first stage", {}).get(content.tier_measure)
    if not content.tiers or not stage:
        return ""
    drawn = tiers_figure(content.tier_measure, content.tiers, stage["mean"])
    note = "<p>This artifact, and those beside it that were measured on the same held-out queries.</p>"
    return section("Quality against time and size", note + figures([drawn]))


def section(title: str, inner: str) -> str:
    """A headed section, or nothing when there is nothing in it."""
    return f"<section><h2>{escape(title)}</h2>{inner}</section>" if inner else ""


def figures(drawn: Sequence[str]) -> str:
    """SVG elements side by side where there is room."""
    return '<div class="figures">' + "".join(f"<figure>{svg}</figure>" for svg in drawn) + "</div>" if drawn else ""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls by itself on a narrow screen; its cells are plain text."""
    if not rows:
        return ""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    lines = ["".join(cell_of(str(cell)) for cell in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def cell_of(text: str) -> str:
    """One cell; verdicts are coloured, numbers stand right."""
    kind = {"pass": "pass", "FAIL": "fail"}.get(text, "number" if re.match(r"[-+]?\d[\d.,]*\b", text) else "")
    return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"


def pairs(values: Mapping[str, Any]) -> str:
    """Nested mappings as a two-column table, keys joined by dots."""
    return table(["", ""], flatten(values))


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[list[str]]:
    """[key, value] rows of nested mappings, in their order."""
    rows: list[list[str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            rows.append([f"{prefix}{key}", ", ".join(map(str, value))])
        else:
            rows.append([f"{prefix}{key}", f"{value:.6g}" if isinstance(value, float) else str(value)])
    return rows


def interval(value: Mapping[str, float] | None) -> str:
    """0.1234 (0.1100 to 0.1300), or the mean alone."""
    if value is None:
        return ""
    ends = f" ({value['low']:.4f} to {value['high']:.4f})" if {"low", "high"} <= set(value) else ""
    return f"{value['mean']:.4f}{ends}"


STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 0 auto; padding: 1rem;
  color: light-dark(#1b1f24, #e3e6ea); background: light-dark(#fff, #15181c); overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: .5rem 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 1rem; }
figure { margin: 0; } svg { width: 100%; max-width: 34rem; height: auto; display: block; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0;
  border-bottom: 1px solid var(--line); vertical-align: top; }
td { overflow-wrap: normal; } td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.pass { color: light-dark(#1a7f45, #5dc58a); font-weight: 600; }
.fail { color: light-dark(#c22f2f, #ff8080); font-weight: 700; }
.notice { border-left: 4px solid #d9772b; padding: .3rem .8rem; background: var(--soft); }
pre { white-space: pre-wrap; background: var(--soft); padding: .7rem; }
"""

# The policy makes a browser refuse to load anything, should a value ever slip through as markup.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""

"""Figures of the report, each one inline SVG element.

They carry no background and take their text colour from the page, so one file serves light and dark.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

BLUE, ORANGE, GREEN = "#3b82c4", "#d9772b", "#3f9b6b"  # readable on white and on near-black
INK = "#010203"  # stands for the page's text colour until the SVG is written
SIZE = (5.0, 2.9)  # inches; small, so that letters stay legible when a phone scales the figure down
MOST_POINTS = 400
STYLE = {
    "svg.fonttype": "none",  # text stays text: searchable, readable aloud, and small
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def quality_figure(measure: str, stages: Mapping[str, Mapping[str, float]], by: str = "stage") -> str:
    """One measure: a point and its interval a stage (or what else `by` names), first stage on top.

    `stages`: stage -> {"mean", "low", "high"}, the ends optional.
    """
    with rc_context(styled(f"quality {measure}")):
        figure = Figure(figsize=(SIZE[0], 0.9 + 0.38 * len(stages)))
        axes = figure.subplots()
        for row, value in enumerate(stages.values()):
            low, high = value.get("low", value["mean"]), value.get("high", value["mean"])
            axes.plot([low, high], [row, row], color=BLUE, linewidth=5, alpha=0.45, solid_capstyle="butt")
            axes.plot(value["mean"], row, "o", color=BLUE, markersize=6)
            axes.annotate(f"{value['mean']:.3f}", (high, row), (6, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(stages)), [plain(stage) for stage in stages])
        axes.set_ylim(len(stages) - 0.5, -0.5)
        axes.margins(x=0.2)
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel(plain(measure))
        return to_svg(figure, f"{measure} by {by}")


def wins_figure(label: str, differences: Sequence[float]) -> str:
    """Differences of two systems query by query, from the largest gain to the largest loss."""
    ordered = np.sort(np.asarray(differences, dtype=np.float64))[::-1]
    edges = np.arange(len(ordered) + 1)
    with rc_context(styled(f"wins {label}")):
        figure = Figure(figsize=SIZE)
        axes = figure.subplots()
        for signed, name, color in (
            (np.maximum(ordered, 0), f"better ({(ordered > 0).sum():,})", BLUE),
            (np.minimum(ordered, 0), f"worse ({(ordered < 0).sum():,})", ORANGE),
        ):
            axes.stairs(signed, edges, fill=True, color=color, alpha=0.85, label=name)
        axes.axhline(0, color=INK, linewidth=0.6)
        axes.set_xlabel(f"{len(ordered):,} queries, best first; alike in {(ordered == 0).sum():,}")
        axes.set_ylabel(plain(label))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
        return to_svg(figure, f"{label}, query by query")


def curve_figure(label: str, curves: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """Values over training steps; curves of many points are drawn as the means of neighbouring ones."""
    with rc_context(styled(f"curve {label}")):
        figure = Figure(figsize=SIZE)
        axes = figure.subplots()
        for (name, points), color in zip(curves.items(), (BLUE, ORANGE, GREEN) * len(curves), strict=False):
            steps, values = thin(np.asarray(points, dtype=np.float64))
            axes.plot(steps, values, color=color, label=plain(name), marker="o" if len(steps) <= 30 else None)
        axes.set_xlabel("step")
        axes.set_ylabel(plain(label))
        if len(curves) > 1:
            axes.legend()
        return to_svg(figure, f"{label} over training steps")


def distribution_figure(logits: np.ndarray, relevant: np.ndarray) -> str:
    """Histograms of logits (n,), each class summing to 1: relevant candidates against the others."""
    with rc_context(styled("distribution")):
        figure = Figure(figsize=SIZE)
        axes = figure.subplots()
        edges = np.histogram_bin_edges(logits, bins=40)
        for chosen, label, color in ((~relevant, "other candidates", ORANGE), (relevant, "relevant", BLUE)):
            share = np.histogram(logits[chosen], edges)[0] / max(1, chosen.sum())
            axes.stairs(share, edges, fill=True, color=color, alpha=0.55, label=f"{label} ({chosen.sum():,})")
        axes.set_xlabel("int8 logit")
        axes.set_ylabel("share of candidates")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
        return to_svg(figure, "logits of relevant and of other candidates")


def reliability_figure(probability: np.ndarray, relevant: np.ndarray) -> str:
    """Share of relevant pairs against mean probability in ten equal-width bins; larger dots hold more."""
    bins = np.minimum((probability * 10).astype(int), 9)
    counts = np.bincount(bins, minlength=10)
    filled = counts > 0
    mean = np.bincount(bins, weights=probability, minlength=10)[filled] / counts[filled]
    share = np.bincount(bins, weights=relevant, minlength=10)[filled] / counts[filled]
    with rc_context(styled("reliability")):
        figure = Figure(figsize=SIZE)
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle="dashed", label="perfectly calibrated")
        axes.plot(mean, share, color=BLUE, linewidth=1)
        axes.scatter(
            mean,
            share,
            s=20 + 15 * np.log10(counts[filled]),
            color=BLUE,
            label="int8",
            zorder=3,
            clip_on=False,
        )
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability given", ylabel="share that is relevant")
        axes.legend()
        return to_svg(figure, "reliability of the calibrated probabilities")


def latency_figure(systems: Mapping[str, Mapping[str, float]]) -> str:
    """Milliseconds per 100 passages: median as a bar, fastest and slowest as a line.

    `systems`: name -> {"median", "low", "high"}.
    """
    with rc_context(styled("latency")):
        figure = Figure(figsize=(SIZE[0], 0.9 + 0.42 * len(systems)))
        axes = figure.subplots()
        for row, value in enumerate(systems.values()):
            axes.barh(row, value["median"], height=0.55, color=GREEN, alpha=0.75)
            axes.plot([value["low"], value["high"]], [row, row], color=INK, linewidth=1.2)
            axes.annotate(
                f"{value['median']:,.0f}",
                (value["high"], row),
                (6, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_yticks(range(len(systems)), [plain(name) for name in systems])
        axes.set_ylim(len(systems) - 0.5, -0.5)
        axes.set_xlim(0, 1.15 * max(value["high"] for value in systems.values()))
        axes.set_xlabel("ms per 100 passages")
        return to_svg(figure, "latency")


def styled(salt: str) -> Any:
    """Settings of one figure; the salt makes its element ids the same every time and unlike the others'."""
    return {**STYLE, "svg.hashsalt": salt}


def thin(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of at most `MOST_POINTS` points, each the mean of neighbours, from (n, 2)."""
    blocks = np.array_split(points, min(len(points), MOST_POINTS))
    means = np.array([block.mean(axis=0) for block in blocks])
    return means[:, 0], means[:, 1]


def plain(text: str) -> str:
    """A label that leaves room for the figure, drawn as it is: matplotlib reads dollar signs as a formula."""
    return (text if len(text) <= 28 else text[:27] + "…").replace("$", r"\$")


def to_svg(figure: Figure, description: str) -> str:
    """The figure as one <svg> element without prolog, metadata or size, in the page's text colour."""
    written = io.StringIO()
    figure.savefig(written, format="svg", transparent=True)
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    # The metadata hold the time and outside addresses; the style would hold for the whole page.
    svg = re.sub(r"<metadata>.*?</metadata>|<style type=\"text/css\">.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\n?", "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box, "matplotlib writes a viewBox"
    label = re.sub(r"[^\w@%., -]", " ", description)
    svg = re.sub(r"<svg[^>]*>", f'<svg {box.group()} role="img" aria-label="{label}">', svg, count=1)
    return svg.replace(INK, "currentColor").strip()


def speed_figure(models: Mapping[str, Mapping[str, float]]) -> str:
    """How many times as long as the first system each takes: a group of bars a model, a bar a system.

    `models`: model -> system -> ratio, the same systems in each.
    """
    systems = list(next(iter(models.values())))
    with rc_context(styled("speed")):
        figure = Figure(figsize=(SIZE[0] * 1.3, 0.8 + 0.26 * len(models) * (len(systems) + 1)))
        axes = figure.subplots()
        for group, ratios in enumerate(models.values()):
            for row, ratio in enumerate(ratios.values()):
                height = group * (len(systems) + 1) + row
                axes.barh(height, ratio, color=BLUE if row == 0 else ORANGE, alpha=0.85)
                axes.annotate(f"{ratio:.1f}x", (ratio, height), (4, 0), textcoords="offset points", va="center")
        places = [group * (len(systems) + 1) + row for group in range(len(models)) for row in range(len(systems))]
        axes.set_yticks(places, [f"{system}, {model}" for model in models for system in systems])
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_xlabel("time for 100 passages, times that of flashranker")
        return to_svg(figure, "time of each system in multiples of flashranker's")


def tradeoff_figure(measure: str, points: Mapping[str, tuple[float, float, float, float]]) -> str:
    """Quality against time: a point a system, with the interval of its quality, joined in the order given.

    `points`: system -> milliseconds a query, the measure's mean, and the ends of its interval.
    """
    with rc_context(styled(f"tradeoff {measure}")):
        figure = Figure(figsize=SIZE)
        axes = figure.subplots()
        times, means, lows, highs = np.array(list(points.values())).T
        axes.errorbar(times, means, (means - lows, highs - means), fmt="o-", color=BLUE, ecolor=ORANGE, capsize=3)
        for name, (spent, mean, _, _) in points.items():
            axes.annotate(plain(name), (spent, mean), (6, -11), textcoords="offset points")
        axes.margins(x=0.18)
        axes.set_xlabel("milliseconds a query")
        axes.set_ylabel(plain(measure))
        return to_svg(figure, f"{measure} against milliseconds a query")


@dataclass(frozen=True)
class TierPoint:
    """One artifact: ms for 100 passages, MB of its model, the mean of a measure and the ends of its interval."""

    milliseconds: float
    megabytes: float
    mean: float
    low: float
    high: float


def tiers_figure(measure: str, points: Mapping[str, TierPoint], first_stage: float) -> str:
    """Quality against time and against size, in two panels; a line shows what the first stage reaches."""
    with rc_context(styled(f"tiers {measure}")):
        figure = Figure(figsize=(1.5 * SIZE[0], SIZE[1]))
        panels = figure.subplots(1, 2, sharey=True)
        costs = ("milliseconds for 100 passages", "megabytes")
        for axes, cost, part in zip(panels, costs, ("milliseconds", "megabytes"), strict=True):
            axes.axhline(first_stage, color=GREEN, linestyle="--", linewidth=1)
            for name, point in points.items():
                spent = getattr(point, part)
                ends = [[point.mean - point.low], [point.high - point.mean]]
                axes.errorbar([spent], [point.mean], ends, fmt="o", color=BLUE, ecolor=ORANGE, capsize=3)
                axes.annotate(plain(name), (spent, point.mean), (6, -11), textcoords="offset points")
            axes.margins(x=0.25)
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel(cost)
        panels[0].annotate("first stage", (0.02, first_stage), (0, 3), ("axes fraction", "data"), "offset points")
        panels[0].set_ylabel(plain(measure))
        return to_svg(figure, f"{measure} against milliseconds and against megabytes")


def standalone(svg: str) -> str:
    """An inline SVG element as the content of a file, grey enough for light and dark pages."""
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" color="#7a828a"'
    return svg.replace("<svg ", f"<svg {spaces} ", 1) + "\n"

"""What an evaluation shows: tables for the terminal, and one page with pictures that loads nothing."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from export.figures import quality_figure, wins_figure
from export.report import figures, interval, pairs, section, table, write_page
from recipes.comparison import TESTS
from recipes.rankers import FIRST_STAGE

EXTREMES = 5  # queries shown with the largest gains, and with the largest losses
Rows = list[list[str]]


def markdown(rows: list[list[str]]) -> list[str]:
    """A header and rows as a table's lines."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


def text_report(content: Mapping[str, Any]) -> str:
    """All tables, for a terminal."""
    parts = []
    for name, data in content["data"].items():
        lines = [f"{name}: {facts(data)}", *(f"  {note}" for note in data["notes"])]
        tables = quality_rows(data), difference_rows(data)
        parts += ["\n".join(lines), *(aligned(rows) for rows in tables if len(rows) > 1)]
    if len(content["data"]) > 1:
        measure = next(iter(content["zero-shot"]))
        parts += [f"{measure} by data set", aligned(zero_shot_rows(content["zero-shot"][measure], content["data"]))]
    return "\n\n".join(["", *parts, TESTS])


def write_evaluation(path: Path, content: Mapping[str, Any], queries: Mapping[str, Mapping[str, str]]) -> None:
    """Write the page. `queries`: data set -> query id -> text, for the queries that gain and lose most."""
    models = [[name, model["kind"], model["source"]] for name, model in content["models"].items()]
    parts = [
        *(data_section(name, data, queries[name]) for name, data in content["data"].items()),
        section("Models", table(["name", "kind", "source"], models)),
        section("Tests", f"<p>{escape(TESTS)}</p>"),
        section("Settings", pairs(content["settings"] | {"versions": content["versions"]})),
        section("Command", f"<pre>{escape(content['command'])}</pre>"),
    ]
    if len(content["data"]) > 1:
        parts.insert(0, zero_shot_section(content))
    write_page(path, f"Evaluation on {', '.join(content['data'])}", parts)


def data_section(name: str, data: Mapping[str, Any], queries: Mapping[str, str]) -> str:
    """One data set: a picture a measure, all numbers, and the queries that each model wins and loses."""
    measures = data["measures"]
    leading = next(iter(measures))
    changes = {
        model: {query: value - measures[leading][FIRST_STAGE]["by query"][query] for query, value in values.items()}
        for model, values in ((model, row["by query"]) for model, row in measures[leading].items())
        if model != FIRST_STAGE
    }
    head, *rows = quality_rows(data)
    against, *differences = difference_rows(data)
    notes = "".join(f'<p class="notice">{escape(note)}</p>' for note in data["notes"])
    compared = f"<h3>Differences</h3>{table(against, differences)}" if differences else ""
    inner = [
        f"<p>{escape(facts(data))}</p>{notes}",
        figures([quality_figure(measure, models, "model") for measure, models in measures.items()]),
        table(head, rows),
        compared,
        f"<h3>{escape(leading)} by query, against the first stage</h3>" if changes else "",
        figures([wins_figure(f"{model} - {FIRST_STAGE}", list(change.values())) for model, change in changes.items()]),
        table(["model", leading, "query"], extreme_rows(changes, queries)),
    ]
    return section(name, "".join(inner))


def zero_shot_section(content: Mapping[str, Any]) -> str:
    """A table a measure, models by data sets."""
    shown = []
    for measure, models in content["zero-shot"].items():
        head, *rows = zero_shot_rows(models, content["data"])
        shown.append(f"<h3>{escape(measure)}</h3>{table(head, rows)}")
    return section("All data sets", "".join(shown))


def facts(data: Mapping[str, Any]) -> str:
    """What was measured, in a sentence."""
    return (
        f"{data['queries']:,} queries, {data['pairs']:,} candidates, the first {data['depth']:,} a query of "
        f"{data['first stage']}"
    )


def quality_rows(data: Mapping[str, Any]) -> Rows:
    """A header and a row a model: every measure with its interval."""
    measures = data["measures"]
    rows = [["model", "queries", *measures]]
    for model in next(iter(measures.values())):
        cells = [interval(results[model]) for results in measures.values()]
        rows.append([model, f"{data['queries']:,}", *cells])
    return rows


def difference_rows(data: Mapping[str, Any]) -> Rows:
    """A header and a row for each measure, baseline and model."""
    rows = [["difference", "measure", "mean (95 % interval)", "p", "p (Holm)", "better / alike / worse"]]
    for measure, models in data["measures"].items():
        for model, row in models.items():
            for baseline, found in row["minus"].items():
                alike = data["queries"] - found["better"] - found["worse"]
                rows.append([
                    f"{model} - {baseline}", measure,
                    f"{found['difference']:+.4f} ({found['low']:+.4f} to {found['high']:+.4f})",
                    f"{found['p']:.4f}", f"{found['p (Holm)']:.4f}",
                    f"{found['better']} / {alike} / {found['worse']}",
                ])  # fmt: skip
    return rows


def zero_shot_rows(models: Mapping[str, Any], names: Sequence[str] | Mapping[str, Any]) -> Rows:
    """A header and a row a model: its mean on every data set, and the mean over them."""
    rows = [["model", *names, "mean over sets"]]
    for model, found in models.items():
        values = [*(found["sets"].get(name) for name in names), found["mean"]]
        rows.append([model, *("-" if value is None else f"{value:.4f}" for value in values)])
    return rows


def sets_rows(data: Mapping[str, Mapping[str, Any]], measure: str) -> Rows:
    """A header and a row a data set: one measure of every model, and what the first model has over the first stage."""
    stage, first, *_ = models = list(next(iter(data.values()))["measures"][measure])
    rows = [["data", "queries", *models, f"{first} - {stage} (95 % interval)"]]
    for name, one in data.items():
        found = one["measures"][measure]
        gain = found[first]["minus"][stage]
        interval = f"{gain['difference']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})"
        rows.append([name, f"{one['queries']:,}", *(f"{found[model]['mean']:.4f}" for model in models), interval])
    return rows


def extreme_rows(changes: Mapping[str, Mapping[str, float]], queries: Mapping[str, str]) -> Rows:
    """The queries that gain most and lose most with each model."""
    rows = []
    for model, change in changes.items():
        ordered = sorted(change, key=lambda query: -change[query])
        shown = [query for query in ordered[:EXTREMES] if change[query] > 0]
        shown += [query for query in ordered[-EXTREMES:] if change[query] < 0]
        rows += [[model, f"{change[query]:+.4f}", queries[query]] for query in shown]
    return rows


def aligned(rows: Rows) -> str:
    """Cells in columns as wide as their widest."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )

"""From runs on one data set to means, intervals and tested differences, as plain values that JSON takes."""

from collections.abc import Mapping, Sequence
from typing import Any

from training.metrics import (
    RESAMPLES,
    Judgments,
    Run,
    bootstrap_interval,
    evaluate,
    holm,
    mean,
    paired_bootstrap,
    paired_permutation,
)

Results = dict[str, dict[str, dict[str, Any]]]  # measure -> model -> what `compare` found
TESTS = (
    "Means are over queries, with 95 % percentile bootstrap intervals (10,000 resamples; of the paired differences "
    "where two systems are compared). p is two-sided, of the paired randomization test, which flips the signs of the "
    f"differences by query: all flips where there are at most {RESAMPLES:,}, else as many drawn ones. "
    "p (Holm) is corrected for the number of models that are compared with the same system, within a measure and a "
    "data set; nothing is corrected over measures or data sets."
)


def compare(
    runs: Mapping[str, Run],
    judgments: Judgments,
    measures: Sequence[str],
    baselines: Sequence[str],
    *,
    relevant: int = 1,
    seed: int = 0,
) -> Results:
    """Measure -> model -> {"mean", "low", "high", "by query", "minus": baseline -> `difference` and "p (Holm)"}.

    Every model is compared with each baseline that has a run, and no baseline with one that comes after it.
    """
    values = {name: evaluate(one, judgments, measures, relevant) for name, one in runs.items()}
    results: Results = {}
    for measure in measures:
        rows: dict[str, dict[str, Any]] = {}
        for name in runs:
            by_query = values[name][measure]
            low, high = bootstrap_interval(by_query, seed)
            rows[name] = {"mean": mean(by_query), "low": low, "high": high, "minus": {}, "by query": by_query}
        for number, baseline in enumerate(baselines, start=1):
            compared = [name for name in runs if baseline in runs and name not in baselines[:number]]
            found = {name: difference(values[name][measure], values[baseline][measure], seed) for name in compared}
            corrected = holm({name: one["p"] for name, one in found.items()})
            for name in compared:
                rows[name]["minus"][baseline] = found[name] | {"p (Holm)": corrected[name]}
        results[measure] = rows
    return results


def difference(ours: Mapping[str, float], theirs: Mapping[str, float], seed: int = 0) -> dict[str, float]:
    """Mean difference over queries, its paired bootstrap interval, the randomization test's p, queries won and lost."""
    found = paired_bootstrap(ours, theirs, seed)
    return {
        "difference": found.difference, "low": found.low, "high": found.high,
        "p": paired_permutation(ours, theirs, seed),
        "better": sum(ours[query] > theirs[query] for query in ours),
        "worse": sum(ours[query] < theirs[query] for query in ours),
    }  # fmt: skip


def zero_shot(results: Mapping[str, Results]) -> dict[str, dict[str, dict[str, Any]]]:
    """Measure -> model -> {"sets": data set -> mean, "mean": over all sets, None for a model that lacks one}."""
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for name, measures in results.items():
        for measure, rows in measures.items():
            for model, row in rows.items():
                found = table.setdefault(measure, {}).setdefault(model, {"sets": {}, "mean": None})
                found["sets"][name] = row["mean"]
    for models in table.values():
        for found in models.values():
            if len(found["sets"]) == len(results):
                found["mean"] = mean(found["sets"])
    return table

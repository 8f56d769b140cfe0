"""Ranking quality: per-query measures by ir_measures, bootstrap intervals, paired differences and their p-values.

Everything is per query first, so that two systems are always compared query by query.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ir_measures
import numpy as np
from scipy.stats import permutation_test

from training.data import InputError

Run = Mapping[str, Mapping[str, float]]
Judgments = Mapping[str, Mapping[str, int]]
MEASURES = ("nDCG@10", "MRR@10")
BOOTSTRAP_CHUNK = 2_000_000  # drawn indices at a time, 16 MB
PERMUTATION_CHUNK = 500_000  # differences with a drawn sign at a time, about 16 MB
RESAMPLES = 9_999  # sign flips drawn by a permutation test, one more in the denominator of p


@dataclass(frozen=True)
class PairedDifference:
    """Mean of `a - b` over queries, its 95 % interval, and the two-sided p of "there is no difference"."""

    difference: float
    low: float
    high: float
    p: float


def evaluate(
    run: Run, judgments: Judgments, measures: Sequence[str] = MEASURES, relevant: int = 1
) -> dict[str, dict[str, float]]:
    """Measure -> query id -> value, for every query of `judgments`, in their order.

    A query that the run lacks counts 0; a query of the run without judgments is left out. Equal scores rank
    in the order in which the run lists them. The ideal of nDCG knows all judged passages, retrieved or not.
    `measures` are names of ir_measures, and MRR@k, which it calls RR@k. A measure that knows only relevant and
    not relevant counts grades from `relevant` up, unless its name says otherwise, as AP(rel=2) does.
    Raises InputError for an unknown measure, a score that is not finite, or empty judgments.
    """
    if not judgments:
        raise InputError("there are no judgments to evaluate against: expected at least one judged query")
    parsed = parse_measures(measures, relevant)
    # The libraries under ir_measures break ties by passage id, pytrec_eval downwards and MS MARCO's upwards,
    # and compare in single precision: ranks instead of scores leave them nothing to break.
    # One of them, gdeval, also wants queries that are numbers.
    numbers = {query: str(number) for number, query in enumerate(judgments)}
    ranked = {
        numbers[query]: {passage: -float(rank) for rank, passage in enumerate(_best_first(query, run[query]))}
        for query in judgments
        if query in run
    }
    grades = {numbers[query]: dict(judged) for query, judged in judgments.items()}
    values: dict[str, dict[str, float]] = {name: dict.fromkeys(judgments, 0.0) for name in parsed}
    names: dict[ir_measures.Measure, list[str]] = {}
    for name, measure in parsed.items():
        names.setdefault(measure, []).append(name)
    queries = list(judgments)
    for metric in ir_measures.iter_calc(list(names), grades, ranked):
        for name in names[metric.measure]:
            values[name][queries[int(metric.query_id)]] = float(metric.value)
    return values


def run_from_scores(
    candidates: Mapping[str, Sequence[str]], scores: Mapping[str, Sequence[float] | np.ndarray]
) -> dict[str, dict[str, float]]:
    """Run that reranks each query's candidates by its scores, best first; equal scores keep candidate order.

    `scores`: query id -> one score per candidate, in candidate order. The run's scores are ranks counted from
    the end (n for the best, 1 for the last), so that no tool which reads it can order a tie differently.
    Raises InputError when scores are missing, too few or many, or not finite, or a candidate comes twice.
    """
    run = {}
    for query, passages in candidates.items():
        if query not in scores or len(scores[query]) != len(passages):
            found = len(scores[query]) if query in scores else "none"
            raise InputError(f"query {query!r}: {len(passages)} candidates need as many scores, got {found}")
        if len(set(passages)) != len(passages):
            raise InputError(f"query {query!r}: a passage is listed twice among its candidates")
        paired = zip(passages, scores[query], strict=True)
        ordered = _best_first(query, {passage: float(score) for passage, score in paired})
        run[query] = {passage: float(len(ordered) - rank) for rank, passage in enumerate(ordered)}
    return run


def mean(values: Mapping[str, float]) -> float:
    """Mean over queries; NaN for none."""
    return math.fsum(values.values()) / len(values) if values else math.nan


def bootstrap_interval(values: Mapping[str, float], seed: int = 0, samples: int = 10_000) -> tuple[float, float]:
    """95 % percentile interval of the mean over queries, queries resampled (Efron & Tibshirani 1993, ch. 13).

    Raises InputError for no values.
    """
    sampled = np.array(list(values.values()), dtype=np.float64)
    means, _ = _bootstrap_moments(sampled, seed, samples)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def paired_bootstrap(
    a: Mapping[str, float], b: Mapping[str, float], seed: int = 0, samples: int = 10_000
) -> PairedDifference:
    """Compare two systems' values on the same queries by resampling queries.

    The interval is the percentile interval of the mean difference `a - b`. p is the share of resamples of
    the centred differences whose Student statistic is at least as extreme as the observed one (Efron &
    Tibshirani 1993, ch. 16; Sakai, SIGIR 2006), counted with one added so that it is never 0. When every
    query differs by the same amount there is no variance to studentize, and p is the sign test's.
    Raises InputError when the queries of the two differ or there are none.
    """
    if a.keys() != b.keys():
        odd = sorted(a.keys() ^ b.keys())
        raise InputError(
            f"a paired comparison needs the same queries on both sides; {len(odd)} differ, first {odd[:3]}"
        )
    differences = np.array([a[query] - b[query] for query in sorted(a)], dtype=np.float64)
    means, _ = _bootstrap_moments(differences, seed, samples)
    observed = float(differences.mean())
    low, high = (float(bound) for bound in np.quantile(means, [0.025, 0.975]))
    if np.ptp(differences) < 1e-12:
        p = 1.0 if abs(observed) < 1e-12 else 2.0 ** (1 - len(differences))
        return PairedDifference(observed, low, high, p)
    centred_means, deviations = _bootstrap_moments(differences - observed, seed, samples)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistics = np.where(centred_means == 0, 0.0, np.abs(centred_means) / deviations)
    extreme = np.count_nonzero(statistics >= abs(observed) / differences.std() * (1 - 1e-12))
    return PairedDifference(observed, low, high, (int(extreme) + 1) / (samples + 1))


def paired_permutation(
    a: Mapping[str, float], b: Mapping[str, float], seed: int = 0, resamples: int = RESAMPLES
) -> float:
    """Two-sided p of "the two systems are alike" by the paired randomization test (Fisher 1935; Smucker et al. 2007).

    The sign of each query's difference is flipped at random, and p is twice the smaller share of mean
    differences that are as low, or as high, as the observed one: over all flips where there are at most
    `resamples`, and else over that many draws, counted with one added so that p is never 0.
    `a` and `b` hold the same queries.
    """
    differences = np.array([a[query] - b[query] for query in sorted(a)], dtype=np.float64)
    # A difference of 0 has no sign to flip: without it more tests are exact, and all are faster.
    differences = differences[differences != 0]
    if len(differences) < 2:
        return 1.0  # flipped or not, a single difference is as extreme
    found = permutation_test(
        (differences,), lambda values, axis: values.sum(axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=resamples, batch=max(1, PERMUTATION_CHUNK // len(differences)), rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values of a family of comparisons, adjusted for their number (Holm 1979), in the order given."""
    adjusted: dict[str, float] = {}
    least = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        # The smallest is multiplied by the number of all, the next by one less, and none falls below one before it.
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = least
    return {name: adjusted[name] for name in p_values}


def parse_measures(names: Sequence[str], relevant: int = 1) -> dict[str, ir_measures.Measure]:
    """Names of measures to what ir_measures computes: see `evaluate`. Raises InputError for one it does not know."""
    return {name: _parse(name, relevant) for name in names}


def _parse(name: str, relevant: int) -> ir_measures.Measure:
    try:
        # ir_measures calls it RR, since the M of MRR is the mean over queries.
        measure = ir_measures.parse_measure(name[1:] if name.startswith("MRR") else name)
        grades = measure.SUPPORTED_PARAMS.get("rel")
        if grades and grades.default == 1 and "rel" not in measure.params:
            measure = measure(rel=relevant)
        supported = ir_measures.DefaultPipeline.supports(measure)
    except (NameError, ValueError, KeyError, SyntaxError, AssertionError) as error:
        raise InputError(f"unknown measure {name!r}: expected a name like nDCG@10, MRR@10 or R@100") from error
    if measure.params.get("cutoff", 1) < 1:  # of which the library underneath ends the process
        raise InputError(f"measure {name!r}: expected a cutoff of 1 or more, as in nDCG@10")
    if not supported:
        raise InputError(f"measure {name!r} can't be computed here: expected nDCG@k, MRR@k, R@k, P@k or AP")
    return measure


def _best_first(query: str, scores: Mapping[str, float]) -> list[str]:
    for passage, score in scores.items():
        if not math.isfinite(score):
            raise InputError(f"query {query!r}, passage {passage!r}: score {score} is not a finite number")
    return sorted(scores, key=lambda passage: -scores[passage])


def _bootstrap_moments(values: np.ndarray, seed: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Means and population standard deviations, each (samples,), of `values` drawn with replacement."""
    if not len(values):
        raise InputError("a bootstrap needs the values of at least one query, got none")
    generator = np.random.default_rng(seed)
    means, deviations = np.empty(samples), np.empty(samples)
    step = max(1, BOOTSTRAP_CHUNK // len(values))
    for start in range(0, samples, step):
        stop = min(start + step, samples)
        drawn = values[generator.integers(len(values), size=(stop - start, len(values)))]
        means[start:stop], deviations[start:stop] = drawn.mean(axis=1), drawn.std(axis=1)
    return means, deviations


def summarise(run: Run, judgments: Judgments, measures: Sequence[str] = MEASURES) -> dict[str, dict[str, float]]:
    """Measure -> {"mean", "low", "high", "queries"}: mean and 95 % bootstrap interval, and over how many queries."""
    summary = {}
    for measure, values in evaluate(run, judgments, measures).items():
        low, high = bootstrap_interval(values)
        summary[measure] = {"mean": mean(values), "low": low, "high": high, "queries": len(values)}
    return summary

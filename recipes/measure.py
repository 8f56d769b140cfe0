"""The second half of every recipe that makes an artifact: a checkpoint becomes int8, every stage is measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flashranker
import numpy as np
from flashranker import Reranker
from flashranker.artifact import Calibration
from flashranker.pairs import frame_query, load_tokenizer

from export.artifact import positions_in, stage_artifact
from export.calibrate import brier_score, expected_calibration_error, fit_platt, probabilities
from export.cls_graph import export_first_token
from export.parity import encode_requests, measure_latency, runtime_logits, torch_logits
from export.quantize import quantize_int8
from export.to_onnx import load_checkpoint
from export.verify import (
    Gate,
    batch_independence_gate,
    format_gates,
    fp32_parity_gate,
    kendall_gate,
    ndcg_gate,
    quality_gate,
    size_gate,
    start_gate,
)
from training.backbone import model_fingerprint
from training.candidates import Candidates
from training.data import InputError
from training.metrics import evaluate, paired_bootstrap, run_from_scores, summarise
from training.prepare import Held, first_stage_run
from training.tiers import TIERS
from training.train import TrainingResult

LATENCY_PASSAGES = 100
Run = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Exported:
    """Two staged folders that differ in the graph only, and how the int8 one came about."""

    fp32: Path
    int8: Path
    checkpoint: Path
    max_length: int
    dev_queries: int
    calibration: Calibration
    quantization: dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """Summaries by stage, gates, parity figures, latency; int8 logits and grades of all held-out pairs."""

    metrics: dict[str, dict[str, dict[str, float]]]
    gates: list[Gate]
    parity: dict[str, Any]
    latency: dict[str, dict[str, float]]
    logits: np.ndarray
    grades: np.ndarray


def requests_of(held: Held) -> list[tuple[str, list[str]]]:
    """Texts of the queries that have candidates, in order."""
    texts, passages = held.data.queries, held.data.passages
    return [(texts[query], [passages[i] for i in held.candidates[query]]) for query in answered(held)]


def grades_of(held: Held) -> np.ndarray:
    """Grades of all candidates in the same order, 0 for what is not judged."""
    judged = held.data.judgments
    return np.array([max(0, judged[q].get(i, 0)) for q, ids in held.candidates.items() for i in ids])


def check_held_out(dev: Held, tests: Held, base: Path | None, max_length: int) -> None:
    """Raises InputError, before anything is trained for it, where the end of the recipe would fail.

    That is a query that the runtime refuses, a length that the base can't read, or dev candidates of one kind only.
    """
    positions = positions_in(base) if base else None
    if positions and max_length > positions:
        raise InputError(f"--max_length is {max_length}: the base has {positions} positions, expected at most that")
    if len(set(grades_of(dev) > 0)) != 2:
        kind = "irrelevant" if not (grades_of(dev) > 0).any() else "relevant"
        raise InputError(
            f"{dev.data.name}: all candidates of the {len(dev.candidates)} dev queries are {kind}, expected both kinds "
            "to calibrate on: raise --dev_queries, give candidates that hold both, or search by --first_stage dense"
        )
    # Kendall's tau compares candidates of one query; on dev every second query with candidates is compared.
    listed = [ids for ids in dev.candidates.values() if ids]
    for held, lists in ((dev, listed[1::2] or listed), (tests, list(tests.candidates.values()))):
        if not any(len(ids) > 1 for ids in lists):
            raise InputError(
                f"{held.data.name}: none of {len(lists)} held-out queries has two candidates or more, so int8 can't "
                "be compared with fp32: give more queries, longer lists, or another --first_stage"
            )
    if base:
        for held in (dev, tests):
            check_queries(held, base, max_length)


def check_queries(held: Held, base: Path, max_length: int) -> None:
    """Raises InputError, naming the query, where the runtime would refuse it."""
    if not (base / "tokenizer.json").is_file():
        return
    tokenizer = load_tokenizer(base / "tokenizer.json")
    for query in held.candidates:
        try:
            frame_query(tokenizer, held.data.queries[query], max_length)
        except flashranker.InputError as error:
            raise InputError(f"{held.data.name}, query {query!r}: {error}; or raise --max_length") from None


def export(
    checkpoint: Path,
    output: Path,
    workspace: Path,
    dev: Held,
    *,
    tier: str,
    max_length: int,
    limit_megabytes: float,
    target_tau: float | None,
    profile: str,
) -> Exported:
    """fp32 and int8 graphs in two staged folders; quantized and calibrated on dev queries.

    `target_tau`: what quantization climbs to; None for the tier's own.
    """
    # Only the folder to be published must lie beside its destination: a rename does not cross file systems.
    staging = {"fp32": workspace / "fp32", "int8": output.with_name(f".{output.name}.staging")}
    graph = workspace / "graphs"
    output.parent.mkdir(parents=True, exist_ok=True)
    graph.mkdir(exist_ok=True)
    cut = export_first_token(checkpoint, graph / "fp32.onnx")

    def stage(model: Path, kind: str) -> None:
        stage_artifact(checkpoint, model, staging[kind], name=output.name, tier=tier, max_length=max_length)

    stage(cut.path, "fp32")
    encoded = encode_requests(staging["fp32"], requests_of(dev), max_length)
    query_ids = [query for query, ids in dev.candidates.items() for _ in ids]
    quantization = quantize_int8(
        cut.path,
        graph / "int8.onnx",
        [pair for request in encoded for pair in request],
        query_ids,
        limit_bytes=int(limit_megabytes * 1e6),
        target_tau=TIERS[tier].int8_tau if target_tau is None else target_tau,
        profile=profile,
    )
    quantization["last layer"] = "first token only" if cut.first_token_only else f"whole: {cut.reason}"
    stage(graph / "int8.onnx", "int8")
    logits = np.concatenate(runtime_logits(Reranker(staging["int8"]), requests_of(dev), "calibrating"))
    relevant = (grades_of(dev) > 0).astype(np.int64)
    calibration = fit_platt(logits, relevant)
    return Exported(
        staging["fp32"], staging["int8"], checkpoint, max_length, len(dev.candidates), calibration, quantization
    )


def measure(
    exported: Exported,
    trained: TrainingResult | None,
    held: Held,
    others: Mapping[str, Run],
    limit_megabytes: float,
    parity_queries: int,
    base: Path | None = None,
) -> Measured:
    """Score the held-out candidates by PyTorch and by int8, some of them by fp32 ONNX too, and judge.

    `others` are runs on the same candidates to be shown beside, as the "teacher". `base` is the checkpoint that the
    student may not be worse than. Without a training there is no start to compare with.
    Both ONNX models run through the shipped runtime. fp32 scores about `parity_queries` of the queries, evenly spread.
    """
    some, requests, ranker = some_of(held, parity_queries), requests_of(held), Reranker(exported.int8)
    encoded = encode_requests(exported.fp32, requests, exported.max_length)
    logits = {
        "student": torch_logits(load_checkpoint(exported.checkpoint), encoded),
        "fp32": runtime_logits(Reranker(exported.fp32), requests_of(some), "fp32 ONNX"),
        "int8": runtime_logits(ranker, requests, "int8 ONNX"),
    }
    kept = set(some.candidates)
    again = [values for query, values in zip(answered(held), logits["student"], strict=True) if query in kept]
    runs: dict[str, Run] = {"first stage": first_stage_run(held.candidates), **others}
    if base:
        # A student that stayed as it was is not scored twice.
        same = model_fingerprint(base) == model_fingerprint(exported.checkpoint)
        scored = logits["student"] if same else torch_logits(load_checkpoint(base), encoded)
        runs["base"] = as_run(held.candidates, scored)
    runs |= {stage: as_run((some if stage == "fp32" else held).candidates, values) for stage, values in logits.items()}
    judgments = held.data.judgments
    metrics = {stage: summarise(run, {query: judgments[query] for query in run}) for stage, run in runs.items()}
    flat = {stage: np.concatenate(values) for stage, values in logits.items()}
    truncated = ranker.truncated_passages / len(flat["int8"])
    query, passages = max(requests, key=lambda request: len(request[1]))
    gates = [
        fp32_parity_gate(np.concatenate(again), flat["fp32"]),
        kendall_gate(logits["student"], logits["int8"]),
        ndcg_gate(metrics["student"]["nDCG@10"]["mean"], metrics["int8"]["nDCG@10"]["mean"]),
        size_gate((exported.int8 / "onnx/model.onnx").stat().st_size, limit_megabytes),
        batch_independence_gate(ranker, query, (passages * 2)[:20]),
        *quality_gates(runs, judgments, trained, exported.dev_queries),
    ]
    timed = [passage for _, ids in requests for passage in ids][:: max(1, len(flat["int8"]) // LATENCY_PASSAGES)]
    latency = measure_latency(
        exported.checkpoint,
        {"fp32": exported.fp32, "int8": exported.int8},
        query,
        timed[:LATENCY_PASSAGES],
        exported.max_length,
    )
    grades = grades_of(held)
    probability = probabilities(exported.calibration, flat["int8"])
    relevant = (grades > 0).astype(np.int64)
    parity = {
        "fp32 largest difference": gates[0].value,
        "int8 Kendall tau": gates[1].value,
        "int8 nDCG@10 difference": metrics["int8"]["nDCG@10"]["mean"] - metrics["student"]["nDCG@10"]["mean"],
        "queries": len(requests),
        "pairs": len(flat["int8"]),
        "truncated share": truncated,
        "expected calibration error": expected_calibration_error(probability, relevant),
        "Brier score": brier_score(probability, relevant),
        "milliseconds for 100 passages": latency,
    }
    return Measured(metrics, gates, parity, latency, flat["int8"], grades)


def some_of(held: Held, limit: int) -> Held:
    """About `limit` of the queries that have candidates, evenly spread over all."""
    queries = answered(held)
    kept = queries[:: -(-len(queries) // limit)]
    return Held(held.data, {query: held.candidates[query] for query in kept})


def answered(held: Held) -> list[str]:
    """The queries that have candidates, in order."""
    return [query for query, ids in held.candidates.items() if ids]


def as_run(candidates: Candidates, logits: list[np.ndarray]) -> Run:
    """Logits of the queries that have candidates, as a run; the others stay without a result."""
    parts = iter(logits)
    return run_from_scores(candidates, {q: next(parts) if ids else np.empty(0) for q, ids in candidates.items()})


def quality_gates(
    runs: Mapping[str, Run], judgments: Any, trained: TrainingResult | None, dev_queries: int
) -> list[Gate]:
    """int8 against the first stage and the student against a base, on held-out queries; against its start, on dev.

    The base is compared in PyTorch, as both are trained: what int8 costs has its own gate.
    """
    gates = []
    judged = {query: judgments[query] for query in runs["int8"]}
    for stage, other in (("int8", "first stage"), ("student", "base")):
        for name in ("nDCG@10", "MRR@10") if other in runs else ():
            ours, theirs = (evaluate(runs[one], judged, (name,))[name] for one in (stage, other))
            compared = paired_bootstrap(ours, theirs)
            gates.append(quality_gate(f"{stage} - {other}, {name}", compared.difference, compared.low, compared.high))
    if trained:
        gates.append(start_gate(trained.dev_quality[0][1], trained.quality, dev_queries))
    return gates


def table(measured: Measured) -> str:
    """What a person reads at the end: quality by stage, milliseconds, gates."""
    lines = [f"{'stage':<12} {'queries':>7} {'nDCG@10':>24} {'MRR@10':>24}   ms for 100 passages (median, min-max)"]
    for stage, values in measured.metrics.items():
        cells = [
            f"{value['mean']:.4f} [{value['low']:.4f}, {value['high']:.4f}]"
            for value in (values["nDCG@10"], values["MRR@10"])
        ]
        time = measured.latency.get("torch" if stage == "student" else stage)
        spent = f"{time['median']:8.0f} ({time['low']:.0f}-{time['high']:.0f})" if time else ""
        queries = values["nDCG@10"]["queries"]
        lines.append(f"{stage:<12} {queries:>7} {cells[0]:>24} {cells[1]:>24} {spent}")
    return "\n".join(lines) + "\n\n" + format_gates(measured.gates)

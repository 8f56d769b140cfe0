"""Measure rerankers on ranking data, side by side, with intervals and tests.

python -m recipes.evaluate artifacts/small                                # on the built-in corpus
python -m recipes.evaluate artifacts/small builtin --data A B C           # three folders: a zero-shot table too
python -m recipes.evaluate ours=artifacts/small theirs=some-run.trec --data msmarco-dl19 --relevant-grade 2

MODEL is an artifact folder, another tool's ONNX folder, a checkpoint folder or hub id of a cross-encoder or a
bi-encoder, `builtin` (the built-in bi-encoder), or a TREC run file (query Q0 passage rank score tag). NAME=MODEL
names its row. The first stage, whose candidates all but run files put in order, is always a row.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from flashranker.artifact import SHORTEST_LENGTH

from export.artifact import write_json
from recipes.command import launch, make_folder, plain, say, setting
from recipes.comparison import compare, zero_shot
from recipes.evaluate_report import text_report, write_evaluation
from recipes.rankers import (
    FIRST_STAGE,
    Found,
    check_names,
    chosen_on,
    content_hash,
    file_part,
    find_models,
    open_model,
    split_name,
    trained_on,
)
from recipes.search import SearchConfig, first_stage_of
from recipes.settings import check_test_share
from training.candidates import FirstStage, find_candidates, name_first_stage
from training.data import HELD_OUT_SHARE, InputError, RankingData, limit_queries
from training.load import load
from training.metrics import parse_measures
from training.prepare import Held, first_stage_run, missing_judgments
from training.trec import Run, check_ids, untied, write_run

DEPTH = 100  # candidates that a first stage finds a query, where all of a given list are asked for
DEFAULT_MEASURES = ["nDCG@10", "MRR@10", "MAP", "Recall@100"]
PACKAGES = ("ir-measures", "onnxruntime", "scipy", "sentence-transformers", "torch")
LEAST = {"depth": 0, "limit": 0, "relevant_grade": 1, "max_length": SHORTEST_LENGTH, "threads": 0, "seed": 0}


@dataclass(frozen=True)
class EvaluateConfig:
    """Settings of one run."""

    data: list[str] = field(
        default_factory=lambda: ["pydocs"],
        metadata={"help": "what to measure on: as --data of recipes.distill; NAME=DATA names a set", "metavar": "DATA"},
    )  # fmt: skip
    split: str = setting(
        "test", "queries to measure: those of this split, or all judged ones where there is none",
        choices=["test", "dev", "train"],
    )  # fmt: skip
    unsplit: str = setting(
        "all",
        "data without splits: all (measure every judged query), or split (divide them as recipes.distill does)",
        choices=["all", "split"],
    )
    test_share: float = setting(
        HELD_OUT_SHARE, "share of the queries that --unsplit split takes for test: as in training"
    )
    depth: int = setting(
        100, f"candidates reranked, passages per query; 0 for the whole of a candidates.tsv, or {DEPTH} of a search"
    )
    limit: int = setting(0, "queries measured of each data set, drawn by --seed; 0 for all")
    relevant_grade: int = setting(1, "least grade that counts as relevant where a measure knows only relevant or not")
    measures: list[str] = field(
        default_factory=lambda: list(DEFAULT_MEASURES),
        metadata={"help": "names of ir_measures, such as P@5, and MRR@k; the first one leads", "metavar": "MEASURE"},
    )  # fmt: skip
    max_length: int = setting(
        512, "tokens that a model reads of a pair, or of a text (bi-encoder); never beyond the model's own"
    )
    threads: int = setting(0, "cores for each model; 0 for all that this process may use")
    cache: Path = setting(Path("cache"), "folder where the models' scores are kept")
    output: Path = setting(Path("evaluations"), "folder for evaluate.json, evaluate.html and runs/DATA.MODEL.trec")
    seed: int = setting(0, "seed of the drawn queries, resamples and sign flips")


@dataclass(frozen=True)
class Task:
    """One data set: its measured queries with their candidates, what there is to say of it, and what to know first."""

    name: str
    held: Held
    about: dict[str, Any]
    notes: list[str]


def run(config: EvaluateConfig, search: SearchConfig, given: Sequence[str], command: str) -> None:
    """The story of one evaluation. Raises InputError or FlashRankerError."""
    check(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    stage = first_stage_of(search, config.cache)
    say(f"1/5 models: {', '.join(given)}")
    found = find_models(given)

    say(f"2/5 data: {', '.join(config.data)}")
    tasks = [make_task(one, config, stage, found) for one in config.data]
    check_names("DATA", [task.name for task in tasks])

    say(f"3/5 scores: {sum(task.about['pairs'] for task in tasks):,} pairs a model")
    sets = {task.name: task.held for task in tasks}
    ranks = {model.name: open_model(model, sets, config.cache, config.max_length, config.threads) for model in found}
    runs: dict[str, dict[str, Run]] = {}
    for task in tasks:
        ranked = {name: rank(task.held) for name, rank in ranks.items()}
        task.notes.extend(gaps(task, ranked))
        runs[task.name] = {FIRST_STAGE: first_stage_run(task.held.candidates)}
        runs[task.name] |= {name: one for name, one in ranked.items() if one}

    say(f"4/5 comparisons: {', '.join(config.measures)}")
    results = {
        task.name: compare(
            runs[task.name], task.held.data.judgments, config.measures, [FIRST_STAGE, found[0].name],
            relevant=config.relevant_grade, seed=config.seed,
        )
        for task in tasks
    }  # fmt: skip
    content = {
        "command": command,
        "settings": plain(config, search),
        "versions": {name: version(name) for name in PACKAGES},
        "models": {
            model.name: {"kind": model.kind, "source": model.source, "sha256": content_hash(model)} for model in found
        },
        "data": {
            task.name: task.about | {"notes": task.notes, "measures": results[task.name]} for task in tasks
        },
        "zero-shot": zero_shot(results),
    }  # fmt: skip

    say(f"5/5 files: {config.output}")
    for task in tasks:
        for name, one in runs[task.name].items():
            path = config.output / "runs" / f"{file_part(task.name)}.{file_part(name)}.trec"
            write_run(path, untied(one), file_part(name))
    write_evaluation(config.output / "evaluate.html", content, {task.name: task.held.data.queries for task in tasks})
    write_json(config.output / "evaluate.json", content)
    say(text_report(content))


def check(config: EvaluateConfig) -> None:
    """Raises InputError for a setting that makes no sense, or an unknown measure."""
    for name, least in LEAST.items():
        if getattr(config, name) < least:
            raise InputError(f"--{name} is {getattr(config, name)}: expected {least} or more")
    check_test_share(config.test_share)
    parse_measures(config.measures)
    make_folder(config.output / "runs", f"--output {config.output}")


def make_task(given: str, config: EvaluateConfig, stage: FirstStage, models: Sequence[Found]) -> Task:
    """Read a data set and let the first stage find candidates for the queries to be measured.

    Measured is every query of the split that has a judgment above 0, on a passage of the corpus or not; the passages
    kept are the candidates. Raises InputError when there is no such query.
    """
    name, source = split_name(given)
    share = config.test_share if config.unsplit == "split" else 0.0
    data = load(source, drop_leaks=True, keep_missing=True, test_share=share)
    split, notes, measured = data.splits[config.split], [], config.split
    if not split:
        split, measured = list(data.judgments), "all"
        notes.append(f"There is no split {config.split!r}: all {len(split):,} judged queries are those to measure.")
    judged = [query for query in split if any(grade > 0 for grade in data.judgments.get(query, {}).values())]
    if not judged:
        raise InputError(
            f"{name}: no query of split {config.split!r} has a judgment above 0: add some, or choose another --split"
        )
    if len(judged) < len(split):
        notes.append(f"{len(split) - len(judged):,} of {len(split):,} queries have nothing relevant: left out.")
    if config.limit:
        limited = limit_queries(replace(data, splits={config.split: judged}), config.split, config.limit, config.seed)
        judged = limited.splits[config.split]
    notes.extend(seen_before(data, judged, models))
    data = replace(data, name=name, judgments={query: data.judgments[query] for query in judged})
    return Task(name, *candidates_of(data, config, measured, stage, notes))


def seen_before(data: RankingData, measured: Sequence[str], models: Sequence[Found]) -> list[str]:
    """Which models learned from the queries to be measured, or were chosen by them, as far as they say."""
    notes = []
    dev, unsplit = set(data.splits["dev"]), not any(data.splits.values())
    trained = [model.name for model in models if data.name in trained_on(model)]
    if trained and unsplit:
        notes.append(
            f"{', '.join(trained)} learned from most of these queries, if trained on this very data: "
            "--unsplit split measures those held out."
        )
    elif trained and (seen := set(data.splits["train"]) & set(measured)):
        notes.append(f"{', '.join(trained)} learned from {len(seen):,} of these queries, if trained on this very data.")
    # A source that another is chosen by may have no dev split: then all of its queries are.
    chosen = [
        model.name
        for model in models
        if (chosen_on(model) == data.name and (not dev or dev & set(measured)))
        or (not chosen_on(model) and model.name in trained and (unsplit or dev & set(measured)))
    ]
    if chosen:
        notes.append(f"{', '.join(chosen)} was chosen, quantized and calibrated on some of these queries.")
    return notes


def candidates_of(
    data: RankingData, config: EvaluateConfig, split: str, stage: FirstStage, notes: Sequence[str]
) -> tuple[Held, dict[str, Any], list[str]]:
    """The first stage of the judged queries, facts about it, and the notes with what it adds to them."""
    own = data.candidates if stage.method is None else {}
    depth = config.depth or max(map(len, own.values()), default=DEPTH)
    candidates = find_candidates(data, list(data.judgments), depth, stage)
    check_ids([*candidates, *(passage for passages in candidates.values() for passage in passages)])
    notes = list(notes)
    if missing := missing_judgments(data):
        total = sum(map(len, data.judgments.values()))
        notes.append(f"{missing:,} of {total:,} judged passages are not in the corpus: ideal rankings count them.")
    if empty := sum(not passages for passages in candidates.values()):
        notes.append(f"{empty:,} queries have no candidates and count 0.")
    binary = [name for name, one in parse_measures(config.measures, 2).items() if one.params.get("rel") == 2]
    if config.relevant_grade > 1 and binary:
        notes.append(f"Grades from {config.relevant_grade} up count as relevant in {', '.join(binary)}.")
    about = {
        "split": split, "queries": len(candidates), "depth": depth, "licence": data.licence,
        "first stage": name_first_stage(data, stage),
        "pairs": sum(map(len, candidates.values())),
    }  # fmt: skip
    # Of a large corpus little else is needed, and several data sets are open at once.
    kept = {passage: data.passages[passage] for passages in candidates.values() for passage in passages}
    return Held(replace(data, passages=kept, candidates={}), candidates), about, notes


def gaps(task: Task, runs: Mapping[str, Run]) -> list[str]:
    """What run files lack of the measured queries."""
    notes = []
    for name, one in runs.items():
        if not one:
            notes.append(f"{name} has no row: its run ranks none of these queries, or is another set's.")
        elif lacking := sum(query not in one for query in task.held.candidates):
            notes.append(f"{name} does not rank {lacking:,} of the queries, which count 0.")
    return notes


def main(argv: list[str] | None = None) -> int:
    """0 when all was measured, 2 for bad input."""
    models = {"nargs": "+", "metavar": "MODEL", "help": "what to measure; NAME=MODEL names its row"}
    # argparse would name MODEL last, where --data takes it for one of its own.
    usage = "%(prog)s MODEL [MODEL ...] [--data DATA [DATA ...]] [options]"
    return launch(
        "evaluate", __doc__, run, [EvaluateConfig, SearchConfig], argv, usage=usage, positional={"models": models}
    )


if __name__ == "__main__":
    sys.exit(main())

"""From a data source to what training and measuring take: limited splits, candidates, teacher-scored examples."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import AutoConfig

from training.backbone import BUILTIN, builtin_backbone, resolve_model, user_path
from training.candidates import BM25_OR_OWN, Candidates, FirstStage, find_candidates, find_for_training
from training.data import (
    InputError,
    RankingData,
    limit_queries,
    relevant_passages,
    require_splits,
    source_of,
)
from training.examples import (
    Example,
    Scored,
    as_dataset,
    choose_by_teacher,
    choose_candidates,
    left_out,
    too_few,
    usable_queries,
)
from training.metrics import run_from_scores
from training.mixture import parts
from training.neighbours import NEIGHBOURS, choose_neighbourhoods, neighbourhood_dataset, seeds_in_order
from training.processes import is_first, wait_for_all
from training.projection import project_backbone
from training.score_file import score_file, scores_by_query
from training.student import build_student, reads_apart
from training.teacher import OWN_SCORES, open_teacher, score_pairs
from training.tiers import Tier

DEV_DEPTH = 20  # candidates per dev query: enough to tell checkpoints apart
PROJECTION_TEXTS = 500
POOL = 3  # times the candidates, where a margin is given and no pool


@dataclass(frozen=True)
class Held:
    """Queries to measure on: the data they belong to and the first stage's candidates, best first."""

    data: RankingData
    candidates: Candidates


@dataclass(frozen=True)
class Examples:
    """What a student is trained on, in order; its fingerprint, distinct passages, and whether a teacher scored it.

    `mining`: how the candidates were chosen and how many of what there are, for the manifest. `sources`: of mixed data,
    label -> queries. `passages`: how many the corpus has.
    """

    dataset: Dataset
    fingerprint: str
    texts: list[str]
    taught: bool
    mining: dict[str, Any]
    sources: dict[str, int]
    passages: int


def held_out(data: RankingData, split: str, limit: int, depth: int, seed: int, stage: FirstStage = BM25_OR_OWN) -> Held:
    """At most `limit` queries of a split that have a relevant passage, with the first `depth` candidates of `stage`.

    A query for which the first stage finds nothing stays, with no candidates, and counts 0. So does a test query whose
    relevant passages the corpus lacks; nothing could be chosen by it, so one of dev is left out.
    """
    require_splits(data, split)
    counted = data.judgments if split == "test" else {}
    answered = [
        query
        for query in data.splits[split]
        if relevant_passages(data, query) or max(counted.get(query, {}).values(), default=0) > 0
    ]
    data = limit_queries(replace(data, splits=data.splits | {split: answered}), split, limit, seed)
    return Held(data, find_candidates(data, data.splits[split], depth, stage))


def missing_judgments(data: RankingData) -> int:
    """How many judgments name a passage that the corpus lacks."""
    return sum(passage not in data.passages for grades in data.judgments.values() for passage in grades)


def make_examples(
    data: RankingData,
    teacher: str | None,
    cache: Path,
    *,
    queries: int,
    depth: int,
    candidates: int,
    random_share: float,
    teacher_length: int,
    seed: int,
    stage: FirstStage = BM25_OR_OWN,
    pool: int = 0,
    margin: float | None = None,
    step: int = 1,
) -> Examples:
    """Choose candidates for `queries` training queries and let the teacher score them.

    With a `pool` the teacher scores that many passages a query, and `choose_by_teacher` keeps `candidates` of them; a
    `margin` without a pool has one of three times the candidates. Without a teacher the scores are 0, and nothing must
    be learned from them. Raises InputError when fewer queries are left than the `step` of an optimizer step, before the
    teacher's work where that does not decide it, or a pool has no teacher.
    """
    if margin is not None and not pool:
        pool = POOL * candidates
    if pool and teacher is None:
        raise InputError("--teacher_pool and --false_negative_margin rest on a teacher's scores: add --teacher")
    require_splits(data, "train")
    if teacher and score_file(teacher):
        data, teacher = replace(data, scores=scores_by_query(open_teacher(teacher).path, data)), OWN_SCORES
        if not data.scores:
            raise InputError(
                f"the file of scores has no query with a passage of {data.name}: give their ids, NAME/ID of mixed data"
            )
    if teacher == OWN_SCORES and not data.scores:
        raise InputError(f"--teacher {OWN_SCORES}: {data.name} brings no scores: name a model, or a file of scores")
    least = candidates if teacher == OWN_SCORES else 0
    usable = usable_queries(data, least)
    left_out(data, usable, "a relevant passage" + (f" and {candidates - 1} negatives with scores" if least else ""))
    data = limit_queries(replace(data, splits=data.splits | {"train": usable}), "train", queries, seed)
    lists = find_for_training(data, data.splits["train"], depth, stage)
    chosen = [
        example
        for one in parts(data)  # negatives of another source would be too easy
        for example in choose_candidates(
            one, one.splits["train"], lists, size=pool or candidates, random_share=random_share, seed=seed,
            scored_only=teacher == OWN_SCORES, at_least=candidates,
        )
    ]  # fmt: skip
    if data.sources:
        chosen = [chosen[i] for i in np.random.default_rng(seed).permutation(len(chosen))]
    if not chosen:
        what = "others with scores" if teacher == OWN_SCORES else "others"
        raise InputError(
            f"{data.name}: no training query has a relevant passage and {candidates - 1} {what}; "
            "give more queries, or fewer --candidates"
        )
    if len(chosen) < step:
        raise InputError(too_few(len(chosen), step))
    pairs = [(query, passage) for query, passages in chosen for passage in passages]
    scored = score_pairs(teacher, data, pairs, cache, max_length=teacher_length) if teacher else np.zeros(len(pairs))
    given = iter(scored.tolist())
    kept = [Scored(query, passages, [next(given) for _ in passages]) for query, passages in chosen]
    mining: dict[str, Any] = {"candidates": candidates, "depth": depth, "random share": random_share}
    if pool:
        kept, counts = choose_by_teacher(data, kept, size=candidates, margin=margin, seed=seed)
        if not kept:
            raise InputError(
                f"{data.name}: of {len(chosen)} training queries none has {candidates - 1} negatives at least "
                f"{margin} below its relevant passage: lower --false_negative_margin, or raise --teacher_pool"
            )
        if len(kept) < step:
            raise InputError(too_few(len(kept), step))
        mining |= {"teacher's pool": pool, "false negative margin": "none" if margin is None else margin} | counts
    examples = [
        Example(
            data.queries[query],
            [data.passages[passage] for passage in passages],
            logits,
            [max(0, data.judgments[query].get(passage, 0)) for passage in passages],
        )
        for query, passages, logits in kept
    ]
    texts = list(dict.fromkeys(passage for example in examples for passage in example.passages))
    digest = hashlib.sha256(repr(examples).encode()).hexdigest()
    sources = dict(Counter(source_of(one.query_id) for one in kept)) if data.sources else {}
    return Examples(as_dataset(examples), digest, texts, teacher is not None, mining, sources, len(data.passages))


def make_start(
    base: str,
    tier: Tier,
    texts: Sequence[str],
    destination: Path,
    seed: int,
    layers: Sequence[int] | None = None,
    languages: Sequence[str] = (),
) -> str:
    """Write the untrained student into `destination` and say in a sentence how it was made; `texts` are its domain's.

    From the built-in backbone nano is a projection; every other student keeps the width of its base. `layers` of the
    base are kept, by default all, and for a projection what `spread` chooses; and of its vocabulary what `languages`
    need, or all of it. Of several processes the first one writes, and the others get "".
    Raises InputError for a layer that is not there or a language that is not known.
    """
    start = _write_start(base, tier, texts, destination, seed, layers, languages) if is_first() else ""
    wait_for_all()
    return start


def _write_start(
    base: str,
    tier: Tier,
    texts: Sequence[str],
    destination: Path,
    seed: int,
    layers: Sequence[int] | None,
    languages: Sequence[str],
) -> str:
    if is_projected(base, tier):
        projected = destination.with_name("projected")
        chosen = tuple(layers or spread(tier.layers, AutoConfig.from_pretrained(builtin_backbone()).num_hidden_layers))
        shares = project_backbone(
            builtin_backbone(), projected, texts[:PROJECTION_TEXTS], width=tier.width, layers=chosen, seed=seed
        )
        build_student(
            str(projected), destination, texts=texts, similar=True, exact=True, languages=languages, seed=seed
        )
        explained = ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
        names = ", ".join(map(str, chosen))
        return f"layers {names} of {base}, projected to width {tier.width} in closed form (R2: {explained})"
    return build_student(base, destination, texts=texts, layers=layers, languages=languages, seed=seed)


def is_projected(base: str, tier: Tier) -> bool:
    """Whether a student of this base is a projection of the built-in backbone."""
    return base == BUILTIN and tier.projected


def spread(count: int, depth: int) -> list[int]:
    """`count` of `depth` layers, evenly from the first to the last, which is what late interaction and means read."""
    return [round(layer) for layer in np.linspace(0, depth - 1, count)]


def make_neighbourhoods(
    data: RankingData, *, queries: int, size: int, seed: int, stage: FirstStage = BM25_OR_OWN
) -> Dataset:
    """Groups of `size` train queries that compete for each other's passages, about `queries` queries in all.

    A data set with fewer queries than that, or than one group needs, gives what it has; it may be none.
    """
    if queries == 0:
        return neighbourhood_dataset(data, [])
    seeds = [query for query in seeds_in_order(data, seed) if relevant_passages(data, query)]
    # More than are needed: a seed that another's neighbourhood has used up can't come first. Where all queries are
    # wanted, k times as many firsts leave about exp(-k) of them out.
    firsts = seeds[: 4 * -(-queries // size)]
    lists = find_for_training(data, firsts, NEIGHBOURS, stage)
    groups = choose_neighbourhoods(data, seeds, lists, size=size, queries=queries)
    return neighbourhood_dataset(data, groups)


def neighbourhood_teacher(
    teacher: str | None, base: str, tier: Tier, texts: Sequence[str], workspace: Path
) -> Path | None:
    """What scores neighbourhoods: a teacher that reads apart, or the backbone that a student was projected from, whole.

    That backbone starts as `texts`, passages of the domain, make it: as a student of all its layers and its full width.
    """
    if teacher and (user_path(teacher) / "config.json").is_file() and reads_apart(resolve_model(teacher)):
        return resolve_model(teacher)
    if not is_projected(base, tier):
        return None
    whole = workspace / "whole"
    if is_first() and not whole.exists():
        build_student(base, whole, texts=texts)
    wait_for_all()
    return whole


def teacher_run(held: Held, teacher: str, cache: Path, teacher_length: int) -> dict[str, dict[str, float]]:
    """The teacher's own order of the held-out candidates."""
    pairs = [(query, passage) for query, passages in held.candidates.items() for passage in passages]
    logits = iter(score_pairs(teacher, held.data, pairs, cache, max_length=teacher_length).tolist())
    scores = {query: [next(logits) for _ in passages] for query, passages in held.candidates.items()}
    return run_from_scores(held.candidates, scores)


def first_stage_run(candidates: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
    """The first stage's order as a run."""
    return run_from_scores(candidates, {query: [0.0] * len(ids) for query, ids in candidates.items()})

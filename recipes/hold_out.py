"""Which queries are held out: those that choose a checkpoint, quantize and calibrate, and those that measure it."""

import json
from dataclasses import replace
from hashlib import sha256

from recipes.command import say
from recipes.measure import check_held_out
from recipes.settings import MeasuringConfig
from training.backbone import resolve_model
from training.candidates import FirstStage
from training.data import RankingData, held_texts
from training.load import load_source, renamed
from training.mixture import apart_from
from training.prepare import DEV_DEPTH, Held, held_out, missing_judgments
from training.student import SCRATCH

FEW = 30  # queries, below which an interval is as wide as the scale


def hold_out(
    config: MeasuringConfig,
    data: RankingData,
    evaluated: str | None,
    base: str,
    max_length: int,
    stage: FirstStage,
    drop_leaks: bool = False,
) -> tuple[RankingData, Held, Held]:
    """The data to train on, and dev and test queries with their candidates, of `config.dev` and `evaluated` if named.

    Of the data those queries are left out, or refused, that such a source shares: see `mixture.apart_from`. What
    answers its queries is `unseen`.
    Raises InputError where the end of the recipe would fail on them: see `measure.check_held_out`.
    """
    measured = data
    if evaluated:
        measured = source_of_queries(evaluated, "test")
        data = left_apart(data, measured, "test", drop_leaks)
    data, chosen_by = choosing(config, data, measured, drop_leaks)
    dev = held_out(chosen_by, "dev", config.dev_queries, DEV_DEPTH, config.seed, stage)
    tests = held_out(measured, "test", config.test_queries, config.test_depth or config.depth, config.seed, stage)
    for what, held in (("dev", dev), ("test", tests)):
        if len(held.candidates) < FEW:
            say(f"    only {len(held.candidates)} {what} queries of {held.data.name}: its figures can't tell much")
    check_held_out(dev, tests, None if base == SCRATCH else resolve_model(base), max_length)
    return data, dev, tests


def choosing(
    config: MeasuringConfig, data: RankingData, measured: RankingData, drop_leaks: bool
) -> tuple[RankingData, RankingData]:
    """The data to train on, and those whose dev queries choose: they themselves, or `config.dev`.

    Of the latter nothing is taken that `measured` has among its test queries; the data's own dev queries are then
    neither trained on nor held out. Raises InputError as `hold_out`.
    """
    if not config.dev:
        return data, data
    chosen_by = source_of_queries(config.dev, "dev")
    data = left_apart(replace(data, splits=data.splits | {"dev": []}), chosen_by, "dev", drop_leaks)
    return data, renamed(apart_from, chosen_by, measured, "test", drop_leaks)


def source_of_queries(source: str, split: str) -> RankingData:
    """A source that is not trained on; where it has no such split, that holds all of its judged queries."""
    # Official pools judge passages that a folder of candidates need not hold.
    data = load_source(source, drop_leaks=True, keep_missing=True, test_share=0)
    say(f"    {missing_judgments(data)} judged passages are not in {data.name}: ideal rankings count them")
    splits = data.splits | {"train": []}
    if not data.splits[split] and (split == "dev" or not any(data.splits.values())):
        say(f"    {data.name} has no {split} split: all of its judged queries are taken")
        splits = {"train": [], "dev": [], "test": [], split: list(data.judgments)}
    return replace(data, splits=splits)


def left_apart(data: RankingData, other: RankingData, split: str, drop_leaks: bool) -> RankingData:
    """The data without what they share with a split of another source, of which all that is held out is `unseen`."""
    apart = renamed(apart_from, data, other, split, drop_leaks)
    return replace(apart, unseen=apart.unseen | held_texts(other))


def fingerprint_of_held(held: Held) -> str:
    """sha256, as hex, of all that measuring reads: the queries, their judgments, the candidates and their texts."""
    read = [
        [query, held.data.queries[query], sorted(held.data.judgments[query].items()),
         [[passage, held.data.passages[passage]] for passage in found]]
        for query, found in held.candidates.items()
    ]  # fmt: skip
    return sha256(json.dumps(read).encode()).hexdigest()

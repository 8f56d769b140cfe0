"""Neighbourhoods: queries whose passages answer much the same words, each passage a hard negative of all other queries.

Reading a pair costs a pass of the model, so a list of eight candidates costs eight. Where query and passage can be read
apart, 32 queries and their 32 passages cost 64 short passes and give 1,024 scores. In-batch negatives are easy when the
batch is drawn at random; here the first stage picks it, so that its members compete (in the spirit of Karpukhin et al.,
EMNLP 2020, and Hofstätter et al., SIGIR 2021, who make batches of topics).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from datasets import Dataset

from training.data import RankingData, by_weight, first_of_text, relevant_passages

NEIGHBOURS = 100  # candidates of the first query among which the others' passages are looked for


def choose_neighbourhoods(
    data: RankingData, seeds: Sequence[str], candidates: Mapping[str, Sequence[str]], *, size: int, queries: int
) -> list[list[tuple[str, str]]]:
    """Groups of `size` (query id, relevant passage id), until `queries` are used up; no such pair comes twice.

    A group is a seed query with one relevant passage, then the queries that the seed's candidates are relevant to, best
    first; too small a group is filled up with queries from the end of `seeds`. One that stays too small is dropped.
    In a group no query and no passage is twice. Once there are no new queries one comes again with its next relevant
    passage, and those come that share a passage: where one question has ten answers, or ten questions have one.

    Args:
        seeds: train query ids, in the order in which they become first of a group.
        candidates: what the first stage finds for the seeds that may come first; a seed without an entry only fills up.
    """
    relevant = {query: relevant_passages(data, query) for query in seeds}
    first = first_of_text(data)
    depth = max((len(found) for found in relevant.values()), default=0)
    pairs = [(query, relevant[query][i]) for i in range(depth) for query in seeds if i < len(relevant[query])]
    groups: list[list[tuple[str, str]]] = []
    while len(groups) * size < queries:
        before = len(groups)
        free = distinct(pairs, first)
        asked_by = {passage: query for query, passage in free.items()}
        for seed in seeds:
            if seed not in free or seed not in candidates or len(groups) * size >= queries:
                continue
            near = [asked_by[p] for p in candidates[seed] if p in asked_by and asked_by[p] in free]
            members = list(dict.fromkeys([seed, *near]))[:size]
            if len(members) < size:
                taken = set(members)
                # From the end, so that those which can come first are used up last.
                members += [query for query in reversed(free) if query not in taken][: size - len(members)]
            if len(members) == size:
                groups.append([(query, free.pop(query)) for query in members])
        if len(groups) == before:
            break
        used = {pair for group in groups[before:] for pair in group}
        pairs = [pair for pair in pairs if pair not in used]
    return groups


def distinct(pairs: Sequence[tuple[str, str]], first: Mapping[str, str]) -> dict[str, str]:
    """Query -> passage for as many of the pairs as their order gives with no query and no passage's text twice.

    `first` names for each passage the first one with its text: see `data.first_of_text`.
    """
    chosen: dict[str, str] = {}
    taken: set[str] = set()
    for query, passage in pairs:
        if query not in chosen and first[passage] not in taken:
            chosen[query] = passage
            taken.add(first[passage])
    return chosen


def neighbourhood_dataset(data: RankingData, groups: Sequence[Sequence[tuple[str, str]]]) -> Dataset:
    """The trainer's columns, a group a row: queries, passages, label; a label is the grades (queries, passages).

    A copy of a judged passage has its grade.
    """
    rows, first = [], first_of_text(data)
    for group in groups:
        passages = [passage for _, passage in group]
        grades = []
        for query, _ in group:
            judged = {
                first[passage]: float(data.judgments[query][passage]) for passage in relevant_passages(data, query)
            }
            grades.append([judged.get(first[passage], 0.0) for passage in passages])
        rows.append((
            [data.queries[query] for query, _ in group], [data.passages[passage] for passage in passages], grades
        ))  # fmt: skip
    names = ("queries", "passages", "label")
    return Dataset.from_dict({name: [row[column] for row in rows] for column, name in enumerate(names)})


def seeds_in_order(data: RankingData, seed: int) -> list[str]:
    """The train queries in random order, those of mixed data by their sources' weights."""
    return by_weight(data, np.random.default_rng(seed).permutation(np.array(data.splits["train"], dtype=object)))

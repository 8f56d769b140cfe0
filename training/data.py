"""The one in-memory shape of ranking data that everything here trains on and evaluates with.

`load.load` reads it and checks it; this module cuts it by query: splits, leak checks, limits.
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

SPLITS = ("train", "dev", "test")
HELD_OUT_SHARE = 0.1  # of the queries, for dev and for test each, where a source brings no splits

_log = logging.getLogger(__name__)


class InputError(ValueError):
    """Bad user input: one line that says what was given, what was expected and the remedy."""


@dataclass(frozen=True)
class Source:
    """One of the data sets that were mixed: its name, licence, and weight in the choice of queries."""

    name: str
    licence: str
    weight: float


@dataclass(frozen=True)
class RankingData:
    """Queries, passages, graded judgments and candidate lists.

    `queries`: query id -> text. `passages`: passage id -> text, its title already joined in front.
    `judgments`: query id -> passage id -> grade; a grade above 0 is relevant.
    `candidates`: query id -> passage ids, best first; queries without a list are absent.
    `splits`: "train", "dev" and "test" -> query ids; a split that the source lacks is an empty list.
    `scores`: query id -> passage id -> a teacher's raw logit, where the source brings some.
    `sources`: of mixed data (see `mixture.mix`), whose ids are LABEL/ID: label -> source.
    `texts`: file -> plain texts, a sample of language beside the passages.
    `unseen`: texts, `normalized`, that other data hold out, and nothing is trained on that has one of them.
    """

    name: str
    queries: dict[str, str]
    passages: dict[str, str]
    judgments: dict[str, dict[str, int]]
    candidates: dict[str, list[str]]
    splits: dict[str, list[str]]
    licence: str
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    unseen: frozenset[str] = frozenset()


def relevant_passages(data: RankingData, query_id: str) -> list[str]:
    """Ids of the passages in the corpus that are judged relevant (above 0), in the order of the judgments."""
    grades = data.judgments.get(query_id, {})
    return [passage_id for passage_id, grade in grades.items() if grade > 0 and passage_id in data.passages]


def held_texts(data: RankingData) -> frozenset[str]:
    """The texts, `normalized`, that a query of dev or test has or looks for, or that are `unseen`."""
    held = {query for split in ("dev", "test") for query in data.splits.get(split, [])}
    answers = {data.passages[passage] for query in held for passage in relevant_passages(data, query)}
    return data.unseen | {normalized(text) for text in answers | {data.queries[query] for query in held}}


def trainable(data: RankingData) -> list[str]:
    """Ids of the passages that no held-out query looks for, nor a copy of what one does: see `held_texts`."""
    held = held_texts(data)
    return [passage for passage, text in data.passages.items() if normalized(text) not in held]


def first_of_text(data: RankingData) -> dict[str, str]:
    """Passage id -> the first id of a passage with the same text, case and white space aside: mostly itself."""
    first: dict[str, str] = {}
    return {passage: first.setdefault(normalized(text), passage) for passage, text in data.passages.items()}


def require_splits(data: RankingData, *names: str) -> None:
    """Raise InputError when a split that the caller needs holds no query with a relevant passage."""
    for name in names:
        if not any(relevant_passages(data, query_id) for query_id in data.splits.get(name, [])):
            found = ", ".join(f"{split} {len(ids)}" for split, ids in data.splits.items())
            raise InputError(
                f"{data.name}: split {name!r} has no query with a relevant passage (queries: {found}); judge "
                "some, or remove all splits to have them made"
            )


def split_queries(
    data: RankingData, test_share: float = HELD_OUT_SHARE, made: Sequence[str] = ("test", "dev")
) -> dict[str, list[str]]:
    """Split the judged queries into test (`test_share`), dev (10 %) and train (the rest), so that nothing leaks.

    Queries that share their text or a relevant passage stay together; groups are ordered by the sha256 of
    their smallest query id, test takes the first of them, dev the next. The order of the files does
    not matter. A group too large for either is train. Only the splits of `made` are, beside train. Raises InputError
    when fewer groups than splits can be told apart.
    """
    groups = _connected(data, sorted(data.judgments))
    sides: dict[str, str] = {}
    shares = {"test": test_share, "dev": HELD_OUT_SHARE}
    free = {side: max(1, int(len(data.judgments) * shares[side])) for side in made}
    for group in sorted(groups, key=lambda group: _digest(group[0])):
        side = next((name for name in free if len(group) <= free[name]), "train")
        if side in free:
            free[side] -= len(group)
        sides.update(dict.fromkeys(group, side))
    splits = {name: [query_id for query_id in data.judgments if sides[query_id] == name] for name in ("train", *made)}
    empty = next((name for name in splits if not splits[name]), None)
    if empty is not None:
        raise InputError(
            f"{data.name}: {len(data.judgments)} judged queries make {len(groups)} groups sharing nothing, "
            f"too few for a {empty} split; add some dozen queries, or in a folder qrels.train.tsv, qrels.dev.tsv and "
            "qrels.test.tsv"
        )
    return splits


def with_missing_splits(data: RankingData, test_share: float = HELD_OUT_SHARE) -> RankingData:
    """Data with train queries whose missing dev or test split is taken out of them, as `split_queries` does; logged."""
    missing = [name for name in ("test", "dev") if not data.splits[name]]
    train = data.splits["train"]
    if not train or not missing:
        return data
    judged = {query_id: data.judgments[query_id] for query_id in train}
    splits = split_queries(replace(data, judgments=judged), test_share, missing)
    taken = " and ".join(f"{len(splits[name])} for {name}" for name in missing)
    _log.warning("%s: of %d train queries %s were taken, which it has no split of", data.name, len(train), taken)
    return replace(data, splits=data.splits | splits)


def find_leaks(data: RankingData) -> list[str]:
    """Train queries with the text, or the text of a relevant passage, of a query in dev or test.

    Texts are compared without case and white space.
    """
    held_out_ids = [*data.splits.get("dev", []), *data.splits.get("test", [])]
    held_out = {key for query_id in held_out_ids for key in texts_of(data, query_id)}
    return [query_id for query_id in data.splits.get("train", []) if not held_out.isdisjoint(texts_of(data, query_id))]


def check_leaks(data: RankingData) -> None:
    """Raise InputError when a train query leaks into dev or test (see `find_leaks`)."""
    leaks = find_leaks(data)
    if leaks:
        raise InputError(
            f"{data.name}: {len(leaks)} of {len(data.splits['train'])} train queries share their text or a "
            f"relevant passage with dev or test (first: {leaks[0]!r}); leave them out with drop_leaks=True"
        )


def without_leaks(data: RankingData) -> RankingData:
    """Leave the train queries of `find_leaks` out of the train split, and log how many they were."""
    leaks = set(find_leaks(data))
    if not leaks:
        return data
    _log.warning(
        "%s: %d of %d train queries left out: they share their text or a relevant passage with dev or test",
        data.name,
        len(leaks),
        len(data.splits["train"]),
    )
    return replace(data, splits=data.splits | {"train": [q for q in data.splits["train"] if q not in leaks]})


def limit_queries(data: RankingData, split: str, limit: int, seed: int = 0) -> RankingData:
    """Keep at most `limit` queries of one split, drawn by the sha256 of seed and query id.

    The order of the split is kept, a larger limit keeps what a smaller one kept, and passages, judgments
    and the other splits stay as they are. Mixed data give each source its share, see `by_weight`.
    Raises InputError for a limit below 1 or an unknown split.
    """
    if limit < 1:
        raise InputError(f"{data.name}: limit of {split} queries is {limit}; give 1 or more")
    if split not in data.splits:
        raise InputError(f"{data.name}: unknown split {split!r}; give one of {', '.join(data.splits)}")
    ordered = sorted(data.splits[split], key=lambda query_id: _digest(f"{seed}:{query_id}"))
    drawn = set(by_weight(data, ordered)[:limit])
    return replace(data, splits=data.splits | {split: [q for q in data.splits[split] if q in drawn]})


def by_weight(data: RankingData, query_ids: Iterable[str]) -> list[str]:
    """Queries of mixed data in an order whose every beginning has the sources in proportion to their weights.

    A source keeps the order of its queries; once it has no more, the others go on. Other data stay in their order.
    """
    ordered = list(query_ids)
    if not data.sources:
        return ordered
    seen: dict[str, int] = defaultdict(int)
    places = {}
    for query_id in ordered:
        label = source_of(query_id)
        places[query_id] = (seen[label] + 0.5) / data.sources[label].weight
        seen[label] += 1
    return sorted(ordered, key=places.__getitem__)


def source_of(mixed_id: str) -> str:
    """The label of the source that an id of mixed data comes from."""
    return mixed_id.partition("/")[0]


def fingerprint(data: RankingData) -> str:
    """sha256, as hex, over all texts, judgments, candidates and splits; name and licence are left out.

    The order of the mappings does not count, the order inside candidate lists and splits does.
    """
    digest = hashlib.sha256()

    def add(*texts: str) -> None:
        # Lengths in front of the texts: no two different lists of texts give the same bytes.
        for raw in (text.encode() for text in texts):
            digest.update(len(raw).to_bytes(8, "little") + raw)

    for section, texts in (("queries", data.queries), ("passages", data.passages)):
        add(section, str(len(texts)))
        for key in sorted(texts):
            add(key, texts[key])
    add("judgments", str(len(data.judgments)))
    for query_id, grades in sorted(data.judgments.items()):
        add(query_id, str(len(grades)), *(str(value) for pair in sorted(grades.items()) for value in pair))
    for section, lists in (("candidates", data.candidates), ("splits", data.splits)):
        add(section, str(len(lists)))
        for key in sorted(lists):
            add(key, str(len(lists[key])), *lists[key])
    for plain in (*data.texts.values(), sorted(data.unseen)):
        add("plain", str(len(plain)), *plain)
    return digest.hexdigest()


def _connected(data: RankingData, query_ids: Iterable[str]) -> list[list[str]]:
    """Group queries that are connected, directly or through others, by a text that they share."""
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while parent.setdefault(node, node) != node:
            parent[node] = node = parent[parent[node]]
        return node

    groups = defaultdict(list)
    ordered = list(query_ids)
    for query_id in ordered:
        first, *others = texts_of(data, query_id)
        for key in others:
            parent[root(key)] = root(first)
    for query_id in ordered:
        groups[root(texts_of(data, query_id)[0])].append(query_id)
    return list(groups.values())


def texts_of(data: RankingData, query_id: str) -> list[str]:
    """What no two splits may share: the query's text and the texts of its relevant passages, normalized."""
    passages = [data.passages[passage_id] for passage_id in relevant_passages(data, query_id)]
    return [
        f"query {normalized(data.queries[query_id])}",
        *(f"passage {normalized(text)}" for text in passages),
    ]


def first_line(error: Exception) -> str:
    """What an exception says, on one line of at most 200 characters; its kind where it says nothing."""
    told = (str(error).strip() or type(error).__name__).splitlines()[0]
    return told if len(told) <= 200 else f"{told[:200]}..."


def encodable(text: str) -> str:
    """The text with U+FFFD for each lone surrogate, which JSON and names of files may hold and no tokenizer takes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def normalized(text: str) -> str:
    """A text without case and white space, by which texts are compared."""
    return " ".join(text.casefold().split())


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()

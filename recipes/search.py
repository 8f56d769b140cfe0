"""What finds the candidates that are put in order: settings of every recipe that ranks, and what they come to."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashranker.artifact import SHORTEST_LENGTH

from recipes.command import setting
from training.backbone import BUILTIN
from training.candidates import FirstStage
from training.data import InputError
from training.teacher import open_bi_encoder


@dataclass(frozen=True)
class SearchConfig:
    """What finds the candidates that are put in order."""

    first_stage: str | None = setting(
        None,
        "what finds the candidates: bm25, dense (a bi-encoder) or both, their ranks fused; by default the "
        "candidates.tsv of the data where there is one, and bm25 otherwise",
        choices=["bm25", "dense", "both"],
    )
    retriever: str = setting("builtin", "the bi-encoder of a dense first stage: builtin, a model folder or a hub id")
    retriever_prompts: list[str] = setting(
        None,
        "two texts to put in front of queries and of passages, such as 'query: ' 'passage: ' for e5; by default those "
        "that the retriever's folder states, if any",
        nargs="+",
    )
    retriever_length: int = setting(128, "tokens of a text that the retriever reads")


def first_stage_of(config: SearchConfig, cache: Path) -> FirstStage:
    """The first stage that was asked for; embeddings are kept with the teacher's.

    Raises InputError for a setting that makes no sense, or a retriever that is no bi-encoder.
    """
    dense = config.first_stage in ("dense", "both")
    if not dense and (config.retriever != BUILTIN or config.retriever_prompts is not None):
        name = "retriever_prompts" if config.retriever == BUILTIN else "retriever"
        raise InputError(f"--{name} is given, and no dense first stage: add --first_stage dense, or both")
    if config.retriever_prompts is not None and len(config.retriever_prompts) != 2:
        raise InputError(
            f"--retriever_prompts has {len(config.retriever_prompts)} texts, expected two: for queries and for passages"
        )
    if config.retriever_length < SHORTEST_LENGTH:
        raise InputError(f"--retriever_length is {config.retriever_length}: expected {SHORTEST_LENGTH} or more")
    if dense:
        try:
            open_bi_encoder(config.retriever, config.retriever_length)
        except InputError as error:
            raise InputError(re.sub("^teacher ", "retriever ", str(error))) from None
    method: Any = config.first_stage
    prompts: Any = tuple(config.retriever_prompts) if config.retriever_prompts else None
    return FirstStage(method, config.retriever, prompts, config.retriever_length, cache / "teacher")

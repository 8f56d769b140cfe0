"""What a student in training is worth: MRR@10 of the order in which it puts dev candidates, by PyTorch."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.evaluation import BaseEvaluator

from training.data import RankingData
from training.metrics import evaluate, mean, run_from_scores

MEASURE = "MRR@10"


class DevMeasure(BaseEvaluator):
    """MRR@10 of reranking dev candidates, as the trainer wants to be told it."""

    def __init__(self, data: RankingData, candidates: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.data, self.candidates = data, candidates
        self.primary_metric = MEASURE

    def __call__(  # type: ignore[override]
        self, model: CrossEncoder, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        logits = score_candidates(model, self.data, self.candidates)
        judgments = {query_id: self.data.judgments[query_id] for query_id in self.candidates}
        run = run_from_scores(self.candidates, logits)
        return {MEASURE: mean(evaluate(run, judgments, (MEASURE,))[MEASURE])}


def load_student(checkpoint: Path, max_length: int) -> CrossEncoder:
    """A CrossEncoder whose logits are raw; on the CPU unless there is a GPU."""
    return CrossEncoder(str(checkpoint), max_length=max_length, activation_fn=torch.nn.Identity())


def score_candidates(
    model: CrossEncoder, data: RankingData, candidates: Mapping[str, Sequence[str]], progress: bool = False
) -> dict[str, np.ndarray]:
    """Raw logits of each query's candidates, query id -> float32 (candidates,), by PyTorch."""
    pairs = [(data.queries[query], data.passages[passage]) for query, ids in candidates.items() for passage in ids]
    logits = model.predict(
        pairs,  # type: ignore[arg-type]
        activation_fn=torch.nn.Identity(),
        batch_size=16,
        show_progress_bar=progress,
        convert_to_numpy=True,
    )
    ends = np.cumsum([len(ids) for ids in candidates.values()])[:-1]
    parts = np.split(np.asarray(logits, dtype=np.float32).reshape(-1), ends)
    return dict(zip(candidates, parts, strict=True))

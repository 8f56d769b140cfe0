"""The same pairs through PyTorch and through the shipped runtime, token for token, and what each takes in time."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from flashranker import Reranker
from flashranker.pairs import frame_query, join, load_tokenizer
from tqdm import tqdm
from transformers import PreTrainedModel

from export.to_onnx import load_checkpoint

TORCH_BATCH = 16
Request = tuple[str, Sequence[str]]  # a query and its passages


def encode_requests(folder: Path, requests: Sequence[Request], max_length: int) -> list[list[dict[str, np.ndarray]]]:
    """Model inputs, int64 (1, length), of each request's pairs, as the runtime makes them from `folder`'s tokenizer."""
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    encoded = []
    for query, passages in requests:
        frame = frame_query(tokenizer, query, max_length)
        encoded.append([join(tokenizer, frame, passage)[0] for passage in passages])
    return encoded


def torch_logits(
    model: PreTrainedModel, encoded: Sequence[Sequence[Mapping[str, np.ndarray]]], progress: bool = True
) -> list[np.ndarray]:
    """Logits by PyTorch in float32, one array (passages,) a request; batches of like length, padded."""
    pairs = [pair for request in encoded for pair in request]
    order = sorted(range(len(pairs)), key=lambda i: pairs[i]["input_ids"].shape[1])
    pad = model.config.pad_token_id or 0
    logits = np.empty(len(pairs), dtype=np.float32)
    with torch.inference_mode():
        for start in tqdm(range(0, len(order), TORCH_BATCH), desc="PyTorch", unit="batch", disable=not progress):
            chunk = order[start : start + TORCH_BATCH]
            length = max(pairs[i]["input_ids"].shape[1] for i in chunk)
            inputs = {}
            for name in ("input_ids", "attention_mask", "token_type_ids"):
                rows = [torch.from_numpy(pairs[i][name][0]) for i in chunk]
                fill = pad if name == "input_ids" else 0
                inputs[name] = torch.stack(
                    [torch.nn.functional.pad(row, (0, length - len(row)), value=fill) for row in rows]
                )
            if getattr(model.config, "type_vocab_size", 0) < 2:
                del inputs["token_type_ids"]
            logits[chunk] = model(**inputs).logits[:, 0].numpy()
    ends = np.cumsum([len(request) for request in encoded])[:-1]
    return np.split(logits, ends)


def runtime_logits(ranker: Reranker, requests: Sequence[Request], what: str) -> list[np.ndarray]:
    """Logits through the shipped runtime, one array (passages,) a request."""
    return [ranker.score(query, passages) for query, passages in tqdm(requests, desc=what, unit="query")]


def measure_latency(
    checkpoint: Path,
    folders: Mapping[str, Path],
    query: str,
    passages: Sequence[str],
    max_length: int,
    repeats: int = 5,
    threads: int | None = None,
) -> dict[str, dict[str, float]]:
    """Milliseconds for 100 passages: system -> {"median", "low", "high"}; PyTorch and each folder in turn, interleaved.

    Of tokenizing only the query's by the runtime is part of it, which remembers the passages' tokens from the warm-up;
    PyTorch gets its pairs tokenized and batched by length. `threads` are the runtime's, by default all cores; PyTorch
    has its own setting.
    """
    model_inputs = encode_requests(next(iter(folders.values())), [(query, passages)], max_length)
    rankers = {name: Reranker(folder, threads=threads) for name, folder in folders.items()}
    model = load_checkpoint(checkpoint)
    systems: dict[str, Callable[[], object]] = {"torch": partial(torch_logits, model, model_inputs, False)}
    systems |= {name: partial(ranker.score, query, passages) for name, ranker in rankers.items()}
    times: dict[str, list[float]] = {name: [] for name in systems}
    for turn in range(repeats + 1):
        for name, run in systems.items():
            start = time.perf_counter()
            run()
            if turn:  # the first is a warm-up
                times[name].append((time.perf_counter() - start) * 1000 * 100 / len(passages))
    return {
        name: {"median": float(np.median(values)), "low": min(values), "high": max(values)}
        for name, values in times.items()
    }

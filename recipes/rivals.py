"""What people rerank with today, each loading the same artifact folder unchanged, in a process of its own.

A worker runs one system; the benchmark sends it work and lets the others wait, so that turns are interleaved and no
system's threads or memory are another's.
"""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

Request = tuple[str, list[str]]  # a query and its passages
Rank = Callable[[str, list[str]], np.ndarray]  # raw logits or a monotone function of them, in input order


@dataclass(frozen=True)
class Model:
    """The same weights twice: an artifact folder, and the PyTorch checkpoint that it was exported from."""

    name: str
    folder: Path
    checkpoint: Path
    max_length: int


def flashranker(model: Model, threads: int) -> Rank:
    """Ours."""
    from flashranker import Reranker

    return Reranker(model.folder, threads=threads).score


def flashrank(model: Model, threads: int) -> Rank:
    """FlashRank 0.2; it takes no number of threads, the worker's affinity bounds it."""
    from flashrank import Config, Ranker, RerankRequest

    Config.model_file_map[model.folder.name] = "onnx/model.onnx"
    ranker = Ranker(model.folder.name, str(model.folder.parent), max_length=model.max_length, log_level="ERROR")

    def rank(query: str, passages: list[str]) -> np.ndarray:
        given = [{"id": number, "text": text} for number, text in enumerate(passages)]
        hits = ranker.rerank(RerankRequest(query=query, passages=given))
        return np.array([hit["score"] for hit in sorted(hits, key=lambda hit: hit["id"])])

    return rank


def sentence_transformers_torch(model: Model, threads: int) -> Rank:
    """sentence-transformers on PyTorch, fp32."""
    import torch
    from sentence_transformers import CrossEncoder

    torch.set_num_threads(threads)
    return _predict(CrossEncoder(str(model.checkpoint), max_length=model.max_length, device="cpu"))


def sentence_transformers_onnx(model: Model, threads: int) -> Rank:
    """sentence-transformers with backend="onnx" on the int8 file."""
    from onnxruntime import SessionOptions
    from sentence_transformers import CrossEncoder

    options = SessionOptions()
    options.intra_op_num_threads = threads
    settings = {"file_name": "onnx/model.onnx", "session_options": options, "provider": "CPUExecutionProvider"}
    return _predict(CrossEncoder(str(model.folder), backend="onnx", model_kwargs=settings))


def _predict(encoder: Any) -> Rank:
    import torch

    def rank(query: str, passages: list[str]) -> np.ndarray:
        pairs = [(query, passage) for passage in passages]
        return encoder.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False)

    return rank


def fastembed(model: Model, threads: int) -> Rank:
    """fastembed's TextCrossEncoder with a custom model."""
    from fastembed.common.model_description import ModelSource
    from fastembed.rerank.cross_encoder import TextCrossEncoder

    name = str(model.folder)
    source = ModelSource(hf="local/local")  # never asked: the folder is given
    TextCrossEncoder.add_custom_model(model=name, sources=source, model_file="onnx/model.onnx")
    encoder = TextCrossEncoder(name, specific_model_path=name, threads=threads)
    return lambda query, passages: np.array(list(encoder.rerank(query, passages)))


SYSTEMS: dict[str, Callable[[Model, int], Rank]] = {
    "flashranker": flashranker,
    "flashrank": flashrank,
    "sentence-transformers, torch": sentence_transformers_torch,
    "sentence-transformers, onnx": sentence_transformers_onnx,
    "fastembed": fastembed,
}
MODULES = {
    "flashranker": "flashranker", "flashrank": "flashrank", "fastembed": "fastembed",
    "sentence-transformers, torch": "sentence_transformers", "sentence-transformers, onnx": "sentence_transformers",
}  # fmt: skip


class Worker:
    """A process with one system and one model, on `threads` cores; it serves until `close`."""

    def __init__(self, system: str, model: Model, threads: int) -> None:
        self.system = system
        ours, theirs = get_context("spawn").Pipe()
        self._connection = ours
        arguments = (theirs, system, model, threads)
        self._process = get_context("spawn").Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._receive()

    def run(self, requests: Sequence[Request], callers: int = 1) -> dict[str, Any]:
        """Rank all requests, `callers` at a time: {"seconds", "scores"}.

        Raises RuntimeError with the system's own words when it failed, or when its process is gone.
        """
        self._connection.send((list(requests), callers))
        return self._receive()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()

    def _receive(self) -> dict[str, Any]:
        try:
            answer = self._connection.recv()
        except EOFError:
            raise RuntimeError(f"{self.system} ended with status {self._process.exitcode}") from None
        if "error" in answer:
            raise RuntimeError(f"{self.system}: {answer['error']}")
        return answer


def _serve(connection: Connection, system: str, model: Model, threads: int) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    try:
        rank = SYSTEMS[system](model, threads)
        connection.send({"ready": True})
        while True:
            requests, callers = connection.recv()
            start = time.perf_counter()
            if callers == 1:
                scores = [rank(query, passages) for query, passages in requests]
            else:
                with ThreadPoolExecutor(callers) as pool:
                    scores = list(pool.map(lambda request: rank(*request), requests))
            seconds = time.perf_counter() - start
            connection.send({"seconds": seconds, "scores": scores})
    except (EOFError, KeyboardInterrupt):
        return
    except BaseException as error:
        connection.send({"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"})

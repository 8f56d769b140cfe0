"""What a kept score belongs to: these weights, wherever they lie, and these versions of what computes."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from flashranker import Reranker, ScoreCache


@pytest.mark.parametrize("name", ["model.onnx_data", "free name.bin", "weights/all.bin"])
def test_other_weights_beside_a_foreign_graph_are_another_model(name: str, tiny_artifact: Path, tmp_path: Path) -> None:
    folder, cache = tmp_path / "foreign", ScoreCache()
    (folder / "weights").mkdir(parents=True)
    shutil.copyfile(tiny_artifact / "tokenizer.json", folder / "tokenizer.json")
    model = onnx.load(tiny_artifact / "onnx/model.onnx")
    onnx.save_model(model, folder / "model.onnx", save_as_external_data=True, location=name, size_threshold=64)
    (folder / "weights" / "notes.txt").write_text("of no weight")
    before = Reranker(folder, foreign=True, cache=cache)
    logit = float(before.score("time", ["bread"])[0])
    (folder / "weights" / "notes.txt").write_text("other notes")
    assert Reranker(folder, foreign=True)._key == before._key
    blob, graph = (folder / name).read_bytes(), (folder / "model.onnx").read_bytes()
    assert len(blob) > 10_000
    weights = np.frombuffer(blob, np.uint8).copy()
    weights[3::4] ^= 1
    (folder / name).write_bytes(weights.tobytes())
    assert (folder / "model.onnx").read_bytes() == graph
    after = Reranker(folder, foreign=True, cache=cache)
    assert after.score("time", ["bread"])[0] == Reranker(folder, foreign=True).score("time", ["bread"])[0] != logit


def test_versions_are_part_of_the_key(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {Reranker(tiny_artifact)._key}
    for module, version in (("flashranker", "9.9"), ("onnxruntime", "9.9"), ("tokenizers", "9.9")):
        monkeypatch.setattr(f"{module}.__version__", version)
        keys.add(Reranker(tiny_artifact)._key)
    assert len(keys) == 4

"""Export: ONNX against PyTorch, and the last layer at the first token against the whole graph."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from transformers import AutoModelForSequenceClassification, DistilBertConfig, XLMRobertaConfig

from export.cls_graph import cut_last_layer, export_first_token
from export.to_onnx import ExportError, check_signature, export_model, load_checkpoint

SIZE = {"vocab_size": 90, "num_labels": 1, "pad_token_id": 1, "initializer_range": 0.4}


def make_checkpoint(folder: Path, kind: str) -> Path:
    config: Any = {
        "xlm-roberta": XLMRobertaConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=66, type_vocab_size=1, **SIZE,
        ),
        "distilbert": DistilBertConfig(
            dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=64, **SIZE
        ),
    }[kind]  # fmt: skip
    torch.manual_seed(1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["bert", "xlm-roberta", "distilbert"])
def checkpoint(request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "bert":
        return tiny_checkpoint
    return make_checkpoint(tmp_path_factory.mktemp(request.param), request.param)


def make_inputs(graph: Path, lengths: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Random pairs padded at the end, the second half of each of type 1 where the graph has types."""
    names = [value.name for value in onnx.load(graph).graph.input]
    generator = np.random.default_rng(0)
    mask = np.array([[column < length for column in range(max(lengths))] for length in lengths], dtype=np.int64)
    inputs = {
        "input_ids": np.where(mask > 0, generator.integers(5, 50, mask.shape), 1),
        "attention_mask": mask,
    }
    if "token_type_ids" in names:
        inputs["token_type_ids"] = np.cumsum(mask, axis=1) * mask // (max(lengths) // 2 + 1)
    return inputs


def run_torch(checkpoint: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        return model(**{name: torch.from_numpy(value) for name, value in inputs.items()}).logits.numpy()


def run_onnx(graph: Path, inputs: dict[str, np.ndarray], output: str = "logits") -> np.ndarray:
    model = onnx.load(graph)
    if output != "logits":
        model.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    return onnxruntime.InferenceSession(model.SerializeToString()).run([output], inputs)[0]


def export_whole(checkpoint: Path, destination: Path) -> Path:
    return export_model(load_checkpoint(checkpoint), destination)


@pytest.mark.parametrize("export", [export_whole, lambda *paths: export_first_token(*paths).path])
def test_the_graph_computes_what_pytorch_does(checkpoint: Path, tmp_path: Path, export: Any) -> None:
    path = export(checkpoint, tmp_path / "onnx" / "model.onnx")
    for lengths in ((7,), (21, 3, 12), (64,)):
        inputs = make_inputs(path, lengths)
        logits = run_onnx(path, inputs)
        assert logits.shape == (len(lengths), 1)
        assert logits.dtype == np.float32
        expected = run_torch(checkpoint, inputs)
        assert np.abs(logits - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]


def test_first_token_graph_is_exact_and_runs_its_last_layer_on_one_token(tiny_checkpoint: Path, tmp_path: Path) -> None:
    whole = export_whole(tiny_checkpoint, tmp_path / "whole.onnx")
    cut = export_first_token(tiny_checkpoint, tmp_path / "cut.onnx")
    assert cut.first_token_only
    assert cut.reason == ""
    inputs = make_inputs(whole, (40, 9, 23))
    logits = run_onnx(whole, inputs)
    assert np.ptp(logits) > 0.1
    # The fixture's wide weights magnify float32 rounding; that nothing else differs shows in float64, below.
    assert np.abs(run_onnx(cut.path, inputs) - logits).max() <= 1e-5
    assert [rows_of_matmuls(path, inputs, "intermediate") for path in (whole, cut.path)] == [
        [40, 40],
        [40, 1],
    ]
    assert [rows_of_matmuls(path, inputs, "query") for path in (whole, cut.path)] == [[40, 40], [40, 1]]
    assert [rows_of_matmuls(path, inputs, "key") for path in (whole, cut.path)] == [[40, 40], [40, 40]]


def test_first_token_layer_is_exact_in_double_precision(tiny_checkpoint: Path) -> None:
    model = load_checkpoint(tiny_checkpoint)
    inputs = {
        "input_ids": torch.arange(5, 45).reshape(2, 20),
        "attention_mask": torch.ones(2, 20, dtype=torch.int64),
    }
    inputs["attention_mask"][1, 13:] = 0
    with torch.no_grad():
        before = model.double()(**inputs).logits
        assert cut_last_layer(model.float()) == ""
        assert (model.double()(**inputs).logits - before).abs().max() < 1e-12


def rows_of_matmuls(graph: Path, inputs: dict[str, np.ndarray], part: str) -> list[int]:
    """How many tokens each layer's MatMul of this name computes."""
    nodes = [node for node in onnx.load(graph).graph.node if node.op_type == "MatMul" and f"/{part}/" in node.name]
    return [run_onnx(graph, inputs, node.output[0]).shape[1] for node in nodes]


def test_a_head_that_reads_all_tokens_is_left_whole(tiny_checkpoint: Path) -> None:
    model: Any = load_checkpoint(tiny_checkpoint)
    pooler = model.bert.pooler
    pooler.forward = lambda hidden: torch.tanh(pooler.dense(hidden.mean(dim=1)))
    ids = torch.arange(5, 25)[None]
    before = model(input_ids=ids).logits
    assert "more than the first token" in cut_last_layer(model)
    assert torch.allclose(model(input_ids=ids).logits, before, atol=1e-5)


def test_other_architectures_fall_back_and_say_so(tmp_path: Path) -> None:
    result = export_first_token(make_checkpoint(tmp_path / "checkpoint", "distilbert"), tmp_path / "model.onnx")
    assert not result.first_token_only
    assert "DistilBertForSequenceClassification" in result.reason


def test_refuses_a_head_of_two_labels_and_a_folder_without_config(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    shutil.copytree(tiny_checkpoint, folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, ignore_mismatched_sizes=True)
    model.save_pretrained(folder)
    with pytest.raises(ExportError, match="has 2 labels"):
        export_whole(folder, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match=r"no config\.json"):
        export_whole(tmp_path, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_signature_is_checked(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = onnx.load(export_whole(tiny_checkpoint, tmp_path / "model.onnx"))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 64
    onnx.save(model, tmp_path / "fixed.onnx")
    with pytest.raises(ExportError, match=r"input_ids of fixed\.onnx"):
        check_signature(tmp_path / "fixed.onnx")
    model.graph.input[0].name = "tokens"
    onnx.save(model, tmp_path / "renamed.onnx")
    with pytest.raises(ExportError, match="tokens"):
        check_signature(tmp_path / "renamed.onnx")


def test_a_head_that_reads_the_second_segment_is_not_cut(tmp_path: Path) -> None:
    from training.similarity_ranker import SimilarityRanker, SimilarityRankerConfig

    torch.manual_seed(0)
    config = SimilarityRankerConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, num_labels=1, initializer_range=0.4,
    )  # fmt: skip
    model = SimilarityRanker(config).eval()
    torch.nn.init.normal_(model.classifier.weight)  # so that [CLS] alone gives a logit, too
    model.save_pretrained(tmp_path / "ranker")
    exported = export_first_token(tmp_path / "ranker", tmp_path / "model.onnx")
    assert not exported.first_token_only
    types = torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    inputs = {"input_ids": torch.tensor([[2, 9, 3, 20, 21, 22, 3]]), "attention_mask": torch.ones_like(types),
              "token_type_ids": types}  # fmt: skip
    session = onnxruntime.InferenceSession(str(exported.path))
    found = session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]
    with torch.no_grad():
        expected = model(**inputs).logits.numpy()
    assert abs(float(found[0, 0] - expected[0, 0])) < 1e-4

"""FlashRank's interface and other tools' folders: the same results, without the surprises."""

import copy
import inspect
import json
import math
import shutil
from pathlib import Path

import flashrank
import numpy as np
import onnx
import pytest
from conftest import WORDS
from flashranker import ArtifactError, InputError, ModelNotFoundError, Reranker
from flashranker.compat import Ranker, RerankRequest
from onnx import helper, numpy_helper

PASSAGES = [
    {"id": number, "text": f"{word} {other}", "meta": {"tags": [word]}}
    for number, (word, other) in enumerate((word, other) for word in WORDS[:6] for other in WORDS[6:10])
]


@pytest.fixture(scope="module")
def foreign(tiny_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact as FlashRank lays its folders out: model and tokenizer side by side, no manifest."""
    folder = tmp_path_factory.mktemp("foreign") / "flat"
    folder.mkdir()
    for path in tiny_artifact.iterdir():
        if path.is_file() and path.name != "flashranker.json":
            shutil.copyfile(path, folder / path.name)
    shutil.copyfile(tiny_artifact / "onnx/model.onnx", folder / "anything.onnx")
    return folder


def test_flashranks_own_results_on_the_same_folder(foreign: Path) -> None:
    flashrank = pytest.importorskip("flashrank", reason="flashrank is not installed: make bench installs it")
    from flashrank import Config

    Config.model_file_map["flat"] = "anything.onnx"
    theirs = flashrank.Ranker(model_name="flat", cache_dir=str(foreign.parent), max_length=64)
    expected = theirs.rerank(flashrank.RerankRequest(query="time water", passages=copy.deepcopy(PASSAGES)))
    found = Ranker("flat", cache_dir=foreign.parent, max_length=64).rerank(RerankRequest("time water", PASSAGES))
    assert [hit["id"] for hit in found] == [hit["id"] for hit in expected]
    assert [hit["score"] for hit in found] == pytest.approx([float(hit["score"]) for hit in expected], abs=1e-5)


def test_results_are_sorted_copies_with_plain_floats(foreign: Path) -> None:
    before = copy.deepcopy(PASSAGES)
    found = Ranker("flat", cache_dir=foreign.parent).rerank(RerankRequest(query="time", passages=PASSAGES))
    assert before == PASSAGES
    logits = Reranker(foreign, foreign=True).score("time", PASSAGES)
    assert [hit["id"] for hit in found] == sorted(range(24), key=lambda i: -logits[i])
    for hit in found:
        assert type(hit["score"]) is float
        assert hit["score"] == pytest.approx(1 / (1 + math.exp(-logits[hit["id"]])), rel=1e-9)
        assert {name: hit[name] for name in ("id", "text", "meta")} == PASSAGES[hit["id"]]
    json.dumps(found)
    once = RerankRequest("time", (passage for passage in PASSAGES))  # type: ignore[arg-type]
    assert Ranker("flat", cache_dir=foreign.parent).rerank(once) == found
    ranker = Ranker("flat", cache_dir=foreign.parent)
    assert ranker.rerank(RerankRequest(query="time", passages=[])) == ranker.rerank(RerankRequest(query="time")) == []


def test_an_artifact_is_verified_and_gives_flashranks_scores_not_probabilities(tiny_artifact: Path) -> None:
    ranker = Ranker(str(tiny_artifact), cache_dir="")
    (hit,) = ranker.rerank(RerankRequest("time", PASSAGES[:1]))
    (own,) = Reranker(tiny_artifact).rerank("time", PASSAGES[:1])
    assert hit["score"] == pytest.approx(1 / (1 + math.exp(-own.logit)), rel=1e-12)
    assert hit["score"] != own.score


def test_max_length_is_in_tokens(foreign: Path) -> None:
    long = [{"text": "bread time water " * 20}]
    short, whole = (Ranker("flat", foreign.parent, max_length=length) for length in (16, 64))
    assert short.ranker.score("lock", long) == Reranker(foreign, foreign=True, max_length=16).score("lock", long)
    assert short.ranker.score("lock", long) != whole.ranker.score("lock", long)
    assert Ranker("flat", foreign.parent, max_length=5000).ranker.max_length == 64


def test_the_defaults_are_flashranks() -> None:
    theirs, ours = (inspect.signature(one.__init__).parameters for one in (flashrank.Ranker, Ranker))
    assert {name: p.default for name, p in ours.items()} == {name: p.default for name, p in theirs.items()}


def test_bad_requests_are_named(foreign: Path) -> None:
    ranker = Ranker("flat", cache_dir=foreign.parent)
    with pytest.raises(InputError, match="the request has no query"):
        ranker.rerank(RerankRequest(passages=PASSAGES))
    with pytest.raises(InputError, match=r"passages\[1\] is 'bread', expected a Mapping"):
        ranker.rerank(RerankRequest("time", [PASSAGES[0], "bread"]))  # type: ignore[list-item]
    with pytest.raises(InputError, match='passage 0 has no "text"'):
        ranker.rerank(RerankRequest("time", [{"id": 1}]))
    with pytest.raises(InputError, match="passages is 5"):
        ranker.rerank(RerankRequest("time", 5))  # type: ignore[arg-type]
    with pytest.raises(ModelNotFoundError, match="no model folder"):
        Reranker("a" * 5000, foreign=True)  # longer than a name may be
    with pytest.raises(ModelNotFoundError, match="absent"):
        Ranker("absent", cache_dir=foreign.parent)
    with pytest.raises(InputError, match="max_length is 3"):
        Ranker("flat", foreign.parent, max_length=3)
    with pytest.raises(InputError, match="the model is None in"):
        Ranker(None, foreign.parent)  # type: ignore[arg-type]


def test_a_foreign_folder_has_the_artifacts_logits_and_must_be_asked_for(foreign: Path, tiny_artifact: Path) -> None:
    ours, theirs = Reranker(tiny_artifact), Reranker(foreign, foreign=True)
    assert theirs.score("time", PASSAGES).tobytes() == ours.score("time", PASSAGES).tobytes()
    assert theirs.max_length == 64  # as its tokenizer says
    with pytest.raises(ArtifactError, match=r"no readable flashranker\.json"):
        Reranker(foreign)


def test_of_two_labels_the_logit_is_the_difference(foreign: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(foreign, tmp_path / "two")
    model = onnx.load(folder / "anything.onnx")
    output = model.graph.output[0]
    node = next(node for node in model.graph.node if output.name in node.output)
    node.output[0] = "one"
    model.graph.initializer.append(numpy_helper.from_array(np.array([[-0.5, 0.25]], np.float32), "columns"))
    model.graph.node.append(helper.make_node("MatMul", ["one", "columns"], [output.name]))
    output.type.tensor_type.shape.dim[1].dim_value = 2
    onnx.save(model, folder / "anything.onnx")
    logits = Reranker(foreign, foreign=True).score("time", PASSAGES)
    np.testing.assert_allclose(Reranker(folder, foreign=True).score("time", PASSAGES), 0.75 * logits, rtol=1e-6)


def test_a_folder_with_two_models_or_no_tokenizer_is_named(foreign: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(foreign, tmp_path / "two")
    shutil.copyfile(folder / "anything.onnx", folder / "other.onnx")
    with pytest.raises(ArtifactError, match=r"anything\.onnx, other\.onnx; expected onnx/model\.onnx"):
        Reranker(folder, foreign=True)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ArtifactError, match=r"no tokenizer\.json"):
        Reranker(folder, foreign=True)
    with pytest.raises(ModelNotFoundError):
        Reranker(folder / "absent", foreign=True)
    with pytest.raises(ModelNotFoundError):
        Ranker("x" * 300, folder)
    shutil.copyfile(foreign / "tokenizer.json", folder / "tokenizer.json")
    (folder / "other.onnx").unlink()
    (folder / "anything.onnx").unlink()
    (folder / "anything.onnx").mkdir()
    with pytest.raises(ArtifactError, match=r"two can't be read .*anything\.onnx is no ordinary file"):
        Reranker(folder, foreign=True)

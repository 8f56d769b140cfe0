"""The artifact folder: loads in other runtimes with the same logits, and is published only when its gates
hold."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from flashranker import Reranker
from flashranker.artifact import Calibration, Manifest, read_manifest, verify_files
from flashranker.errors import ArtifactError
from sentence_transformers import CrossEncoder
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from export.artifact import GateError, publish, seal, stage_artifact
from export.card import make_card
from export.cls_graph import export_first_token
from export.to_onnx import ExportError
from export.verify import Gate, ndcg_gate, size_gate
from recipes.rivals import Model, fastembed

QUERY = "sort a python list"
PASSAGES = ["python list sort", "river and mountain, garden in winter", "read file. " * 9]
LINEAGE = {
    "base": {"name": "random/tiny: 2 layers", "licence": "Apache-2.0"},
    "teacher": {"name": "none", "licence": "MIT"},
    "data": {"name": 'py"docs', "licence": "PSF-2.0"},
    "languages": ["en"],
}
METRICS = {
    "first stage": {"nDCG@10": {"mean": 0.41234, "low": 0.4, "high": 0.42, "queries": 40}, "MRR@10": 0.5},
    "int8": {"nDCG@10": {"mean": 0.52345, "low": 0.51, "high": 0.53}},
}


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_first_token(tiny_checkpoint, tmp_path_factory.mktemp("onnx") / "model.onnx").path


@pytest.fixture
def staging(tiny_checkpoint: Path, model: Path, tmp_path: Path) -> Path:
    return stage_artifact(tiny_checkpoint, model, tmp_path / ".tiny.staging", name="tiny", tier="nano", max_length=48)


def complete(staging: Path, gates: list[Gate], notices: tuple[str, ...] = ()) -> Manifest:
    return seal(
        staging,
        calibration=Calibration(1.5, -0.25),
        lineage=LINEAGE,
        metrics=METRICS,
        parity={"fp32": 2.5e-7},
        gates=gates,
        quantization={"rung": "dynamic int8", "treatments": {"layer.0": "alpha 0.8"}},
        seed=7,
        command="python -m recipes.distill --tier nano",
        notices=notices,
    )


def test_runtime_and_sentence_transformers_give_pytorchs_logits(staging: Path, tiny_checkpoint: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    torch_model = AutoModelForSequenceClassification.from_pretrained(tiny_checkpoint).eval()
    with torch.no_grad():
        expected = [
            float(
                torch_model(
                    **tokenizer(QUERY, passage, truncation="only_second", max_length=48, return_tensors="pt")
                ).logits
            )
            for passage in PASSAGES
        ]
    assert np.ptp(expected) > 0.1
    other = CrossEncoder(str(staging), backend="onnx", model_kwargs={"provider": "CPUExecutionProvider"})
    assert Reranker(staging).score(QUERY, PASSAGES) == pytest.approx(expected, abs=1e-4)
    # Together, so padded: neither a baked-in length nor a sigmoid may show.
    assert other.predict([(QUERY, passage) for passage in PASSAGES]) == pytest.approx(expected, abs=1e-3)
    assert other.max_length == 48


def test_folder_holds_the_contracts_files_and_keys(staging: Path) -> None:
    sealed = complete(staging, [size_gate(1, 5)])
    assert sorted(sealed.files) == [
        "README.md", "config.json", "onnx/model.onnx", "sentence_bert_config.json", "special_tokens_map.json",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    verify_files(staging, read_manifest(staging))
    config = json.loads((staging / "config.json").read_text())
    expected = {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0},
        "max_position_embeddings": 64, "hidden_size": 32, "num_hidden_layers": 2, "pad_token_id": 0,
        "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"},
    }  # fmt: skip
    assert {key: config[key] for key in expected} == expected
    assert json.loads((staging / "tokenizer_config.json").read_text())["model_max_length"] == 48
    assert json.loads((staging / "sentence_bert_config.json").read_text()) == {
        "max_seq_length": 48,
        "do_lower_case": False,
    }


def test_a_length_left_in_the_tokenizers_settings_cuts_nothing_in_fastembed(
    tiny_checkpoint: Path, model: Path, tmp_path: Path
) -> None:
    checkpoint = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    file = checkpoint / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"max_length": 16}))
    folder = stage_artifact(checkpoint, model, tmp_path / "folder", name="tiny", tier="nano", max_length=48)
    long = ["bread time river " * 9 + word for word in ("coffee", "solar")]  # 28 tokens, told apart by the last
    found = fastembed(Model("tiny", folder, checkpoint, 48), 1)("lock", long)
    assert found == pytest.approx(Reranker(folder, threads=1).score("lock", long), abs=1e-3)
    assert abs(found[0] - found[1]) > 1e-2


def test_padding_and_truncation_baked_into_a_tokenizer_are_removed(
    tiny_checkpoint: Path, model: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, checkpoint)
    baked = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    baked.enable_padding(length=60)
    baked.enable_truncation(5)
    baked.save(str(checkpoint / "tokenizer.json"))
    folder = stage_artifact(checkpoint, model, tmp_path / "staging", name="tiny", tier="nano", max_length=48)
    clean = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert (clean.padding, clean.truncation) == (None, None)
    assert len(clean.encode("river mountain garden winter bread water").ids) == 8


def test_refuses_more_tokens_than_the_model_has_positions(tiny_checkpoint: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="max_length 65: the model has 64 positions"):
        stage_artifact(tiny_checkpoint, model, tmp_path / "staging", name="tiny", tier="nano", max_length=65)
    assert not (tmp_path / "staging").exists()


def test_publishes_only_when_every_gate_passed(staging: Path) -> None:
    destination = staging.parent / "tiny"
    with pytest.raises(GateError, match="no gate was measured"):
        publish(staging, destination)
    complete(staging, [size_gate(1, 5), ndcg_gate(0.5, 0.49)])
    with pytest.raises(GateError, match=r"int8 nDCG@10: 0.01 is 0.007 nDCG@10 over the limit") as caught:
        publish(staging, destination)
    assert "size" not in str(caught.value)
    assert not destination.exists()
    complete(staging, [size_gate(1, 5)])
    publish(staging, destination)
    assert not staging.exists()
    hit = Reranker(destination).rerank(QUERY, PASSAGES)[0]
    assert hit.score == pytest.approx(1 / (1 + np.exp(0.25 - 1.5 * hit.logit)))


def test_a_failed_publication_leaves_the_old_artifact(staging: Path) -> None:
    complete(staging, [size_gate(1, 5)])
    destination = staging.parent / "tiny"
    shutil.copytree(staging, destination)
    (destination / "old").touch()
    (staging / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"config\.json"):
        publish(staging, destination)
    assert (destination / "old").exists()


def test_the_card_states_the_manifests_numbers(staging: Path) -> None:
    sealed = complete(staging, [size_gate(6_000_000, 5)], ("below its first stage",))
    card = (staging / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "apache-2.0"
    assert front["pipeline_tag"] == "text-ranking"
    # A name that the hub can't have would make it refuse the card.
    assert "base_model" not in front
    assert front["language"] == ["en"]
    assert "| first stage | 40 | 0.4123 (0.4000 to 0.4200) | 0.5000 |" in card
    assert "| int8 |  | 0.5234 (0.5100 to 0.5300) |  |" in card or "| int8 |  | 0.5235 (0.5100 to 0.5300) |  |" in card
    assert "| size | 6 MB | 5 MB | **FAIL** |" in card
    assert "> **Notice:** below its first stage" in card
    assert "calibrated on the data's own judgments" in card
    other = replace(sealed, lineage=sealed.lineage | {"chosen on": {"name": "another"}})
    assert "calibrated on the judgments of another" in make_card(other)
    assert f"| `onnx/model.onnx` | {sealed.files['onnx/model.onnx'].bytes:,} |" in card
    assert "python -m recipes.distill --tier nano" in card
    assert "sigmoid(1.5 x logit -0.25)" in card
    assert "PSF-2.0" in card


def test_the_card_of_a_model_of_several_languages_says_which(staging: Path) -> None:
    sealed = complete(staging, [size_gate(1, 5)])
    assert "in other languages" not in make_card(sealed)
    card = make_card(replace(sealed, lineage=LINEAGE | {"languages": ["en", "ko", "ja"]}))
    assert "Its data are in en, ko and ja: in other languages it was not measured here." in card
    assert yaml.safe_load(card.split("---")[1])["language"] == ["en", "ko", "ja"]


def test_sealing_again_gives_the_same_card(staging: Path) -> None:
    complete(staging, [size_gate(1, 5)])
    first = (staging / "README.md").read_bytes()
    complete(staging, [size_gate(1, 5)])
    assert (staging / "README.md").read_bytes() == first

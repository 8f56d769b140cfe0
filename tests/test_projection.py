"""Projection: exact where nothing is lost, close on the real backbone, far off for a shuffled one."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import WORDS, make_tokenizer
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
)

from training.backbone import builtin_backbone
from training.data import InputError
from training.projection import project_backbone
from training.pydocs import read_docstrings

TINY = {"width": 32, "layers": (0, 1), "intermediate": 64, "max_length": 48}


def _texts(count: int, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, size=int(generator.integers(8, 40)))) for _ in range(count)]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random, 2 layers of 32: wide weights and biases, so that each one's absence shows."""
    folder = tmp_path_factory.mktemp("backbone")
    tokenizer = make_tokenizer(folder)
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    model = BertModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _states(model: BertModel, folder: Path, texts: list[str], max_length: int) -> list[Tensor]:
    """(tokens, dimensions) of every level, padding left out."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    with torch.no_grad():
        hidden = model.eval()(**batch, output_hidden_states=True).hidden_states
    return [state[batch["attention_mask"].bool()].double() for state in hidden]


def _explained(x: Tensor, y: Tensor) -> float:
    """R2 of the best affine map from x to y."""
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    error = y - x @ torch.linalg.lstsq(x, y, driver="gelsd").solution
    return float(1 - error.square().sum() / (y - y.mean(0)).square().sum())


def test_full_width_loses_nothing(backbone: Path, tmp_path: Path) -> None:
    scores = project_backbone(backbone, tmp_path / "student", _texts(80, seed=1), **TINY)
    assert min(scores.values()) > 0.999
    unseen = _texts(20, seed=2)
    wide = _states(BertModel.from_pretrained(backbone), backbone, unseen, 48)
    student = BertForSequenceClassification.from_pretrained(tmp_path / "student")
    slim = _states(student.bert, tmp_path / "student", unseen, 48)
    for expected, found in zip(wide, slim, strict=True):
        # The same up to a rotation: all distances between tokens are kept.
        assert torch.allclose(torch.cdist(found, found), torch.cdist(expected, expected), atol=0.05)
        assert _explained(found, expected) > 0.999


def test_second_segment_is_projected_too(backbone: Path, tmp_path: Path) -> None:
    project_backbone(backbone, tmp_path / "student", _texts(80, seed=1), **TINY)
    student = BertForSequenceClassification.from_pretrained(tmp_path / "student").eval()
    wide = BertModel.from_pretrained(backbone).eval()
    ids = torch.randint(5, wide.config.vocab_size, (4, 64), generator=torch.Generator().manual_seed(0))
    types = (torch.arange(64) >= 20).long().expand(4, 64)
    with torch.no_grad():
        expected = wide(ids, token_type_ids=types).last_hidden_state.flatten(0, 1)
        found = student.bert(ids, token_type_ids=types).last_hidden_state.flatten(0, 1)
        without = student.bert(ids).last_hidden_state.flatten(0, 1)
    distances = torch.cdist(expected, expected)
    assert (torch.cdist(found, found) - distances).abs().max() < 0.1
    assert (torch.cdist(without, without) - distances).abs().max() > 1


def test_real_backbone_keeps_most_of_two_layers(tmp_path: Path) -> None:
    entries = read_docstrings(Path(np.lib.__file__).with_name("_function_base_impl.py").read_bytes(), "m", "numpy")
    entries = [*entries, *read_docstrings(Path(json.__file__).read_bytes(), "json", "json")]
    entries += read_docstrings(Path(hashlib.__file__).with_name("argparse.py").read_bytes(), "argparse", "")
    texts = [f"{entry.query}. {entry.passage}" for entry in entries][:60]
    scores = project_backbone(builtin_backbone(), tmp_path / "nano", texts, layers=(0, 1), max_length=96)
    assert scores["variance"] > 0.75
    assert scores["layer 0"] > 0.8
    assert scores["layer 1"] > 0.8

    unseen = [
        "The river that runs past the old town freezes over in most winters.",
        "How do I read a large file line by line without loading it into memory?",
        "Returns the index of the first element for which the predicate holds, or minus one.",
    ]
    wide = _states(BertModel.from_pretrained(builtin_backbone()), builtin_backbone(), unseen, 96)
    student = BertForSequenceClassification.from_pretrained(tmp_path / "nano")
    slim = _states(student.bert, tmp_path / "nano", unseen, 96)
    agreement = torch.corrcoef(torch.stack([torch.pdist(wide[2]), torch.pdist(slim[2])]))[0, 1]
    assert agreement > 0.65
    # The control: the same weights with their words dealt out anew keep the distributions, not the states.
    words = student.bert.embeddings.word_embeddings.weight
    shuffled = words[torch.randperm(len(words), generator=torch.Generator().manual_seed(0))]
    student.bert.embeddings.word_embeddings.weight = torch.nn.Parameter(shuffled.detach())
    control = _states(student.bert, tmp_path / "nano", unseen, 96)
    chance = torch.corrcoef(torch.stack([torch.pdist(wide[2]), torch.pdist(control[2])]))[0, 1]
    assert chance < 0.5


def test_a_student_layer_stands_for_the_one_it_names(backbone: Path, tmp_path: Path) -> None:
    model = BertModel.from_pretrained(backbone)
    with torch.no_grad():
        model.embeddings.LayerNorm.bias.zero_()
        # Layer 0 now does nothing, so a student of layer 1 alone has all it needs, and one of layer 0 does not.
        for block in (model.encoder.layer[0].attention.output, model.encoder.layer[0].output):
            for parameter in (block.dense.weight, block.dense.bias, block.LayerNorm.bias):
                parameter.zero_()
    model.save_pretrained(tmp_path / "skipping")
    AutoTokenizer.from_pretrained(backbone).save_pretrained(tmp_path / "skipping")
    unseen = _texts(20, seed=2)
    expected = _states(model, backbone, unseen, 48)[2]
    explained = []
    for layer in (0, 1):
        settings = TINY | {"layers": (layer,)}
        scores = project_backbone(tmp_path / "skipping", tmp_path / "student", _texts(80, seed=1), **settings)
        assert list(scores) == ["variance", "embeddings", "layer 0"]
        student = BertForSequenceClassification.from_pretrained(tmp_path / "student")
        explained.append(_explained(_states(student.bert, backbone, unseen, 48)[1], expected))
    assert explained[1] > 0.999
    assert explained[0] < 0.9


def test_narrow_student_has_the_checkpoint_layout(backbone: Path, tmp_path: Path) -> None:
    shape = {"width": 16, "layers": (0, 1), "intermediate": 24}
    project_backbone(backbone, tmp_path / "student", _texts(40, seed=1), **shape)
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert (config["hidden_size"], config["num_attention_heads"], config["num_hidden_layers"]) == (16, 2, 2)
    assert (config["intermediate_size"], config["id2label"]) == (24, {"0": "LABEL_0"})
    assert (config["hidden_dropout_prob"], config["attention_probs_dropout_prob"]) == (0, 0)
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_same_texts_and_seed_give_the_same_bytes(backbone: Path, tmp_path: Path) -> None:
    def digests(seed: int) -> dict[str, str]:
        project_backbone(backbone, tmp_path / "student", _texts(40, seed=1), **TINY, seed=seed)
        files = sorted((tmp_path / "student").iterdir())
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    state = torch.get_rng_state()
    first = digests(seed=0)
    torch.rand(3)  # the caller's own generator must not matter
    assert digests(seed=0) == first
    assert digests(seed=1)["model.safetensors"] != first["model.safetensors"]
    torch.set_rng_state(state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 20}, "multiple of the head size 8"),
        ({"width": 64}, "at most 32"),
        ({"intermediate": 65}, "intermediate is 65, expected 1 to 64"),
        ({"layers": (1, 0)}, "rising numbers out of 0 to 1"),
        ({"layers": (0, 2)}, "rising numbers out of 0 to 1"),
        ({"layers": ()}, "rising numbers out of 0 to 1"),
        ({"texts": ["river"] * 10}, "10 texts with 27 tokens are too few"),
        ({"texts": []}, "0 texts with 0 tokens are too few"),
    ],
)
def test_bad_shapes_and_too_few_texts_are_refused(backbone: Path, tmp_path: Path, change: dict, message: str) -> None:
    settings = {"texts": _texts(40, seed=1)} | TINY | change
    with pytest.raises(InputError, match=message):
        project_backbone(backbone, tmp_path / "student", settings.pop("texts"), **settings)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_bert_is_refused(tmp_path: Path) -> None:
    config = DistilBertConfig(vocab_size=20, dim=8, n_layers=1, n_heads=1, hidden_dim=8)
    DistilBertModel(config).save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="is a distilbert model"):
        project_backbone(tmp_path / "other", tmp_path / "student", [], **TINY)
    with pytest.raises(InputError, match="can't be loaded"):
        project_backbone(tmp_path / "nowhere", tmp_path / "student", [], **TINY)

"""T5 encoders that rank: T5's own states, RankT5's prompt in every tokenizer's hands, and what starts from nothing."""

import json
import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import WORDS
from datasets import Dataset
from flashranker import Reranker
from sentence_transformers import CrossEncoder
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    T5TokenizerFast,
)

from export.artifact import stage_artifact
from export.cls_graph import export_first_token
from export.parity import encode_requests, torch_logits
from export.quantize import quantize_int8
from export.to_onnx import load_checkpoint
from training.data import InputError
from training.similarity_ranker import exact_match
from training.student import build_student, reads_apart
from training.t5_ranker import T5Ranker, T5RankerConfig
from training.t5_student import scratch_student, train_tokenizer
from training.teacher import open_teacher

TEXTS = [f"{WORDS[i]} {WORDS[(i * 7 + 3) % len(WORDS)]} Query: Document: {WORDS[(i * 5 + 1) % len(WORDS)]}"
         for i in range(len(WORDS))] * 3  # fmt: skip
INT8, FLOAT16 = onnx.TensorProto.INT8, onnx.TensorProto.FLOAT16
QUERY, PASSAGES = "python list sort", ["sort a list of bread", "river mountain " * 30, "solar panel engine", ""]


@pytest.fixture(scope="module")
def tokenizer() -> T5TokenizerFast:
    """A Unigram tokenizer as T5's are: one end-of-sequence token behind every text."""
    return train_tokenizer(TEXTS, size=120)


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory, tokenizer: T5TokenizerFast) -> Path:
    """A random T5 v1.1 with its decoder, weights wide enough that logits differ by whole units."""
    folder = tmp_path_factory.mktemp("t5")
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0, initializer_factor=2.0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def student(t5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student") / "t5"
    assert build_student(str(t5), folder) == f"3 layers of {t5}, with its own or a fresh head"
    return folder


def loaded(folder: Path) -> T5Ranker:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert isinstance(model, T5Ranker)
    return model


@torch.no_grad()
def test_the_logit_reads_the_first_of_t5s_own_states(t5: Path, student: Path, tokenizer: T5TokenizerFast) -> None:
    model, encoder = loaded(student), T5EncoderModel.from_pretrained(t5).eval()
    text = tokenizer(
        [f"Query: {QUERY} Document: {passage}" for passage in PASSAGES[:3]], padding=True, return_tensors="pt"
    )
    state = encoder(input_ids=text["input_ids"], attention_mask=text["attention_mask"]).last_hidden_state
    expected = model.classifier(state[:, 0])
    torch.testing.assert_close(model(**text).logits, expected, atol=1e-4, rtol=1e-5)
    assert expected.std() > 0.1


def test_every_tokenizer_of_the_folder_makes_rankt5s_prompt(
    student: Path, tokenizer: T5TokenizerFast, tmp_path: Path
) -> None:
    expected = tokenizer(f"Query: {QUERY} Document: {PASSAGES[0]}")["input_ids"]
    assert tokenizer.unk_token_id not in expected
    assert AutoTokenizer.from_pretrained(student)(QUERY, PASSAGES[0])["input_ids"] == expected
    staged = stage_artifact(
        student, export_first_token(student, tmp_path / "m.onnx").path, tmp_path / "staged", name="x", tier="medium",
        max_length=64,
    )  # fmt: skip
    ((pair,),) = encode_requests(staged, [(QUERY, [PASSAGES[0]])], 64)
    assert pair["input_ids"][0].tolist() == expected
    crossed = CrossEncoder(str(student)).tokenizer([QUERY], [PASSAGES[1]], truncation=True, max_length=20)["input_ids"]
    assert (len(crossed[0]), crossed[0][:3], crossed[0][-1]) == (20, expected[:3], tokenizer.eos_token_id)


@pytest.mark.parametrize("similar", [False, True])
def test_the_graph_gives_pytorchs_logits_at_every_length(similar: bool, student: Path, tmp_path: Path) -> None:
    checkpoint = student
    if similar:
        checkpoint = tmp_path / "scratch"
        build_student("scratch", checkpoint, texts=TEXTS)
    exported = export_first_token(checkpoint, tmp_path / "fp32.onnx")
    assert exported.first_token_only is not similar
    staged = stage_artifact(checkpoint, exported.path, tmp_path / "staged", name="x", tier="medium", max_length=400)
    # T5 tells distances apart up to 128 tokens: lengths on both sides of that, and of every smaller bucket.
    requests = [(QUERY, [" ".join((WORDS * 12)[:count]) for count in (1, 3, 8, 21, 55, 130, 144, 377)])]
    encoded = encode_requests(staged, requests, 400)
    (expected,) = torch_logits(load_checkpoint(checkpoint), encoded, progress=False)
    found = Reranker(staged, threads=1).score(*requests[0])
    assert np.abs(found - expected).max() < 1e-4
    assert expected.std() > 0.05


def test_int8_ranks_as_fp32(student: Path, tmp_path: Path) -> None:
    fp32 = export_first_token(student, tmp_path / "fp32.onnx").path
    staged = stage_artifact(student, fp32, tmp_path / "staged", name="x", tier="medium", max_length=64)
    requests = [
        (f"{WORDS[i]} {WORDS[i + 7]}",
         [" ".join(WORDS[(i + j * k) % len(WORDS)] for k in range(1, 3 + 2 * j)) for j in range(1, 9)])
        for i in range(24)
    ]  # fmt: skip
    encoded = encode_requests(staged, requests, 64)
    pairs = [pair for request in encoded for pair in request]
    ids = [query for query, passages in requests for _ in passages]
    result = quantize_int8(fp32, tmp_path / "int8.onnx", pairs, ids, limit_bytes=10**7, target_tau=0.95)
    assert result["reached"], result["rungs"]
    constants = onnx.load(tmp_path / "int8.onnx").graph.initializer
    matrices = [one for one in constants if len(one.dims) == 2 and min(one.dims) >= 32]
    stored = [one for one in matrices if one.data_type in (INT8, FLOAT16)]
    assert len(stored) == 3 * 7  # four attention and three feed-forward matrices a block


@torch.no_grad()
def test_chosen_layers_keep_the_table_of_positions(t5: Path, tmp_path: Path) -> None:
    build_student(str(t5), tmp_path / "all")
    build_student(str(t5), tmp_path / "two", layers=[1, 2])
    whole, two = loaded(tmp_path / "all"), loaded(tmp_path / "two")
    ids = torch.tensor([[7, 8, 9, 10, 11, 12, 1]])
    state = whole.shared(ids)
    bias = whole.encoder.block[0].layer[0].SelfAttention.compute_bias(7, 7)
    for block in whole.encoder.block[1:]:
        state = block(state, position_bias=bias)[0]
    two.classifier.load_state_dict(whole.classifier.state_dict())
    expected = whole.classifier(whole.encoder.final_layer_norm(state)[:, 0])
    torch.testing.assert_close(two(ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_the_texts_alone_decide_the_tokenizer() -> None:
    # A run that is resumed makes it again. The library's hash maps have another order each time, in one process too.
    assert len({tokenizer_hash() for _ in range(4)}) == 1
    assert tokenizer_hash("y") != tokenizer_hash()


def tokenizer_hash(letter: str = "e") -> str:
    # More characters than half of the vocabulary, all as frequent: which are kept must not be left to chance.
    many = ["".join(chr(0x4E00 + 7 * i + j) for j in range(7)) for i in range(20)]
    tokenizer = train_tokenizer([text.replace("e", letter) for text in TEXTS] + many, 150)
    return sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def test_common_words_are_one_piece_and_unknown_characters_are_no_word() -> None:
    texts = ["the metadata of a file"] * 50 + ["metadata between a window and the door"] * 20 + ["zebra", "quartz"]
    tokenizer = train_tokenizer(texts, 64)
    assert tokenizer.tokenize("The metadata of a file") == ["▁the", "▁metadata", "▁of", "▁a", "▁file"]
    assert "".join(tokenizer.tokenize("zebras")) == "▁zebras"
    assert tokenizer("窓").input_ids[-2:] == [tokenizer.unk_token_id, tokenizer.eos_token_id]
    assert len(tokenizer) <= 64
    assert tokenizer.tokenize("the\n\tmetadata") == ["▁the", "▁metadata"]
    sentence = "แม่น้ำกว้างและภูเขาสูงเปิดหน้าต่าง"
    assert max(map(len, train_tokenizer([sentence] * 20, 300).tokenize(sentence))) <= 16


@torch.no_grad()
def test_behind_closed_gates_a_pair_scores_as_its_texts_apart(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, tokenizer = scratch_student(TEXTS, tmp_path)
    model.eval()
    model.gate.fill_(-1e4)
    model.term_weight.copy_(torch.linspace(0, 3, len(tokenizer)))
    queries, passages = (
        tokenizer([QUERY], return_tensors="pt"),
        tokenizer(PASSAGES[:3], padding=True, return_tensors="pt"),
    )
    apart = model.score_apart(*queries.values(), *passages.values())[0]
    pairs = tokenizer([QUERY] * 3, PASSAGES[:3], padding=True, return_tensors="pt")
    together = model(**pairs).logits[:, 0]
    torch.testing.assert_close(together, apart, atol=2e-4, rtol=1e-4)
    model.gate.fill_(0.0)
    assert (model(**pairs).logits[:, 0] - apart).abs().max() > 0.01


@torch.no_grad()
def test_a_long_passage_is_discounted_whole(tmp_path: Path) -> None:
    model, _ = scratch_student(TEXTS, tmp_path)
    ids, weight = torch.tensor([[5]]), torch.ones(1, 1)
    for length in (30, 300, 512):
        passage = torch.full((1, length), 9)
        passage[0, 3] = 5
        found = float(exact_match(model, ids, weight, passage, torch.ones(1, length)))
        assert found == pytest.approx(16 / (1 + 0.9 * length / 300))


@torch.no_grad()
def test_a_text_is_as_near_to_itself_as_both_readings_weigh(tmp_path: Path) -> None:
    model, tokenizer = scratch_student(TEXTS, tmp_path)
    text = tokenizer([QUERY], return_tensors="pt")
    weight = model.term_weight[text["input_ids"]]
    exact = exact_match(model, text["input_ids"], weight, text["input_ids"], text["attention_mask"].float())
    # A cosine of 1 by sixteen from the means, and as much from late interaction.
    assert float(model.score_apart(*text.values(), *text.values()) - exact) == pytest.approx(32, abs=1e-3)
    found = sum("river" in one.split() for one in TEXTS)
    (river,) = tokenizer(["river"], add_special_tokens=False)["input_ids"][0]
    assert float(model.term_weight[river]) == pytest.approx(np.log(1 + (len(TEXTS) - found + 0.5) / (found + 0.5)))


@torch.no_grad()
def test_what_starts_from_nothing_starts_as_a_match_of_words(tmp_path: Path) -> None:
    build_student("scratch", tmp_path / "scratch", texts=TEXTS)
    assert reads_apart(tmp_path / "scratch")
    model = CrossEncoder(str(tmp_path / "scratch"), activation_fn=torch.nn.Identity())
    matching, shuffled = [], []
    for i in range(len(WORDS)):
        passage = " ".join(WORDS[(i + step) % len(WORDS)] for step in range(5))
        matching.append((WORDS[i], passage))
        shuffled.append((WORDS[(i + 17) % len(WORDS)], passage))
    assert (model.predict(matching) > model.predict(shuffled)).mean() > 0.95


def test_it_trains_and_teaches(student: Path, tmp_path: Path) -> None:
    from training.losses import DistillationLoss

    model = CrossEncoder(str(student), activation_fn=torch.nn.Identity(), max_length=32)
    loss = DistillationLoss(model, kl_weight=0.0, regression_weight=0.0, gold_weight=1.0, temperature=1.0)
    rows = Dataset.from_dict({"query": ["bread", "river"], "passages": [["bread water", "solar"], ["river", "engine"]]})
    labels = [torch.tensor([[0.0, 0.0], [1.0, 0.0]])] * 2
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    values = []
    for _ in range(12):
        value = sum(loss([list(rows["query"]), list(rows["passages"])], labels).values())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(float(value))
    assert values[-1] < 0.3 * values[0]
    assert open_teacher(str(student)).kind == "cross-encoder"


def test_a_checkpoint_without_the_encoder_is_refused(t5: Path, tokenizer: T5TokenizerFast, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((t5 / "config.json").read_text())
    weights = load_file(t5 / "model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if "block.2." not in name}, tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )  # fmt: skip
    with pytest.raises(InputError, match=r"lacks encoder\.block\.2\.layer\.0"):
        build_student(str(tmp_path), tmp_path / "student")


def test_other_t5s_and_tokenizers_without_an_end_are_refused(t5: Path, tmp_path: Path) -> None:
    for name, file, change, message in (
        ("umt5", "config.json", {"model_type": "umt5"}, "is a umt5: expected a T5, FLAN-T5 or mT5"),
        ("endless", "tokenizer_config.json", {"eos_token": None}, "has no eos_token: set it in tokenizer_config.json"),
    ):
        folder = shutil.copytree(t5, tmp_path / name)
        content = json.loads((folder / file).read_text(encoding="utf-8"))
        (folder / file).write_text(json.dumps(content | change), encoding="utf-8")
        (folder / "special_tokens_map.json").unlink()
        with pytest.raises(InputError, match=message):
            build_student(str(folder), tmp_path / "student")


def test_the_head_of_a_fresh_ranker_is_neither_zero_nor_left_to_chance() -> None:
    torch.manual_seed(3)
    first = T5Ranker(T5RankerConfig(vocab_size=40, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=4))
    assert 0.1 < float(first.classifier.weight.std()) < 0.5  # 16 ** -0.5 is a quarter
    assert float(first.classifier.bias) == 0.0

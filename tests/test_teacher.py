"""Teachers: parity with sentence-transformers, resuming, damage to the cache, teachers that are refused."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import WORDS
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import CrossEncoder, SentenceTransformer

from export.parity import encode_requests, torch_logits
from export.to_onnx import load_checkpoint
from training import teacher as teacher_module
from training.backbone import builtin_backbone, checked_backbone, resolve_model
from training.data import InputError, RankingData
from training.row_cache import cached_rows, text_key
from training.student import build_student
from training.teacher import encode_texts, open_teacher, query_encoder, score_pairs


def _sentence(generator: np.random.Generator, words: int) -> str:
    return " ".join(generator.choice(WORDS, size=words))


@pytest.fixture(scope="module")
def data() -> RankingData:
    generator = np.random.default_rng(3)
    queries = {f"q{number}": _sentence(generator, 4) for number in range(5)}
    passages = {f"p{number}": _sentence(generator, int(generator.integers(2, 40))) for number in range(40)}
    return RankingData("tiny", queries, passages, {}, {}, {}, "CC0-1.0")


@pytest.fixture(scope="module")
def pairs(data: RankingData) -> list[tuple[str, str]]:
    return [(query, passage) for passage in data.passages for query in data.queries]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every text or pair that a model is really asked for, in order; shards are small here."""
    asked: list[Any] = []

    def count(original: Any) -> Any:
        def call(self: Any, inputs: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
            asked.extend(inputs)
            return original(self, inputs, *args, **kwargs)

        return call

    monkeypatch.setattr(SentenceTransformer, "encode", count(SentenceTransformer.encode))
    monkeypatch.setattr(CrossEncoder, "predict", count(CrossEncoder.predict))
    monkeypatch.setattr(teacher_module, "SHARD_TEXTS", 16)
    monkeypatch.setattr(teacher_module, "CALL_TEXTS", 8)
    return asked


def test_bi_encoder_gives_twenty_times_the_cosine(
    bi_encoder: Path, data: RankingData, pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    model = SentenceTransformer(str(bi_encoder))
    model.max_seq_length = 24
    left = model.encode([data.queries[query] for query, _ in pairs], convert_to_tensor=True)
    right = model.encode([data.passages[passage] for _, passage in pairs], convert_to_tensor=True)
    expected = 20 * torch.nn.functional.cosine_similarity(left, right).numpy()
    found = score_pairs(str(bi_encoder), data, pairs, tmp_path, max_length=24)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(score_pairs(str(bi_encoder), data, pairs, tmp_path) - expected).max() > 0.1  # not cut at 24


def test_cross_encoder_gives_raw_logits(
    tiny_checkpoint: Path, data: RankingData, pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    model = CrossEncoder(str(tiny_checkpoint), max_length=32)
    texts = [(data.queries[query], data.passages[passage]) for query, passage in pairs]
    expected = model.predict(texts, activation_fn=torch.nn.Identity())
    saved = tmp_path / "saved"
    model.save_pretrained(str(saved))  # has a modules.json too, and must not pass for a bi-encoder
    for folder in (tiny_checkpoint, saved):
        found = score_pairs(str(folder), data, pairs, tmp_path / "cache", max_length=32)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert expected.min() < -0.5  # a sigmoid could not give this
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "architectures": ["BertForCausalLM"]}))
    assert open_teacher(str(saved)).kind == "cross-encoder"  # by what sentence-transformers noted down


def test_a_student_teaches_too(
    bi_encoder: Path, data: RankingData, pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    build_student(str(bi_encoder), tmp_path / "student")  # a head of this project, from the bi-encoder's similarity
    requests = [(query, list(data.passages.values())) for query in data.queries.values()]
    expected = torch_logits(load_checkpoint(tmp_path / "student"), encode_requests(tmp_path / "student", requests, 32))
    by_query = [(query, passage) for query in data.queries for passage in data.passages]
    found = score_pairs(str(tmp_path / "student"), data, by_query, tmp_path / "cache", max_length=32)
    np.testing.assert_allclose(found, np.concatenate(expected), atol=1e-4)
    assert found.std() > 0.1


def test_each_distinct_text_is_encoded_once_and_never_again(
    bi_encoder: Path, data: RankingData, pairs: list[tuple[str, str]], tmp_path: Path, counted: list[Any]
) -> None:
    first = score_pairs(str(bi_encoder), data, pairs, tmp_path)
    assert sorted(counted) == sorted([*data.queries.values(), *data.passages.values()])
    counted.clear()
    np.testing.assert_array_equal(score_pairs(str(bi_encoder), data, pairs, tmp_path), first)
    texts = [*data.passages.values(), *data.passages.values()]
    rows = encode_texts(str(bi_encoder), texts, tmp_path)
    assert counted == []
    np.testing.assert_array_equal(rows[:40], rows[40:])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    encode_texts(str(bi_encoder), texts, tmp_path, max_length=12)  # another fingerprint
    assert len(counted) == 40


@pytest.mark.parametrize("kind", ["bi_encoder", "tiny_checkpoint"])
def test_a_killed_run_goes_on_after_its_last_shard(
    kind: str,
    data: RankingData,
    pairs: list[tuple[str, str]],
    tmp_path: Path,
    counted: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    folder = str(request.getfixturevalue(kind))
    expected = score_pairs(folder, data, pairs, tmp_path / "whole")
    everything = list(counted)
    counted.clear()

    def killed(*args: Any, **kwargs: Any) -> Any:
        if len(counted) >= 24:  # in the middle of the second (bi-encoder: third, queries are the first) shard
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    name, owner = ("predict", CrossEncoder) if kind == "tiny_checkpoint" else ("encode", SentenceTransformer)
    original = getattr(owner, name)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        with pytest.raises(KeyboardInterrupt):
            score_pairs(folder, data, pairs, tmp_path / "killed")
    kept = sum(pq.read_metadata(path).num_rows for path in (tmp_path / "killed").rglob("*.parquet"))
    assert kept > 0
    for shard in list((tmp_path / "killed").rglob("*.parquet")):  # what kill -9 in the middle of a write leaves
        (shard.parent / "half.parquet.tmp").write_bytes(shard.read_bytes()[:100])
    counted.clear()
    np.testing.assert_allclose(score_pairs(folder, data, pairs, tmp_path / "killed"), expected, atol=1e-4)
    assert len(counted) == len(everything) - kept
    assert not list((tmp_path / "killed").rglob("*.tmp"))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied"])
def test_a_damaged_shard_is_computed_again(
    damage: str, bi_encoder: Path, data: RankingData, tmp_path: Path, counted: list[Any]
) -> None:
    texts = list(data.passages.values())
    expected = encode_texts(str(bi_encoder), texts, tmp_path)
    shard = sorted(tmp_path.rglob("*.parquet"))[0]
    rows = pq.read_metadata(shard).num_rows
    content = shard.read_bytes()
    half = len(content) // 2
    flipped = content[:half] + bytes([content[half] ^ 0x40]) + content[half + 1 :]
    shard.write_bytes({"truncated": content[:half], "flipped": flipped, "emptied": b""}[damage])
    counted.clear()
    encode_texts(str(bi_encoder), texts[:20], tmp_path)
    np.testing.assert_allclose(encode_texts(str(bi_encoder), texts, tmp_path), expected, atol=1e-5)
    assert len(counted) == rows
    assert sum(pq.read_table(path).num_rows for path in tmp_path.rglob("*.parquet")) == len(texts)
    counted.clear()
    encode_texts(str(bi_encoder), texts, tmp_path)
    assert counted == []


def test_a_query_alone_gets_the_queries_prompt_and_is_not_kept(
    bi_encoder: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    model = SentenceTransformer(str(bi_encoder), prompts={"query": "market falcon ", "document": "copper "})
    model.save_pretrained(str(tmp_path / "prompted"))
    text = " ".join(WORDS[:20])
    encode = query_encoder(str(tmp_path / "prompted"), 12)
    expected = encode_texts(str(tmp_path / "prompted"), [text], tmp_path / "kept", role="query", max_length=12)
    passage = encode_texts(str(tmp_path / "prompted"), [text], tmp_path / "kept", max_length=12)
    np.testing.assert_allclose(encode(text), expected, atol=1e-5)
    assert np.abs(expected - passage).max() > 0.01
    np.testing.assert_allclose(encode(text), encode(" ".join(WORDS[:15])), atol=1e-5)  # 12 tokens are read of both
    with pytest.raises(InputError, match="has no embeddings"):
        query_encoder(str(tiny_checkpoint))


def test_other_weights_are_another_teacher(bi_encoder: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(bi_encoder, tmp_path / "copy"))
    assert open_teacher(str(copy)).fingerprint == open_teacher(str(bi_encoder)).fingerprint
    (copy / "README.md").write_text("another card")
    assert open_teacher(str(copy)).fingerprint == open_teacher(str(bi_encoder)).fingerprint
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert open_teacher(str(copy)).fingerprint != open_teacher(str(bi_encoder)).fingerprint


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    keys = [text_key(str(number)) for number in range(3)]
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        cached_rows(tmp_path, keys, lambda missing: [(missing, np.ones((len(missing), 2)))])
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == []


def test_a_model_that_overflows_is_refused_and_not_kept(
    tiny_checkpoint: Path, data: RankingData, pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    model = CrossEncoder(str(tiny_checkpoint))
    model.model.classifier.bias.data.fill_(float("nan"))
    model.save_pretrained(str(tmp_path / "broken"))
    with pytest.raises(InputError, match="not finite"):
        score_pairs(str(tmp_path / "broken"), data, pairs, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.parquet"))


@given(st.lists(st.text(max_size=6), max_size=4), st.lists(st.text(max_size=6), max_size=4))
def test_keys_tell_apart_where_one_text_ends(left: list[str], right: list[str]) -> None:
    assert (text_key(*left) == text_key(*right)) == (left == right)
    joined = "".join(left)
    for cut in range(len(joined)):
        split = (joined[:cut], joined[cut:])
        assert text_key(*split) != text_key(joined[: cut + 1], joined[cut + 1 :])


def test_unusable_teachers_are_refused(data: RankingData, tiny_checkpoint: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for teacher, message in [
        (str(empty), "neither a cross-encoder .* nor a bi-encoder"),
        (str(tmp_path / "none.jsonl"), "no such file of scores"),
        (str(tmp_path / "nowhere"), "does not exist"),
        ("owner/not-on-this-machine", "'owner/not-on-this-machine' .*HF_HUB_OFFLINE is set"),
    ]:
        with pytest.raises(InputError, match=message):
            score_pairs(teacher, data, [("q1", "p1")], tmp_path)
    with pytest.raises(InputError, match="names the passage 'p99'"):
        score_pairs(str(tiny_checkpoint), data, [("q1", "p99")], tmp_path)
    with pytest.raises(InputError, match=r"cross-encoder.* has no embeddings"):
        encode_texts(str(tiny_checkpoint), ["text"], tmp_path)
    incomplete = tmp_path / "incomplete"
    incomplete.mkdir()
    (incomplete / "config.json").write_bytes((tiny_checkpoint / "config.json").read_bytes())
    with pytest.raises(InputError, match="can't be loaded"):
        score_pairs(str(incomplete), data, [("q1", "p1")], tmp_path)


def test_builtin_backbone_is_checked(tmp_path: Path) -> None:
    assert resolve_model("builtin") == builtin_backbone()
    assert open_teacher("builtin").kind == "bi-encoder"
    with pytest.raises(InputError, match=r"are missing: reinstall"):
        checked_backbone(tmp_path, "reinstall")
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(InputError, match=r"has sha256 .*, expected 53aa5117.*: reinstall"):
        checked_backbone(tmp_path, "reinstall")

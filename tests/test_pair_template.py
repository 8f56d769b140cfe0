"""Token types for a tokenizer of XLM-R's kind, and pairs of many scripts through every runtime that reads them."""

from pathlib import Path

import numpy as np
import pytest
from conftest import make_tokenizer
from flashranker import Reranker
from flashranker.pairs import frame_query, join, load_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from multilingual import MIXED, SENTENCES, make_multilingual_bi_encoder, make_unigram
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from export.artifact import stage_artifact
from export.cls_graph import export_first_token
from export.parity import encode_requests, torch_logits
from export.to_onnx import load_checkpoint
from recipes.rivals import SYSTEMS, Model
from training.pair_template import with_token_types
from training.student import build_student, reads_apart

texts = st.sampled_from([*SENTENCES.values(), MIXED]) | st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def test_a_pair_has_one_separator_between_its_texts_and_types_that_tell_them_apart() -> None:
    tokenizer = make_unigram()
    assert tokenizer("川", "山")["input_ids"].count(2) == 3
    made = with_token_types(tokenizer)
    river, mountain = (made(text, add_special_tokens=False)["input_ids"] for text in ("川", "山は"))
    found = made("川", "山は")
    assert found["input_ids"] == [0, *river, 2, *mountain, 2]
    assert found["token_type_ids"] == [0] * (len(river) + 2) + [1] * (len(mountain) + 1)
    assert made("川")["input_ids"] == tokenizer("川")["input_ids"]
    assert "token_type_ids" not in tokenizer("川", "山")  # what was given is left alone


def test_a_saved_tokenizer_still_makes_types(tmp_path: Path) -> None:
    with_token_types(make_unigram()).save_pretrained(tmp_path)
    found = AutoTokenizer.from_pretrained(tmp_path)(["川"], ["山"])
    assert found["token_type_ids"] == [[0] * 4 + [1] * 3]


def test_a_tokenizer_that_makes_types_is_left_as_it_is(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path)
    assert with_token_types(tokenizer) is tokenizer


def test_a_tokenizer_without_special_tokens_is_refused() -> None:
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(ValueError, match="no cls_token or no sep_token"):
        with_token_types(made)


@settings(max_examples=200, deadline=None)
@given(query=texts, passage=texts, max_length=st.sampled_from([24, 64]))
def test_the_runtime_reads_scripts_as_transformers_does(
    both: tuple[Tokenizer, PreTrainedTokenizerFast], query: str, passage: str, max_length: int
) -> None:
    ours, reference = both
    tokens = ours.encode(query, add_special_tokens=False).ids
    if not 0 < len(tokens) <= max_length * 3 // 4 - 3:  # refused, which has tests of its own
        return
    inputs, cut = join(ours, frame_query(ours, query, max_length), passage)
    expected = reference([query], [passage], truncation="only_second", max_length=max_length)
    assert {name: values.tolist() for name, values in inputs.items()} == dict(expected)
    assert cut == (len(reference([query], [passage])["input_ids"][0]) > max_length)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, PreTrainedTokenizerFast]:
    folder = tmp_path_factory.mktemp("tokenizer")
    made = with_token_types(make_unigram())
    made.save_pretrained(folder)
    return load_tokenizer(folder / "tokenizer.json"), made


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The student of a multilingual bi-encoder, and its fp32 folder."""
    folder = tmp_path_factory.mktemp("student")
    base, checkpoint = make_multilingual_bi_encoder(folder / "base"), folder / "checkpoint"
    build_student(str(base), checkpoint, texts=list(SENTENCES.values()))
    assert reads_apart(checkpoint)
    graph = export_first_token(checkpoint, folder / "model.onnx").path
    staged = stage_artifact(checkpoint, graph, folder / "artifact", name="large", tier="large", max_length=48)
    return Model("large", staged, checkpoint, 48)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_runtime_gives_pytorchs_logits_in_every_script(student: Model, system: str) -> None:
    passages, rank = [*SENTENCES.values(), MIXED], SYSTEMS[system](student, 1)
    for query in ("窓を開けて", "النهر واسع", "река 15 river"):
        expected = torch_logits(
            load_checkpoint(student.checkpoint), encode_requests(student.folder, [(query, passages)], 48), False
        )[0]
        assert np.ptp(expected) > 0.1
        if system == "flashrank":  # which answers with a sigmoid of its own
            expected = 1 / (1 + np.exp(-expected))
        assert rank(query, passages) == pytest.approx(expected, abs=2e-3)


def test_which_text_is_the_query_matters(student: Model) -> None:
    ranker = Reranker(student.folder)
    one, other = SENTENCES["ja"], "река широкая"
    assert abs(ranker.score(other, [one])[0] - ranker.score(one[:9], [other])[0]) > 1e-2

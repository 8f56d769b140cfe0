"""`Reranker`: the logits of PyTorch, the same bits whatever else is ranked, clear errors for bad input."""

import concurrent.futures
import copy
import logging
import math
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import WORDS, make_manifest
from flashranker import ArtifactError, InputError, ModelNotFoundError, Reranker
from flashranker.artifact import write_manifest
from flashranker.reranker import sigmoid
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer

PASSAGES = [" ".join((WORDS * 9)[start : start + 3 + start * 2]) for start in range(24)]
passages = st.lists(st.lists(st.sampled_from(WORDS), max_size=90).map(" ".join) | st.text(max_size=30), max_size=12)


@pytest.fixture(scope="module")
def ranker(tiny_artifact: Path) -> Reranker:
    return Reranker(tiny_artifact, threads=3)


@pytest.fixture(scope="module")
def single(tiny_artifact: Path) -> Reranker:
    return Reranker(tiny_artifact, threads=1)


def test_logits_are_those_of_the_torch_checkpoint(ranker: Reranker, tiny_checkpoint: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_checkpoint).eval()
    queries = ["python sort list", "coffee", "[SEP] дом 語?"]
    for query in queries:
        given = [*PASSAGES, "", "語本 дом [SEP] x"]
        options = {"truncation": "only_second", "max_length": 64, "padding": True, "return_tensors": "pt"}
        with torch.no_grad():
            expected = model(**tokenizer([query] * len(given), given, **options)).logits[:, 0].numpy()
        logits = ranker.score(query, given)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)
    assert np.ptp(expected) > 1  # a control: the passages do differ, by far more than the tolerance


@settings(max_examples=60, deadline=None)
@given(given=passages, seed=st.randoms(use_true_random=False))
def test_no_bit_depends_on_neighbours_order_or_threads(
    ranker: Reranker, single: Reranker, given: list[str], seed: Any
) -> None:
    alone = [single.score("solar panel", [text])[0] for text in given]
    together = ranker.score("solar panel", given)
    assert together.tobytes() == np.array(alone, dtype=np.float32).tobytes()
    order = list(range(len(given)))
    seed.shuffle(order)
    hits = ranker.rerank_many([("violin", PASSAGES[:3]), ("solar panel", [given[i] for i in order])])[1]
    assert {order[hit.index]: hit.logit for hit in hits} == {i: float(logit) for i, logit in enumerate(alone)}


def test_no_bit_depends_on_concurrent_callers(ranker: Reranker, single: Reranker) -> None:
    queries = [f"{word} river" for word in WORDS[:12]]
    expected = [single.score(query, PASSAGES).tobytes() for query in queries]
    with concurrent.futures.ThreadPoolExecutor(6) as callers:
        for _ in range(5):
            found = list(callers.map(lambda query: ranker.score(query, PASSAGES).tobytes(), queries))
            assert found == expected


def test_hits_are_the_calibrated_logits_best_first(ranker: Reranker) -> None:
    hits = ranker.rerank("garden water", PASSAGES)
    logits = ranker.score("garden water", PASSAGES)
    assert [hit.index for hit in hits] == sorted(range(24), key=lambda i: -logits[i])
    for hit in hits:
        assert hit.logit == logits[hit.index]
        assert hit.score == pytest.approx(1 / (1 + math.exp(-(1.5 * hit.logit - 0.25))), rel=1e-12)
        assert [type(value) for value in (hit.score, hit.logit, hit.index)] == [float, float, int]
        assert hit.passage is PASSAGES[hit.index]
    assert ranker.rerank("garden water", PASSAGES, top_n=5) == hits[:5]
    assert ranker.rerank("garden water", PASSAGES, top_n=99) == hits
    assert ranker.rerank_many([("garden water", PASSAGES), ("lock", [])], top_n=2) == [hits[:2], []]
    assert ranker.rerank("garden water", iter(PASSAGES)) == hits


def test_the_score_by_hand() -> None:
    # 1 / (1 + e^-2) = 0.8807970779778823; at -800 and 800, exp of the other sign would overflow.
    assert sigmoid(2.0) == pytest.approx(0.8807970779778823, abs=1e-15)
    assert sigmoid(-2.0) == pytest.approx(0.1192029220221177, abs=1e-15)
    assert (sigmoid(0.0), sigmoid(800.0), sigmoid(-800.0)) == (0.5, 1.0, 0.0)


def test_equal_logits_keep_the_order_given(ranker: Reranker) -> None:
    mixed = ["bread", "bridge", "bread", "bridge", "bread", "bridge", "bread"]
    order = [hit.index for hit in ranker.rerank("market", mixed)]
    assert order in ([0, 2, 4, 6, 1, 3, 5], [1, 3, 5, 0, 2, 4, 6])
    assert [hit.index for hit in ranker.rerank("market", ["bread"] * 50)] == list(range(50))


def test_mappings_come_back_untouched(ranker: Reranker) -> None:
    given = [{"id": i, "text": text, "meta": {"tags": []}} for i, text in enumerate(PASSAGES)]
    before = copy.deepcopy(given)
    hits = ranker.rerank("file read", given)
    assert given == before
    assert all(hit.passage is given[hit.index] for hit in hits)
    assert [hit.logit for hit in hits] == [hit.logit for hit in ranker.rerank("file read", PASSAGES)]


def test_cut_passages_are_marked_counted_and_logged_once(tiny_artifact: Path, caplog: pytest.LogCaptureFixture) -> None:
    ranker = Reranker(tiny_artifact, threads=2, max_length=16)
    # [CLS] lock queue [SEP] passage [SEP]: 5 tokens around, so 11 fit and the 12th is cut.
    given = ["time " * 11, "time " * 12, "", "time " * 40, "zebra zebra time"]  # z ##e ##b ##r ##a is 5: 11
    with caplog.at_level(logging.WARNING, logger="flashranker"):
        hits = ranker.rerank("lock queue", given)
        assert {hit.index for hit in hits if hit.truncated} == {1, 3}
        assert ranker.truncated_passages == 2
        ranker.score("lock queue", given)
    assert ranker.truncated_passages == 4
    assert [record.getMessage()[:23] for record in caplog.records] == ["2 of 5 passages were cu"]
    assert ranker.score("lock queue", given[:1]) == ranker.score("lock queue", given[1:2])


def test_a_query_is_never_cut(ranker: Reranker) -> None:
    # max_length 64 keeps 16 for the passage; [CLS] and two [SEP] leave 45 for the query.
    assert len(ranker.rerank("time " * 45, ["bread"])) == 1
    with pytest.raises(InputError, match="has 46 tokens, expected at most 45"):
        ranker.rerank("time " * 46, ["bread"])


@pytest.mark.parametrize(
    ("query", "given", "named"),
    [
        (None, ["a"], "query is None"),
        (b"a", ["a"], "query is of type bytes"),
        ("", ["a"], "query is empty"),
        (" \t\n\u3000", ["a"], "query is empty"),
        ("\x00", ["a"], "no token"),
        ("", [], "query is empty"),
        ("a", None, "passages is None"),
        ("a", "a passage", "passages is of type str"),
        ("a", {"text": "a"}, "passages is of type dict"),
        ("a", 3, "passages is of type int"),
        ("a", ["a", None], "passage 1 is None"),
        ("a", ["a", float("nan")], "passage 1 is of type float"),
        ("a", [{"text": "a"}, {"body": "a"}], 'passage 1 has no "text"'),
        ("a", [{"text": None}], 'passage 0\'s "text" is None'),
        ("a", [["a"]], "passage 0 is of type list"),
    ],
)
def test_bad_input_is_one_named_error_and_nothing_runs(
    ranker: Reranker, monkeypatch: pytest.MonkeyPatch, query: Any, given: Any, named: str
) -> None:
    ran: list[Any] = []
    monkeypatch.setattr(ranker, "_logit", ran.append)
    for call in (ranker.rerank, ranker.score):
        with pytest.raises(InputError, match=named) as caught:
            call(query, given)
        assert isinstance(caught.value, ValueError)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=named):
        ranker.rerank_many([("river", PASSAGES), (query, given)])
    assert ran == []


@pytest.mark.parametrize("requests", [None, "ab", {"a": ["b"]}, [("a",)], ["ab"], [None]])
def test_requests_are_pairs(ranker: Reranker, requests: Any) -> None:
    with pytest.raises(InputError, match=r"requests is|request 0 is"):
        ranker.rerank_many(requests)


def test_settings_out_of_bounds_are_named(ranker: Reranker, tiny_artifact: Path) -> None:
    for top_n in (0, -1, 1.0, True, "3"):
        with pytest.raises(InputError, match=f"top_n is {top_n!r}, expected an integer of 1 or more"):
            ranker.rerank("a", ["a"], top_n=top_n)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="top_n is of 16610 bits, expected an integer of 1 or more"):
        ranker.rerank("a", ["a"], top_n=-(10**5000))
    for threads in (0, False, 1.5):
        with pytest.raises(InputError, match="threads is"):
            Reranker(tiny_artifact, threads=threads)  # type: ignore[arg-type]
    for max_length in (15, 65, "64"):
        with pytest.raises(InputError, match="expected an integer from 16 to 64"):
            Reranker(tiny_artifact, max_length=max_length)  # type: ignore[arg-type]
    with pytest.raises(ModelNotFoundError, match="no/such-model"):
        Reranker("no/such-model")
    with pytest.raises(InputError, match="model is None"):
        Reranker(None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="model is ''"):
        Reranker("")


def test_hostile_text_is_ranked(ranker: Reranker) -> None:
    replaced = ["a\ufffdb", "\U0001f600", "\ufffd" * 3]
    hostile = ["a\ud800b", "\ud83d\ude00", "\udfff" * 3]
    assert ranker.score("time", hostile).tolist() == ranker.score("time", replaced).tolist()
    assert ranker.rerank("time \udfff", hostile)[0].passage in hostile
    odd = ["\x00", "\x00bread", "\x1b[31m\r\n", "\u202e\ufeff", "e\u0301" * 20, "x" * 500, "bread " * 170_000]
    logits = ranker.score("time", odd)
    assert np.isfinite(logits).all()
    assert logits[6] == ranker.score("time", ["bread " * 100])[0]  # 1 MB, cut to the same tokens


def test_a_model_that_gives_nan_is_an_error_not_a_rank(tiny_artifact: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_artifact, tmp_path / "nan")
    model = onnx.load(folder / "onnx/model.onnx")
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "classifier.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([np.nan], dtype=np.float32), bias.name))
    onnx.save(model, folder / "onnx/model.onnx")
    write_manifest(folder, make_manifest(folder))
    with pytest.raises(ArtifactError, match="expected one finite logit"):
        Reranker(folder, threads=1)


def test_an_error_in_one_pair_reaches_the_caller_and_the_ranker_goes_on(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranker = Reranker(tiny_artifact, threads=2)
    expected = ranker.score("time", PASSAGES).tolist()

    def failing(inputs: dict[str, np.ndarray]) -> float:
        raise ArtifactError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(ranker, "_logit", failing)
        with pytest.raises(ArtifactError, match="planted"):
            ranker.score("time", PASSAGES * 20)
    assert ranker.score("time", PASSAGES).tolist() == expected


def test_as_many_pairs_run_at_once_as_there_are_threads(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranker = Reranker(tiny_artifact, threads=3)
    meeting, run = threading.Barrier(3, timeout=20), ranker._logit
    inside: list[None] = []
    most = []

    def meet(inputs: dict[str, np.ndarray]) -> float:
        inside.append(None)
        most.append(len(inside))
        meeting.wait()  # breaks unless three pairs are in here together
        inside.pop()
        return run(inputs)

    monkeypatch.setattr(ranker, "_logit", meet)
    with concurrent.futures.ThreadPoolExecutor(3) as callers:  # all calls share the three
        list(callers.map(lambda word: ranker.score(word, ["bread"] * 6), WORDS[:3]))
    assert max(most) == 3


def test_the_longest_pairs_of_all_requests_run_first(single: Reranker, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths, run = [], single._logit

    def note(inputs: dict[str, np.ndarray]) -> float:
        lengths.append(inputs["input_ids"].shape[1])
        return run(inputs)

    monkeypatch.setattr(single, "_logit", note)
    single.rerank_many([("time", ["bread", "bread " * 30]), ("time", ["bread " * 20, "", "bread " * 40])])
    assert lengths == [44, 34, 24, 5, 4]

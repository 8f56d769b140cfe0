"""The dense first stage: exact, the same for every order and company, prompts in front, and what it is called."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import WORDS, write_data
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from recipes.evaluate import main as evaluate
from recipes.search import SearchConfig, first_stage_of
from training import dense
from training.candidates import FirstStage, find_candidates, name_first_stage
from training.data import InputError, RankingData
from training.dense import ROUGH, dense_run, nearest
from training.first_stage import bm25_run, fuse
from training.teacher import score_pairs


@pytest.fixture(scope="module")
def data() -> RankingData:
    """40 passages, of which p07, p23 and p31 have one text, and five queries."""
    draw = np.random.default_rng(4)
    passages = {f"p{i:02}": " ".join(draw.choice(WORDS, size=int(draw.integers(3, 20)))) for i in range(40)}
    passages |= dict.fromkeys(("p31", "p07", "p23"), "violin garden winter copper")
    queries = {f"q{i}": " ".join(draw.choice(WORDS, size=3)) for i in range(4)} | {"q4": "violin garden winter"}
    return RankingData("tiny", queries, passages, {}, {}, {}, "CC0-1.0")


def with_prompts(bi_encoder: Path, folder: Path, prompts: dict[str, str]) -> str:
    """The bi-encoder with these prompts in its configuration."""
    shutil.copytree(bi_encoder, folder)
    file = folder / "config_sentence_transformers.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | {"prompts": prompts}), encoding="utf-8")
    return str(folder)


def by_hand(bi_encoder: Path, data: RankingData, before: tuple[str, str] = ("", "")) -> dict[str, dict[str, float]]:
    """All passages by cosine, the texts with something in front, by sentence-transformers alone."""
    model = SentenceTransformer(str(bi_encoder))
    left, right = (
        model.encode([text + one for one in texts.values()], normalize_embeddings=True).astype(np.float64)
        for text, texts in zip(before, (data.queries, data.passages), strict=True)
    )
    cosines = (left @ right.T).tolist()
    return {query: dict(zip(data.passages, row, strict=True)) for query, row in zip(data.queries, cosines, strict=True)}


def test_the_search_is_exact_and_best_first(bi_encoder: Path, data: RankingData, tmp_path: Path) -> None:
    run = dense_run(data, ["q3", "q0"], str(bi_encoder), tmp_path, depth=10)
    expected = by_hand(bi_encoder, data)
    assert list(run) == ["q3", "q0"]
    for query, found in run.items():
        ordered = sorted(expected[query].values(), reverse=True)[:10]
        assert list(found.values()) == pytest.approx(ordered, abs=1e-6)
        assert found == pytest.approx({passage: expected[query][passage] for passage in found}, abs=1e-6)
        assert list(found.values()) == sorted(found.values(), reverse=True)


def test_equal_passages_are_in_order_of_id_and_neither_order_nor_company_counts(
    bi_encoder: Path, data: RankingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = dense_run(data, data.queries, str(bi_encoder), tmp_path, depth=12)
    same = [passage for passage in run["q4"] if passage in ("p07", "p23", "p31")]
    assert same == ["p07", "p23", "p31"]
    assert len({run["q4"][passage] for passage in same}) == 1
    turned = RankingData("tiny", data.queries, dict(reversed(data.passages.items())), {}, {}, {}, "CC0-1.0")
    assert dense_run(turned, data.queries, str(bi_encoder), tmp_path, depth=12) == run
    monkeypatch.setattr(dense, "BLOCK", 80)  # two queries at once
    assert dense_run(data, data.queries, str(bi_encoder), tmp_path, depth=12) == run
    for query in data.queries:
        assert dense_run(data, [query], str(bi_encoder), tmp_path, depth=12) == {query: run[query]}


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 45))
def test_nearest_is_the_head_of_a_full_sort_whatever_float32_made_of_it(seed: int, passages: int, depth: int) -> None:
    draw = np.random.default_rng(seed)
    rows = draw.integers(-2, 3, size=(passages, 3)).astype(np.float32)  # many are equal
    query = np.array([0.5, 0.25, 0.125], dtype=np.float32)
    exact = (rows.astype(np.float64) @ query.astype(np.float64)).tolist()
    rough = (np.array(exact) + draw.uniform(-ROUGH, ROUGH, passages)).astype(np.float32)
    expected = sorted(range(passages), key=lambda i: (-exact[i], i))[:depth]
    assert list(nearest(query, rows, rough, depth).items()) == [(i, exact[i]) for i in expected]


@pytest.mark.parametrize("name", ["document", "passage", "corpus"])
def test_the_prompts_of_a_folder_stand_in_front(bi_encoder: Path, data: RankingData, tmp_path: Path, name: str) -> None:
    model = with_prompts(bi_encoder, tmp_path / "e5", {"query": "river ", name: "coffee market "})
    run = dense_run(data, data.queries, model, tmp_path / "cache", depth=40)
    expected, plain = by_hand(bi_encoder, data, ("river ", "coffee market ")), by_hand(bi_encoder, data)
    for query, found in run.items():
        assert found == pytest.approx(expected[query], abs=1e-6)
    assert run["q0"] != pytest.approx(plain["q0"], abs=1e-2)
    # What a teacher of the same folder says rests on the same embeddings.
    logits = score_pairs(model, data, [("q0", "p00"), ("q0", "p01")], tmp_path / "cache")
    assert logits == pytest.approx([20 * expected["q0"]["p00"], 20 * expected["q0"]["p01"]], abs=1e-4)


def test_given_prompts_take_the_place_of_the_folders(bi_encoder: Path, data: RankingData, tmp_path: Path) -> None:
    both = with_prompts(bi_encoder, tmp_path / "e5", {"query": "river ", "passage": "coffee market "})
    for model, prompts in ((str(bi_encoder), ("river ", "coffee market ")), (both, ("date ", ""))):
        # One cache for all: texts with another prompt are other rows.
        dense_run(data, data.queries, model, tmp_path / "cache", depth=40)
        run = dense_run(data, data.queries, model, tmp_path / "cache", depth=40, prompts=prompts)
        expected = by_hand(bi_encoder, data, prompts)
        assert {query: pytest.approx(cosines, abs=1e-6) for query, cosines in expected.items()} == run


def test_each_first_stage_gives_its_own_candidates(bi_encoder: Path, data: RankingData, tmp_path: Path) -> None:
    own = RankingData("own", data.queries, data.passages, {}, {"q0": ["p05", "p01", "p09"]}, {}, "CC0-1.0")
    words = {query: list(scores) for query, scores in bm25_run(data, data.queries, 6).items()}
    meanings = {query: list(cosines) for query, cosines in dense_run(
        data, data.queries, str(bi_encoder), tmp_path, 6).items()}  # fmt: skip
    assert words != meanings

    def find(source: RankingData, method: str | None, depth: int = 6) -> dict[str, list[str]]:
        stage = FirstStage(method, str(bi_encoder), None, 128, tmp_path)  # type: ignore[arg-type]
        return find_candidates(source, list(data.queries), depth, stage)

    assert find(own, None, 2) == {"q0": ["p05", "p01"], "q1": [], "q2": [], "q3": [], "q4": []}
    assert find(data, None) == find(own, "bm25") == words
    assert find(own, "dense") == meanings
    for query, found in find(own, "both").items():
        assert found == list(fuse([words[query], meanings[query]]))[:6]


def test_a_first_stage_is_called_what_it_is(data: RankingData) -> None:
    own = RankingData("own", data.queries, data.passages, {}, {"q0": ["p05"]}, {}, "CC0-1.0")
    names = [name_first_stage(own, FirstStage(method)) for method in (None, "bm25", "dense", "both")]
    assert names == ["candidates.tsv", "BM25", "dense (builtin)", "BM25 and dense (builtin), reciprocal rank fusion"]
    assert name_first_stage(data, FirstStage()) == "BM25"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"retriever": "folder"}, "--retriever is given, and no dense first stage: add --first_stage dense, or both"),
        ({"first_stage": "bm25", "retriever_prompts": ["a", "b"]}, "--retriever_prompts is given, and no dense"),
        ({"first_stage": "dense", "retriever_prompts": ["query: "]}, "--retriever_prompts has 1 texts, expected two"),
        ({"first_stage": "both", "retriever_length": 3}, "--retriever_length is 3: expected 16 or more"),
        ({"first_stage": "dense", "retriever": "no/such/model"}, "no/such/model"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(InputError) as error:
        first_stage_of(SearchConfig(**settings), tmp_path)
    assert message in str(error.value)


def test_a_cross_encoder_does_not_retrieve(tiny_checkpoint: Path, data: RankingData, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^retriever .* \(cross-encoder\) has no embeddings: pass a bi-encoder"):
        first_stage_of(SearchConfig(first_stage="dense", retriever=str(tiny_checkpoint)), tmp_path)
    with pytest.raises(InputError, match="dense depth is 0; give 1 or more"):
        dense_run(data, ["q0"], "builtin", tmp_path, depth=0)
    with pytest.raises(InputError, match="unknown query id 'q9'"):
        dense_run(data, ["q9"], "builtin", tmp_path)


def test_an_evaluation_ranks_what_the_chosen_first_stage_found(bi_encoder: Path, tmp_path: Path) -> None:
    ids = [f"d{i}" for i in range(20)]
    folder = write_data(tmp_path / "set", {"q0": {"d3": 1}, "q1": {"d5": 1}}, {"q0": ids, "q1": ids[::-1]})
    options = ["--first_stage", "dense", "--retriever", str(bi_encoder), "--retriever_prompts", "river ", ""]
    places = ["--data", str(folder), "--cache", str(tmp_path / "cache"), "--output", str(tmp_path / "out")]
    assert evaluate([str(bi_encoder), *places, *options, "--depth", "5", "--threads", "1"]) == 0
    found = json.loads((tmp_path / "out/evaluate.json").read_text(encoding="utf-8"))
    assert found["data"]["set"]["first stage"] == f"dense ({bi_encoder})"
    assert found["data"]["set"]["pairs"] == 10
    lines = (tmp_path / "out/runs/set.first-stage.trec").read_text(encoding="utf-8").splitlines()
    texts = {kind: {one["id"]: one["text"] for one in map(json.loads, (folder / kind).read_text().splitlines())}
             for kind in ("queries.jsonl", "corpus.jsonl")}  # fmt: skip
    data = RankingData("set", texts["queries.jsonl"], texts["corpus.jsonl"], {}, {}, {}, "")
    for query, cosines in by_hand(bi_encoder, data, ("river ", "")).items():
        expected = sorted(cosines, key=lambda passage: -cosines[passage])[:5]
        assert [line.split()[2] for line in lines if line.split()[0] == query] == expected

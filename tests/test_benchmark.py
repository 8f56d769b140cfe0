"""The benchmark: every rival loads our folder unchanged and agrees with us; its arithmetic by hand."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import WORDS
from flashranker import Reranker

from recipes import benchmark
from recipes.rivals import SYSTEMS, Model, Worker
from recipes.starts import milliseconds, spread
from training.data import RankingData

QUERY = "python sort list"
PASSAGES = [" ".join((WORDS * 3)[start : start + 3 + start * 2]) for start in range(12)]


@pytest.fixture(scope="module")
def model(tiny_artifact: Path, tiny_checkpoint: Path) -> Model:
    return Model("nano", tiny_artifact, tiny_checkpoint, 64)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_rival_loads_our_folder_unchanged_and_agrees(system: str, model: Model) -> None:
    before = {path: path.stat().st_mtime_ns for path in model.folder.rglob("*")}
    found = SYSTEMS[system](model, 1)(QUERY, PASSAGES)
    expected = Reranker(model.folder, threads=1).score(QUERY, PASSAGES)
    if system == "flashrank":  # it knows no raw logits
        expected = 1 / (1 + np.exp(-expected))
    np.testing.assert_allclose(found, expected, atol=1e-3, rtol=0)
    assert np.ptp(expected) > 0.1
    assert {path: path.stat().st_mtime_ns for path in model.folder.rglob("*")} == before


def test_a_worker_ranks_in_its_own_process_and_names_what_fails(model: Model, tmp_path: Path) -> None:
    worker = Worker("flashranker", model, 1)
    answer = worker.run([(QUERY, PASSAGES), (QUERY, PASSAGES[:2])], callers=2)
    worker.close()
    expected = Reranker(model.folder, threads=1).score(QUERY, PASSAGES)
    assert answer["scores"][0].tolist() == expected.tolist()
    assert answer["scores"][1].tolist() == expected[:2].tolist()
    assert answer["seconds"] > 0
    with pytest.raises(RuntimeError, match="flashranker: ModelNotFoundError: no artifact folder"):
        Worker("flashranker", Model("nano", tmp_path / "absent", tmp_path, 64), 1)


def test_the_ideal_by_hand(model: Model) -> None:
    # Words of WORDS are one token each; [CLS] and two [SEP] come with them: 7 and 10 tokens.
    given = ["bread", "bread time water coffee"]
    per_token = 4 * 128 * 128 + 2 * 128 * 512
    expected = 2 * ((7 + 10) * per_token + 2 * (49 + 100) * 128)
    assert benchmark.ideal_ms(model, QUERY, given, rate=1e6) == pytest.approx(expected / 1e3)


def test_ratios_and_agreement_by_hand() -> None:
    systems = {"flashranker": {"median": 20.0}, "flashrank": {"median": 50.0}}
    assert benchmark.ratios({"nano": {"mixed": systems}}, "mixed") == {"nano": {"flashranker": 1.0, "flashrank": 2.5}}
    ours = np.array([0.1, 3.0, -2.0, 7.0])
    assert benchmark.agreement(ours, 1 / (1 + np.exp(-ours))) == 1.0
    assert benchmark.agreement(ours, -ours) == -1.0
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "low": 1.0, "high": 3.0}


def test_a_start_ends_with_the_first_result_and_not_with_the_process() -> None:
    began = time.monotonic()
    taken = milliseconds(
        "import atexit, time; atexit.register(time.sleep, 1); time.sleep(0.2); print('no line', end='')"
    )
    assert 200 <= taken <= 1000 * (time.monotonic() - began) - 1000
    with pytest.raises(RuntimeError, match="no such thing"):
        milliseconds("raise ValueError('no such thing')")


def test_the_processors_instructions_by_hand(tmp_path: Path) -> None:
    described = tmp_path / "cpuinfo"
    described.write_text("model name : One avx2000\nflags\t\t: fpu avx2 avx512_vnni avx512f\nflags : fpu\n")
    assert benchmark.instructions(described) == ["avx2", "avx512f", "avx512_vnni"]
    assert benchmark.instructions(tmp_path / "none") == []


def test_workloads_are_what_their_names_say() -> None:
    passages = {f"p{i}": f"{WORDS[i % 30]} common {i} " + "word " * 30 for i in range(300)}
    queries = {f"q{i}": f"common {WORDS[i % 30]} {i}" for i in range(60)}
    judgments = {query: {"p1": 1} for query in queries}
    data = RankingData("planted", queries, passages, judgments, {}, {"test": list(queries)}, "none")
    workloads = benchmark.make_workloads(data)
    ((_, mixed),) = workloads["mixed"]
    ((_, short),) = workloads["short"]
    assert (len(mixed), len(short)) == (100, 10)
    assert all(len(passage.split()) == 15 for passage in short)
    assert [len(given) for _, given in workloads["callers"]] == [10] * 8
    assert len({query for query, _ in workloads["callers"]}) == 8
    assert len(set(mixed)) == 100  # drawn from all 300, not the first ones
    assert not {" ".join(passages[f"p{i}"].split()) for i in range(100, 300)}.isdisjoint(map(str.strip, mixed))
    lists = {query: [f"p{i}" for i in range(150, 270)] for query in queries}
    ranked = benchmark.make_workloads(replace(data, candidates=lists))
    assert ranked["mixed"] == [("common " + WORDS[0] + " 0", [passages[f"p{i}"] for i in range(150, 250)])]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--models", "giant"], "--models giant: expected some of nano, six, twelve"),
        (["--turns", "0"], "--turns and --starts must be 1 or more"),
        (["--models", "nano", "--data", "no/such/folder"], "no/such/folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    options: list[str], message: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(benchmark, "make_model", lambda name, cache: Model(name, tmp_path, tmp_path, 64))
    assert benchmark.main(options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1

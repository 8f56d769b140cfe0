"""The command line: the hits of the library, JSON for programs, and exit 2 with one line for bad input."""

import json
import logging
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import WORDS
from flashranker import Cascade, Reranker
from flashranker.cli import main

PASSAGES = [f"{word} {other}" for word in WORDS[:4] for other in WORDS[6:9]]


def test_passages_of_a_query_come_best_first(
    tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "passages.jsonl"
    # A JSON string, an object, plain text, and plain text that happens to be JSON or to begin like it.
    plain = ["42", "[1]", "[1] time", "{ time }", "{% if time %}"]
    lines = [json.dumps(PASSAGES[0]), json.dumps({"text": PASSAGES[1], "id": 7}), PASSAGES[2], "", *plain]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    given = [PASSAGES[0], {"text": PASSAGES[1], "id": 7}, PASSAGES[2], *plain]
    hits = Reranker(tiny_artifact).rerank("time", given)
    options = ["rerank", str(tiny_artifact), str(file), "--query", "time"]
    assert main(options) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [int(row.split()[1]) for row in rows] == [hit.index for hit in hits]
    assert [row.split()[0] for row in rows] == [f"{hit.score:.4f}" for hit in hits]
    assert main([*options, "--json", "--top-n", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["query"] == "time"
    assert [(hit["index"], hit["logit"], hit["passage"]) for hit in found["hits"]] == [
        (hit.index, hit.logit, hit.passage) for hit in hits[:2]
    ]


def test_requests_come_from_standard_input_as_a_process(tiny_artifact: Path) -> None:
    requests = [{"query": word, "passages": PASSAGES} for word in ("time", "water")]
    command = [sys.executable, "-m", "flashranker", "rerank", str(tiny_artifact), "--json"]
    given = "\n".join(json.dumps(request) for request in requests)
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=True)
    ranker = Reranker(tiny_artifact)
    for line, request in zip(done.stdout.splitlines(), requests, strict=True):
        hits = ranker.rerank(request["query"], PASSAGES)
        assert [hit["index"] for hit in json.loads(line)["hits"]] == [hit.index for hit in hits]


def test_two_models_are_a_cascade(tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "passages.jsonl"
    file.write_text("\n".join(PASSAGES), encoding="utf-8")
    options = ["--query", "time", "--keep", "3", "--json", "--max-length", "16"]
    assert main(["rerank", f"{tiny_artifact},{tiny_artifact}", str(file), *options]) == 0
    ranker = Reranker(tiny_artifact, max_length=16)
    hits = Cascade([ranker, ranker], keep=3).rerank("time", PASSAGES)
    assert [hit["index"] for hit in json.loads(capsys.readouterr().out)["hits"]] == [hit.index for hit in hits]


def test_a_missing_extra_of_serve_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.delitem(sys.modules, "flashranker.server.command", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "anything"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.endswith('pip install "flashranker[server]"\n')


def run_command(*arguments: object, given: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "flashranker", *map(str, arguments)]
    return subprocess.run(
        command, input=given, capture_output=True, encoding="utf-8", timeout=60, env=os.environ | environment
    )


def test_the_file_may_come_behind_the_options(
    tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "passages.jsonl"
    file.write_text("\n".join([*PASSAGES, "[" * 200_000, '"lone \\ud800"']), encoding="utf-8")
    assert main(["rerank", str(tiny_artifact), "--query", "time", str(file), "--top-n", "99", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["hits"]) == len(PASSAGES) + 2
    for files in ([str(file), "another"], ["-", str(file)]):
        with pytest.raises(SystemExit, match="2"):
            main(["rerank", str(tiny_artifact), files[0], "--query", "time", files[1]])
        assert "unrecognized arguments" in capsys.readouterr().err


@pytest.mark.parametrize("dash", [["-"], []])
def test_standard_input_is_the_default_and_a_dash_behind_options(tiny_artifact: Path, dash: list[str]) -> None:
    # What the output's encoding lacks, and half an emoji, are written as numbers.
    given = '"read \\ud83d"\n"river \u6cb3 bread"\n'
    done = run_command("rerank", tiny_artifact, "--query", "bread", *dash, given=given, PYTHONIOENCODING="cp1252")
    assert (done.returncode, done.stderr) == (0, "")
    texts = sorted(line.split("  ")[-1] for line in done.stdout.splitlines())
    assert texts == ["read \\ud83d", "river \\u6cb3 bread"]


def test_closed_streams_are_one_line_or_silence(tiny_artifact: Path) -> None:
    for closed, status, error in (
        ("<&-", 2, "error: standard input is closed, expected passages or requests there: name a FILE\n"),
        (">&-", 2, "error: standard output is closed, expected one for the results: redirect it to a file\n"),
        ("2>&-", 2, ""),
    ):
        command = f"{sys.executable} -m flashranker rerank {tiny_artifact} --query time {closed}"
        given = "" if closed == "2>&-" else '"bread"\n'
        if closed == "2>&-":
            command = command.replace("--query time", "--query ' '")
        done = subprocess.run(["bash", "-c", command], input=given, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (status, "", error)


def test_bench_times_three_lengths(tiny_artifact: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", str(tiny_artifact), "--passages", "30", "--json", "--threads", "1"]) == 0
    assert logging.getLogger("flashranker").level == logging.NOTSET  # as it was
    shown = capsys.readouterr()
    assert "were cut" not in shown.err
    results = json.loads(shown.out)
    assert [result["passages"] for result in results] == ["short", "medium", "full length"]
    for result in results:
        assert (result["threads"], result["count"], result["turns"]) == (1, 30, 5)
        assert 0 < result["fastest ms"] <= result["median ms"] <= result["slowest ms"]


@pytest.mark.parametrize(
    ("options", "content", "named"),
    [
        (["--query", "time"], b'{"body": "bread"}\n', "passages.jsonl:1: the object has no string"),
        (["--query", "time"], b'{"id": 1, "text": "bre\n', "passages.jsonl:1: no whole JSON ("),
        (["--query", "time"], b'bread\n["bread",\n"water"]\n', "jsonl:2: no whole JSON ("),
        (["--query", "time"], b'[\n{"text": "bread"}\n]\n', "passages.jsonl:1: no whole JSON ("),
        (["--query", "time"], b'[{"text": "bread"}]\n', "passages.jsonl:1: a JSON array, expected one passage a line"),
        (["--query", "time"], b"bread\n\xff\n", "passages.jsonl:2: byte 0 is not UTF-8"),
        (["--query", "time"], b'{"text": "bread", "price": NaN}\n', "jsonl:1: no whole JSON (NaN is no finite"),
        (["--query", "time"], b'{ "text": "bread", "price": 1e999 }\n', "jsonl:1: no whole JSON (1e999 is no finite"),
        ([], b'{"query": "time", "passages": [{"text": "a", "p": Infinity}]}\n', "jsonl:1: not JSON (Infinity is"),
        (["--query", " "], b"bread\n", "the query is empty"),
        (["--query", "time", "--top-n", "0"], b"bread\n", "top_n is 0"),
        ([], b"bread\n", "passages.jsonl:1: not JSON"),
        ([], b'{"query": "time"}\n', 'passages.jsonl:1: expected an object with "query" and "passages"'),
        ([], b'{"query": "time", "passages": [3]}\n', "passages.jsonl:1: passage 0 is of type int"),
        (["--threads", "0", "--query", "time"], b"bread\n", "threads is 0"),
        (["--keep", "3", "--query", "time"], b"bread\n", "--keep 3 with one model"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture, options: list[str], content: bytes, named: str
) -> None:
    file = tmp_path / "passages.jsonl"
    file.write_bytes(content)
    assert main(["rerank", str(tiny_artifact), str(file), *options]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert named in found.err
    assert found.err.startswith("error: ")
    assert found.err.count("\n") == 1


def test_a_word_that_only_python_reads_as_a_number_is_a_passage(
    tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "names.txt").write_text("NaN\n")
    assert main(["rerank", str(tiny_artifact), str(tmp_path / "names.txt"), "--query", "bread", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hits"][0]["passage"] == "NaN"


def test_half_a_cascade_is_refused(tiny_artifact: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["rerank", f"{tiny_artifact},", "-", "--query", "bread"]) == 2
    assert "names an empty model, expected MODEL,MODEL for a cascade" in capsys.readouterr().err


def test_a_folder_with_a_comma_in_its_name_is_one_model(
    tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = shutil.copytree(tiny_artifact, tmp_path / "large,v2")
    (tmp_path / "passages").write_text("bread\n")
    assert main(["rerank", str(folder), str(tmp_path / "passages"), "--query", "time"]) == 0
    assert capsys.readouterr().out.endswith("bread\n")


@pytest.mark.parametrize("library", ["numpy", "onnxruntime", "tokenizers"])
def test_an_interrupt_is_no_traceback_whatever_is_being_loaded(
    tiny_artifact: Path, tmp_path: Path, library: str
) -> None:
    (tmp_path / f"{library}.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)", encoding="utf-8")
    ended = run_command("verify", tiny_artifact, given="", PYTHONPATH=str(tmp_path))
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")


def buffered() -> dict[str, str]:
    """The environment of a process that writes when it has much to write, as it does unless told otherwise."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def test_an_interrupt_takes_no_answer_that_was_given(tiny_artifact: Path) -> None:
    command = [sys.executable, "-m", "flashranker", "rerank", str(tiny_artifact)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=buffered(), **pipes) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b'{"query": "time", "passages": ["bread"]}\n')
        process.stdin.flush()
        given, _, _ = select.select([process.stdout], [], [], 60)
        process.send_signal(signal.SIGINT)
        answer, errors = process.communicate()
    assert (process.returncode, errors) == (-signal.SIGINT, b"")
    assert given
    assert re.fullmatch(rb"# time\n\d\.\d{4}     0  bread\n", answer)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here, which is always full")
def test_a_full_disk_is_one_line_with_a_remedy(tiny_artifact: Path) -> None:
    command = [sys.executable, "-m", "flashranker", "info", str(tiny_artifact)]
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, encoding="utf-8", check=False, env=buffered()
        )
    expected = "error: No space left on device, expected room for the results: free space, or write them elsewhere\n"
    assert (ended.returncode, ended.stderr) == (2, expected)


def test_bench_times_passages_that_it_has_not_read_before(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(Reranker, "score", lambda self, query, texts: read.extend(texts))
    assert main(["bench", str(tiny_artifact), "--passages", "3"]) == 0
    assert len(read) == len(set(read)) == 3 * 3 * 6  # three lengths, five turns and a warm-up


def test_a_table_or_no_file_at_all_is_named(tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "passages.CSV").write_text("id,text\n1,bread\n", encoding="utf-8")
    for name, said in (
        ("passages.CSV", "is a table, expected a JSON object, a JSON string or a plain text a line"),
        ("none.jsonl", "No such file or directory, expected a file: correct the path"),
        (".", "Is a directory, expected a file: correct the path"),
    ):
        assert main(["rerank", str(tiny_artifact), str(tmp_path / name), "--query", "time"]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {tmp_path / name}")
        assert said in error


def test_bench_of_no_passages_is_refused(tiny_artifact: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", str(tiny_artifact), "--passages", "-5"]) == 2
    assert capsys.readouterr().err.startswith("error: --passages is -5, expected an integer of 1 or more")


def test_foreign_is_no_way_around_the_manifest(
    tiny_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "passages").write_text("bread\n", encoding="utf-8")
    changed, other = (shutil.copytree(tiny_artifact, tmp_path / name) for name in ("changed", "other"))
    (other / "flashranker.json").unlink()
    options = [str(tmp_path / "passages"), "--query", "time", "--foreign"]
    assert main(["rerank", f"{tiny_artifact},{other}", *options]) == 0  # each as what it is
    (changed / "onnx/model.onnx").write_bytes(b"")
    assert main(["rerank", f"{changed},{other}", *options]) == 2
    assert "model.onnx has 0 bytes, expected " in capsys.readouterr().err


def test_a_missing_model_or_file_is_named(tiny_artifact: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["rerank", "no/such/model", "--query", "time"]) == 2
    assert "no/such/model" in capsys.readouterr().err
    assert main(["rerank", str(tiny_artifact), "no/such/file", "--query", "time"]) == 2
    assert "no/such/file" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error(tiny_artifact: Path) -> None:
    command = f"{sys.executable} -m flashranker rerank {tiny_artifact} --json | head -n 1"
    given = "\n".join(json.dumps({"query": "time", "passages": PASSAGES}) for _ in range(300))
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], input=given, capture_output=True, text=True, env=dict(os.environ)
    )
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr

"""The README's and docs/numbers.md's numbers are those of recipes/results, and a result is what the manifest says."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flashranker.artifact import read_manifest, write_manifest

from recipes import numbers
from recipes.rivals import SYSTEMS
from recipes.summary import summary


def test_the_pages_have_the_numbers_of_the_results() -> None:
    results = numbers.read_results()
    assert numbers.numbers(results) in numbers.PAGE.read_text(encoding="utf-8")
    assert summary(results, numbers.MANY_SETS) in numbers.README.read_text(encoding="utf-8")
    headings = set(re.findall(r"^## (.+)$", numbers.PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    for page in (numbers.README, *numbers.PAGE.parent.glob("*.md")):
        linked = re.findall(r"numbers\.md#([\w-]+)", page.read_text(encoding="utf-8"))
        assert set(linked) <= headings, page


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in (numbers.README, *numbers.PAGE.parent.glob("*.md"), numbers.README.parent / "runtime/README.md"):
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            path, _, anchor = target.partition("#")
            if path.startswith("http"):
                continue
            other = page.parent / path if path else page
            assert other.exists(), f"{page.name} links to {target}"
            if anchor and other.suffix == ".md":
                titles = re.findall(r"^#+ (.+)$", other.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
                assert anchor in anchors, f"{page.name} links to {target}"


@pytest.fixture
def measured(tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An artifact with figures, and a README and results of its own."""
    folder = shutil.copytree(tiny_artifact, tmp_path / "tiny")
    value = {"mean": 0.51234, "low": 0.4, "high": 0.6, "queries": 40}
    gate = {"name": "size", "value": 3.25, "limit": 5.0, "unit": "MB", "passed": False, "message": "too large"}
    stated: dict[str, Any] = {
        "command": "python -m recipes.distill", "notices": ["Below its first stage."],
        "metrics": {
            stage: {"nDCG@10": value, "MRR@10": value | {"mean": 0.25}} for stage in ("int8", "teacher")
        } | {"first stage": {"nDCG@10": value | {"mean": 0.4567}, "MRR@10": value}},
        "gates": [gate, gate | {"name": "int8 - first stage, nDCG@10", "value": 0.0556, "limit": 0.0,
                                "message": "not below the limit; 95 % interval -0.0012 to +0.1234"},
                  gate | {"name": "student - base, nDCG@10", "value": 0.01,
                          "message": "not below the limit; 95 % interval -0.0050 to +0.0250"}],
        "lineage": {"data": {"name": "planted", "read": {"apart": 1024, "together": 8},
                             "dev MRR@10 by step": [[0, 0.25], [1500, 0.5]]},
                    "chosen on": {"name": "others"}, "measured on": {"name": "held out"},
                    "run": {"seconds": 210.4, "peak memory in MB": 1234}},
        "quantization": {"rung": "dynamic int8", "fp32_layers": []},
        "parity": {"queries": 40, "pairs": 2000,
                   "milliseconds for 100 passages": {
                       backend: {"median": 99.6, "low": 90.0, "high": 120.4} for backend in ("fp32", "int8", "torch")}},
    }  # fmt: skip
    write_manifest(folder, replace(read_manifest(folder), **stated))
    monkeypatch.setattr(numbers, "RESULTS", tmp_path / "results")
    for name in ("README", "PAGE"):
        monkeypatch.setattr(numbers, name, tmp_path / f"{name}.md")
        page = f"before\n{numbers.START}\nold\n{numbers.END}\nafter\n"
        (tmp_path / f"{name}.md").write_text(page, encoding="utf-8")
    return folder


def test_an_artifact_becomes_a_result_and_a_section(measured: Path) -> None:
    assert numbers.main([str(measured)]) == 0
    text = numbers.PAGE.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{numbers.START}\n")
    assert text.endswith(f"{numbers.END}\nafter\n")
    assert "old" not in text
    for row in (
        "Trained on `planted` (apart 1,024, together 8), chosen on `others`, measured on 40 held-out queries",
        "MRR@10 on dev by step: 0.2500 at 0, 0.5000 at 1,500.",
        "3.5 minutes from data to artifact and 1,234 MB",
        "| int8 | 40 | 0.5123 (0.4000 to 0.6000) | 0.2500 (0.4000 to 0.6000) |",
        "| int8 ONNX, runtime | 100 (90 to 120) |",
        "| size | 3.25 MB | 5 | FAIL | too large |",
        "Below its first stage.",
    ):
        assert row in text
    assert text.index("| teacher |") < text.index("| int8 |")
    assert text.split("\n")[3:7] == ["## distill-tiny", "", "```", "python -m recipes.distill"]
    size = f"{(measured / 'onnx/model.onnx').stat().st_size / 1e6:.1f}"
    row = "| planted | held out (40) | 0.457 | 0.512 | +0.056 (-0.0012 to +0.1234) | +0.010 (-0.0050 to +0.0250) |"
    assert f"| [distill-tiny](docs/numbers.md#distill-tiny) {row} {size} | 100 |" in numbers.README.read_text()
    result = json.loads((numbers.RESULTS / "distill-tiny.json").read_text(encoding="utf-8"))
    assert result["model_bytes"] == (measured / "onnx/model.onnx").stat().st_size


def test_a_benchmark_and_a_cascade_become_sections_by_hand(measured: Path) -> None:
    def spread(median: float) -> dict[str, float]:
        return {"median": median, "low": median - 1, "high": median + 1}

    times = dict(zip(SYSTEMS, (20.0, 50.0, 90.0, 40.0, 60.0), strict=True))
    starts = {system: {"first result ms": spread(10 * t), "import ms": spread(t)} for system, t in times.items()}
    speed = {"nano": {"mixed": {system: spread(t) for system, t in times.items()}}}
    systems = {system: {"peak MB": 300.4} for system in SYSTEMS} | {"flashrank": {"failed": "killed"}}
    memory = {"command": "python -m recipes.memory", "systems": systems,
              "settings": {"passages": "1000", "model": "twelve", "limit": "16000"}}  # fmt: skip
    machine = {"threads": 2, "instructions": ["avx2", "avx_vnni"]}
    benchmark = {"command": "python -m recipes.benchmark", "machine": machine,
                 "speed": speed, "ideal ms, mixed": {"nano": 16.0}, "starts": starts,
                 "settings": {"output": "recipes/results/benchmark.json", "picture": "docs/benchmark.svg"}}  # fmt: skip
    older = benchmark | {"machine": {"threads": 4, "instructions": ["avx2"]}}
    quality = {"MRR@10": {"mean": 0.5, "low": 0.4, "high": 0.6}, "nDCG@10": {"mean": 0.7, "low": 0.6, "high": 0.8}}
    cascade = {"command": "python -m recipes.cascade", "queries": 100, "settings": {"data": "pydocs", "depth": "50"},
               "points": {"slow": {"ms": spread(9.0), **quality}, "fast": {"ms": spread(2.5), **quality}}}  # fmt: skip
    numbers.RESULTS.mkdir()
    (numbers.RESULTS / "benchmark.json").write_text(json.dumps(benchmark))
    (numbers.RESULTS / "benchmark-older.json").write_text(json.dumps(older))
    (numbers.RESULTS / "cascade.json").write_text(json.dumps(cascade))
    (numbers.RESULTS / "memory.json").write_text(json.dumps(memory))
    speeds = {"apart": spread(300.0), "stock": spread(20.0), "together": spread(30.0)}
    training = {"command": "python -m recipes.training_speed", "machine": machine,
                "settings": {"length": 128, "turns": 5, "neighbours": 32}, "pairs per second": speeds}  # fmt: skip
    (numbers.RESULTS / "training_speed.json").write_text(json.dumps(training))
    assert numbers.main([]) == 0
    text = numbers.PAGE.read_text(encoding="utf-8")
    for row in (
        "| nano, mixed | 20.0 (19.0 to 21.0) | 2.50x | 4.50x | 2.00x | 3.00x |",
        "| nano, ms from process start to first result | 200 (199 to 201) | 2.50x | 4.50x | 2.00x | 3.00x |",
        "| flashranker | 300 |",
        "| flashrank | more than that: failed |",
        "for `mixed`: nano 1.25.",
        "| together | 30.0 (29.0 to 31.0) | 1.50 |",
        "2 cores (avx2, avx_vnni), turn by turn",
        "4 cores (avx2), turn by turn",
        "[recipes/results/benchmark.json](../recipes/results/benchmark.json).",
        "(benchmark.svg)",
        "| fast | 2.5 (1.5 to 3.5) | 0.5000 (0.4000 to 0.6000) | 0.7000 (0.6000 to 0.8000) |",
    ):
        assert row in text
    assert text.index("| fast |") < text.index("| slow |")  # in the order of their time
    assert "| [nano](docs/numbers.md#benchmark) | avx_vnni | 2.5 | 4.5 | 2.0 | 3.0 |" in numbers.README.read_text()
    assert "| [nano](docs/numbers.md#benchmark-older) | avx2 | 2.5 | 4.5 | 2.0 | 3.0 |" in numbers.README.read_text()


def test_a_folder_that_is_no_artifact_changes_nothing(measured: Path, capsys: pytest.CaptureFixture) -> None:
    before = numbers.README.read_text(encoding="utf-8")
    for folder in (measured.parent, measured.parent / "none"):
        assert numbers.main([str(folder)]) == 2
        assert capsys.readouterr().err.startswith("error: ")
    assert numbers.README.read_text(encoding="utf-8") == before


def test_an_evaluation_becomes_a_result_without_single_queries_and_a_section(measured: Path) -> None:
    def row(mean: float, **minus: dict[str, float]) -> dict[str, Any]:
        return {
            "mean": mean,
            "low": mean - 0.1,
            "high": mean + 0.1,
            "minus": minus,
            "by query": {"q1": mean, "q2": mean},
        }

    won = {"difference": 0.2, "low": 0.1, "high": 0.3, "p": 0.01, "p (Holm)": 0.02, "better": 5, "worse": 1}
    rows = {
        measure: {"first stage": row(0.5), "int8": row(0.7) | {"minus": {"first stage": won}}}
        for measure in ("nDCG@10", "MAP")
    }
    data = {"queries": 8, "pairs": 1600, "depth": 200, "first stage": "BM25", "notes": ["A note."], "measures": rows}
    folder = measured.parent / "zero-shot"
    folder.mkdir()
    content = {"command": "python -m recipes.evaluate", "data": {"planted": data}}
    (folder / "evaluate.json").write_text(json.dumps(content), encoding="utf-8")
    assert numbers.main([str(folder)]) == 0
    kept = (numbers.RESULTS / "evaluate-zero-shot.json").read_text(encoding="utf-8")
    assert "q1" not in kept
    assert json.loads(kept)["data"]["planted"]["measures"]["MAP"]["int8"]["minus"]["first stage"] == won
    text = numbers.PAGE.read_text(encoding="utf-8")
    for line in (
        "`planted`: 8 queries, 1,600 candidates, the first 200 a query of BM25. A note.",
        "| int8 | 8 | 0.7000 (0.6000 to 0.8000) | 0.7000 (0.6000 to 0.8000) |",
        "| int8 - first stage | nDCG@10 | +0.2000 (+0.1000 to +0.3000) | 0.0100 | 0.0200 | 5 / 2 / 1 |",
    ):
        assert line in text
    assert "| int8 - first stage | MAP |" not in text
    short = "| [evaluate-zero-shot](docs/numbers.md#evaluate-zero-shot) | planted (8) | int8 | 0.500 | 0.700 |"
    assert f"{short} +0.200 (+0.100 to +0.300) |" in numbers.README.read_text()

    content["data"] = {f"set{number}": data | {"queries": 10 + number} for number in range(5)}
    (folder / "evaluate.json").write_text(json.dumps(content), encoding="utf-8")
    assert numbers.main([str(folder)]) == 0
    text = numbers.PAGE.read_text(encoding="utf-8")
    assert "nDCG@10, the first 200 a query of BM25." in text
    assert "| set3 | 13 | 0.5000 | 0.7000 | +0.2000 (+0.1000 to +0.3000) |" in text
    assert "better / alike / worse" not in text
    assert "evaluate-zero-shot" not in numbers.README.read_text()

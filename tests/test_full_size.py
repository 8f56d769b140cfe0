"""What large tiers cost: a random T5 goes the whole way through recipes.export; the table by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_distill import write_corpus

from recipes import full_size


def test_a_random_t5_is_exported_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"vocab_size": 600, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    monkeypatch.setattr(full_size, "T5", shape | {"feed_forward_proj": "gated-gelu"})
    monkeypatch.setattr(full_size, "PIECES", 200)
    corpus, output = write_corpus(tmp_path / "corpus"), tmp_path / "out.json"
    places = ["--data", str(corpus), "--cache", str(tmp_path / "cache"), "--output", str(output)]
    assert full_size.main(["--tiers", "medium", *places]) == 0
    found = json.loads(output.read_text())["tiers"]["medium"]
    folder = ".medium-int8.staging" if found["refused"] else "medium-int8"
    model = tmp_path / "cache/full_size" / folder / "onnx/model.onnx"
    assert found["MB"] == model.stat().st_size / 1e6
    assert 0 < found["parity"]["fp32 largest difference"] < 1e-4
    assert found["quantization"]["last layer"] == "first token only"
    assert found["run"]["peak memory in MB"] > 100


def test_an_unknown_tier_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert full_size.main(["--tiers", "medium", "huge"]) == 2
    assert "--tiers huge: expected some of small, large, medium" in capsys.readouterr().err


def test_the_table_by_hand() -> None:
    times = {"torch": {"median": 900.0}, "int8": {"median": 300.0, "low": 290.0, "high": 320.0}}
    tier: dict[str, Any] = {
        "MB": 110.26, "parity": {"fp32 largest difference": 3.21e-6, "milliseconds for 100 passages": times},
        "run": {"seconds": 150.0, "peak memory in MB": 3456}, "refused": "",
        "gates": [
            {"name": "size", "value": 110.26, "limit": 112.0, "passed": True},
            {"name": "int8 Kendall tau", "value": 0.97895, "limit": 0.98, "passed": False},
            {"name": "int8 - first stage, MRR@10", "value": -0.3, "limit": 0.0, "passed": False},
        ],
    }  # fmt: skip

    def last_line(refused: str) -> str:
        content = {"command": "c", "settings": {"data": "d"}, "tiers": {"medium": tier | {"refused": refused}}}
        return full_size.full_size_section(content).splitlines()[-1]

    assert last_line("") == "| medium | 110.3 | 3e-06 | 300 (290 to 320) | 3.00x | 2.5 | 3,456 |"
    assert last_line("why") == "`medium` was refused: int8 Kendall tau is 0.979, limit 0.98."

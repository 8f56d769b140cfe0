"""Profiles: which processors sum exactly, and which models ask those that do not for another kernel."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from flashranker import Reranker, loading, session
from flashranker.artifact import MANIFEST_NAME, list_files, read_manifest, write_manifest
from flashranker.processor import _PRODUCT, DOT_PRODUCT, PORTABLE, saturates

from export.card import make_card


def flags() -> set[str]:
    path = Path("/proc/cpuinfo")
    found = re.search(r"^flags\s*:(.*)$", path.read_text(), re.MULTILINE) if path.exists() else None
    if not found:
        pytest.skip("needs Linux on x86-64, whose /proc/cpuinfo names what the processor can do")
    return set(found[1].split())


def test_the_product_is_a_valid_graph_that_sums_in_32_bits() -> None:
    onnx.checker.check_model(onnx.load_from_string(_PRODUCT))
    session = onnxruntime.InferenceSession(_PRODUCT, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    a, b = random.integers(0, 255, (5, 32)).astype(np.uint8), random.integers(-60, 60, (32, 7)).astype(np.int8)
    assert np.array_equal(session.run(None, {"a": a, "b": b})[0], a.astype(int) @ b.astype(int))


def test_a_processor_saturates_unless_it_has_vnni() -> None:
    assert saturates() == (not flags() & {"avx512_vnni", "avx_vnni", "amx_int8"})


def test_only_weights_that_may_saturate_ask_for_wide_sums(
    tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, opened = [], session._open

    def open_watched(path: Path, wide_sums: bool) -> onnxruntime.InferenceSession:
        asked.append(wide_sums)
        return opened(path, wide_sums)

    monkeypatch.setattr(session, "_open", open_watched)
    folder, bare = (shutil.copytree(tiny_artifact, tmp_path / name) for name in ("artifact", "bare"))
    (bare / MANIFEST_NAME).unlink()
    manifest = read_manifest(folder)
    for saturating in (True, False):
        monkeypatch.setattr(loading, "saturates", lambda saturating=saturating: saturating)
        for quantization in ({}, {"profile": PORTABLE}, {"profile": DOT_PRODUCT}):
            write_manifest(folder, replace(manifest, quantization=quantization, files=list_files(folder)))
            Reranker(folder)
        Reranker(bare, foreign=True)
    assert asked == [False, False, True, True, False, False, False, False]


def test_wide_sums_are_an_option_of_the_session(tiny_artifact: Path) -> None:
    for wide in (False, True):
        opened = session._open(tiny_artifact / "onnx/model.onnx", wide)
        try:
            found = opened.get_session_options().get_session_config_entry(session.WIDE_SUMS)
        except RuntimeError:  # what onnxruntime says of an entry that is not set
            found = "0"
        assert found == str(int(wide))


def test_the_card_names_the_processors(tiny_artifact: Path) -> None:
    manifest = read_manifest(tiny_artifact)
    for profile, needed in ((PORTABLE, False), (DOT_PRODUCT, True)):
        card = make_card(replace(manifest, quantization={"profile": profile}))
        assert ("other runtimes give wrong scores" in card) == needed

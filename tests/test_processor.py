"""Profiles: what a processor may run, and what an export for one of them may write."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from flashranker import ArtifactError, Reranker
from flashranker.artifact import list_files, read_manifest, write_manifest
from flashranker.processor import _PRODUCT, DOT_PRODUCT, PORTABLE, require_exact, saturates

from export.card import make_card
from recipes import settings
from recipes.distill import main as distill


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


def test_a_model_is_refused_where_its_sums_saturate(tmp_path: Path) -> None:
    for profile, saturating in ((PORTABLE, True), (PORTABLE, False), (DOT_PRODUCT, False)):
        require_exact(profile, saturating, tmp_path)
    with pytest.raises(ArtifactError, match="int8 sums saturate: expected one with VNNI"):
        require_exact(DOT_PRODUCT, True, tmp_path)
    with pytest.raises(ArtifactError, match="is of the profile 'sme', expected portable or dot-product: upgrade"):
        require_exact("sme", False, tmp_path)


def test_the_manifest_says_what_is_asked_of_the_processor(tiny_artifact: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_artifact, tmp_path / "artifact")
    manifest = read_manifest(folder)
    for profile in (DOT_PRODUCT, "sme"):
        write_manifest(folder, replace(manifest, quantization={"profile": profile}, files=list_files(folder)))
        if profile == DOT_PRODUCT and not saturates():
            assert len(Reranker(folder).score("a", ["b"])) == 1
        else:
            with pytest.raises(ArtifactError, match="profile"):
                Reranker(folder)
    for profile, needed in ((PORTABLE, False), (DOT_PRODUCT, True)):
        card = make_card(replace(manifest, quantization={"profile": profile}))
        assert ("other runtimes give wrong scores" in card) == needed


def test_a_profile_that_cannot_be_measured_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(settings, "saturates", lambda: True)  # a processor that is not at hand
    assert distill(["--profile", "dot-product", "--data", "nowhere", "--output", str(tmp_path / "artifact")]) == 2
    assert "--profile dot-product can't be measured here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

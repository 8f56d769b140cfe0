"""The tier of a hundred languages through the recipes: a multilingual bi-encoder, and a vocabulary trimmed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from flashranker import Reranker
from flashranker.artifact import read_manifest
from multilingual import SENTENCES, make_multilingual_bi_encoder
from test_distill import distil  # noqa: F401  a fixture
from transformers import AutoTokenizer

from recipes.finetune import main as finetune
from recipes.settings import MeasuringConfig, TrainingConfig
from recipes.stages import kept_languages, make_workspace
from training.load import load
from training.prepare import Held, make_examples
from training.tiers import TIERS

# Queries are the words of a passage, and all but the first language is read from right to left or without spaces.
NOUNS = {
    "en": ["river", "mountain", "window", "letter", "door", "winter"],
    "ar": ["النهر", "الجبل", "النافذة", "الرسالة", "الباب", "الشتاء"],
    "ja": ["川", "山", "窓", "手紙", "ドア", "冬"],
}


def write_multilingual(folder: Path) -> Path:
    """72 passages of four nouns in one of three languages, each with a query of two of them."""
    folder.mkdir()
    passages, queries, splits = [], [], {"train": [], "dev": [], "test": []}
    for number in range(72):
        nouns = list(NOUNS.values())[number % 3]
        chosen = [nouns[(number // 3 + step) % 6] for step in (0, 1, 2 + number // 18, 3)]
        joined = "" if number % 3 == 2 else " "
        passages.append({"id": f"p{number}", "text": f"{joined.join(chosen)} {number}"})
        queries.append({"id": f"q{number}", "text": f"{joined.join(chosen[:2])} {number}"})
        splits["train" if number < 36 else "dev" if number < 54 else "test"].append(f"q{number}\tp{number}\t1")
    for name, records in (("corpus", passages), ("queries", queries)):
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    for split, rows in splits.items():
        (folder / f"qrels.{split}.tsv").write_text("\n".join(["query\tpassage\tgrade", *rows, ""]), encoding="utf-8")
    return folder


def test_a_multilingual_base_becomes_an_artifact_with_a_trimmed_vocabulary(tmp_path: Path) -> None:
    base, data = make_multilingual_bi_encoder(tmp_path / "base", 0.05), write_multilingual(tmp_path / "data")
    output = tmp_path / "artifact"
    status = finetune([
        "--data", str(data), "--base", str(base), "--tier", "large", "--output", str(output),
        "--cache", str(tmp_path / "cache"), "--languages", "en", "ar", "ja", "--trim_vocabulary", "--gate", "report",
        "--max_length", "48", "--train_length", "48", "--depth", "6", "--candidates", "4", "--neighbours", "6",
        "--threads", "1", "--int8_tau", "0.999",
    ])  # fmt: skip
    assert status == 0
    manifest = read_manifest(output)
    assert manifest.tier == "large"
    tokenizer, whole = AutoTokenizer.from_pretrained(output), AutoTokenizer.from_pretrained(base)
    assert len(tokenizer) < len(whole)
    for code in ("en", "ar", "ja"):
        found, expected = (one.tokenize(SENTENCES[code]) for one in (tokenizer, whole))
        assert found == expected
    scores = Reranker(output).score("川山", ["川山窓手紙 1", "النهر الجبل", "door winter"])
    assert len(set(scores.tolist())) == 3
    assert manifest.lineage["languages"] == ["en", "ar", "ja"]
    assert f"{len(tokenizer):,} of its" in manifest.lineage["base"]["start"]
    assert manifest.quantization["embedding_bits"] == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trim_vocabulary"], "no language is named"),
        (["--trim_vocabulary", "--languages", "en", "klingon"], "language 'klingon' is not known"),
    ],
)
def test_languages_are_checked_before_any_work(
    distil: Callable[..., int],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    options: list[str],
    message: str,
) -> None:
    assert distil(tmp_path / "artifact", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "artifact").exists()


def test_other_languages_make_another_workspace_only_where_they_trim(tmp_path: Path, calm_checkpoint: Path) -> None:
    data = load(write_multilingual(tmp_path / "data"))
    examples = make_examples(
        data, None, tmp_path, queries=8, depth=6, candidates=3, random_share=1.0, teacher_length=32,
        seed=0,
    )  # fmt: skip

    query = data.splits["dev"][0]
    few, more = (Held(data, {query: list(data.passages)[:count]}) for count in (2, 3))

    def workspace(languages: list[str], trim: bool, dev: Held = few) -> Path:
        settings = {"tier": "large", "base": str(calm_checkpoint), "languages": languages, "trim_vocabulary": trim}
        return make_workspace(settings, tmp_path, data, dev, examples)

    assert workspace(["en"], False) == workspace(["ja"], False)
    assert workspace(["en"], True) != workspace(["ja"], True)
    assert workspace(["en"], False) != workspace(["en"], False, more)
    whole = kept_languages(MeasuringConfig(languages=["en"]), TrainingConfig())
    assert (whole, kept_languages(MeasuringConfig(languages=["en"]), TrainingConfig(trim_vocabulary=True))) == (
        [],
        ["en"],
    )


def test_the_english_backbone_is_no_base_of_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = write_multilingual(tmp_path / "data")
    assert finetune(["--tier", "large", "--data", str(data), "--output", str(tmp_path / "out")]) == 2
    assert "expected --base intfloat/multilingual-e5-small" in capsys.readouterr().err
    assert TIERS["large"].limit_megabytes == 150

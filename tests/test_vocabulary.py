# ruff: noqa: RUF001, RUF003  letters of other alphabets are meant
"""A trimmed vocabulary gives the same pieces in its languages, and the model the same logits."""

import json
import os
from pathlib import Path

import pytest
import regex
import torch
from conftest import make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from multilingual import MIXED, SENTENCES, make_multilingual_bi_encoder, make_unigram
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

from training.data import InputError
from training.student import build_student
from training.vocabulary import SCRIPTS, kept_pieces, scripts_of, trim_tokenizer

REAL = Path(__file__).parent.parent.parent / "shared" / "data" / "xquad-r"
ALPHABETS = {
    "ja": "川広山高窓開手紙読古東京天気はがをてくいドアンー、。", "zh": "河很宽山高请打开窗户读信北京，。",
    "th": "แม่น้ำกวางและภูเขาสูงิ์",
    "ar": "النهرواسعجبلعاٍَافتحة،؟", "he": "הנהררחבגבוהפתאתחלוןְּ", "ru": "рекаширокгыйё", "en": "theriveswdamoungOTR",
    "ko": "강은넓고산높다창문을大韓民國", "hi": "नदीचौड़हैपहाऊँ्।",
}  # fmt: skip
SHARED = " 0123456789.,!?()-/＋７😀★\u0301\u200d"


def text_in(languages: list[str]) -> st.SearchStrategy[str]:
    return st.text("".join(ALPHABETS[code] for code in languages) + SHARED, max_size=60)


def pieces(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


@pytest.mark.parametrize(
    "languages", [["ja"], ["zh", "en"], ["th"], ["ar", "he"], ["ru"], ["en"], ["ko"], ["hi", "ja", "ar"]]
)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_text_in_the_languages_scripts_gives_the_same_pieces(languages: list[str], data: st.DataObject) -> None:
    whole = make_unigram()
    trimmed, _ = trim_tokenizer(whole, languages)
    text = data.draw(text_in(languages))
    assert pieces(trimmed, text) == pieces(whole, text)


@pytest.mark.parametrize("code", SENTENCES)
def test_a_sentence_gives_the_same_pieces_and_its_ids_name_the_same_rows(code: str) -> None:
    whole = make_unigram()
    trimmed, old_ids = trim_tokenizer(whole, [code])
    text = SENTENCES[code]
    if code == "ko":
        assert "大" in text  # Korean texts have Han in them
    assert pieces(trimmed, text) == pieces(whole, text)
    assert [old_ids[new] for new in trimmed(text)["input_ids"]] == whole(text)["input_ids"]
    # The control: another script's pieces are gone, so its sentence is torn up.
    other = SENTENCES["ar" if code != "ar" else "ru"]
    assert pieces(trimmed, other) != pieces(whole, other)
    assert len(trimmed) < len(whole)


def test_mixed_scripts_are_the_same_in_the_languages_that_they_mix() -> None:
    whole = make_unigram()
    trimmed, _ = trim_tokenizer(whole, ["ja", "ru", "he", "th", "en"])
    assert pieces(trimmed, MIXED) == pieces(whole, MIXED)


def test_foreign_latin_words_are_spelled_and_not_lost() -> None:
    trimmed, _ = trim_tokenizer(make_unigram(), ["ja"])
    found = pieces(trimmed, "川 river")
    assert "".join(found[1:-1]) == "▁川▁river"
    assert [piece.strip("▁") for piece in found[-6:-1]] == [*"river"]
    assert trimmed.unk_token_id not in trimmed("river")["input_ids"]


def test_an_unknown_character_costs_what_it_did() -> None:
    # 10 more than the least likely piece of all, zz: 黒 by itself costs 35, which 川山本 can't make up for. Were zz
    # dropped for being Latin, it would cost 28.
    entries = [
        ("<unk>", 0.0),
        ("▁", -1.0),
        ("黒川", -18.0),
        ("山本", -17.0),
        ("川山本", -2.0),
        ("zz", -25.0),
        ("yy", -9.0),
    ]
    made = Tokenizer(models.Unigram(entries, unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    whole = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")
    trimmed, old_ids = trim_tokenizer(whole, ["ja"])
    assert pieces(trimmed, "黒川山本") == pieces(whole, "黒川山本") == ["▁", "黒川", "山本"]
    assert old_ids == [0, 1, 2, 3, 4, 5]  # zz stays


@settings(max_examples=200, deadline=None)
@given(text=st.text("riveountap daте0123дом, .", max_size=40))
def test_wordpiece_takes_the_same_pieces(text: str, wordpiece: PreTrainedTokenizerFast) -> None:
    trimmed, _ = trim_tokenizer(wordpiece, ["en", "ru"])
    assert pieces(trimmed, text) == pieces(wordpiece, text)
    assert trimmed("日本", "a")["token_type_ids"] == wordpiece("日本", "a")["token_type_ids"]


@pytest.fixture(scope="session")
def wordpiece(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    return make_tokenizer(tmp_path_factory.mktemp("wordpiece"))


def test_wordpiece_loses_the_other_scripts_and_frames_pairs_with_its_new_ids(
    wordpiece: PreTrainedTokenizerFast,
) -> None:
    trimmed, old_ids = trim_tokenizer(wordpiece, ["ru"])
    # Five special tokens, 10 digits, 6 marks and д о м, each alone and inside a word; ASCII letters spelled.
    assert len(trimmed) == 5 + 2 * (10 + 6 + 3 + 26)
    ids = trimmed("дом", "м")["input_ids"]
    assert trimmed.convert_ids_to_tokens(ids) == ["[CLS]", "д", "##о", "##м", "[SEP]", "м", "[SEP]"]
    assert [old_ids[new] for new in ids] == wordpiece("дом", "м")["input_ids"]


FRAMES = {
    "template": processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 4), ("[SEP]", 5)]
    ),
    "bert": processors.BertProcessing(("[SEP]", 5), ("[CLS]", 4)),
    "several": processors.Sequence([processors.BertProcessing(("[SEP]", 5), ("[CLS]", 4))]),
}


@pytest.mark.parametrize("frame", FRAMES)
def test_special_tokens_behind_pieces_that_go_get_their_new_ids(frame: str) -> None:
    # As in BERT's own vocabularies, where unused pieces come first.
    names = ["[unused1]", "[unused2]", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "river", "дом", "м"]
    made = Tokenizer(models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = FRAMES[frame]
    made.enable_padding(pad_id=2, pad_token="[PAD]")
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    trimmed, old_ids = trim_tokenizer(PreTrainedTokenizerFast(tokenizer_object=made, **special), ["ru"])
    assert old_ids == [2, 3, 4, 5, 7, 8]
    assert (trimmed.pad_token_id, trimmed.backend_tokenizer.padding["pad_id"]) == (0, 0)
    assert trimmed("дом", "м river")["input_ids"] == [2, 4, 3, 5, 1, 3]


def test_bytes_stay_where_a_tokenizer_falls_back_to_them() -> None:
    assert kept_pieces(["<0x0A>", "<0xFF>", "<0xfx>"], set(), ["Thai"]) == [True, True, False]


def test_the_student_has_the_same_logits_with_fewer_rows(tmp_path: Path) -> None:
    base = make_multilingual_bi_encoder(tmp_path / "base")
    texts = [SENTENCES["ja"], SENTENCES["en"]]
    build_student(str(base), tmp_path / "whole", texts=texts)
    told = build_student(str(base), tmp_path / "trimmed", texts=texts, languages=["ja", "en"])
    logits, sizes = [], []
    for name in ("whole", "trimmed"):
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / name).eval()
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / name)
        inputs = tokenizer(["窓を開けて"], [SENTENCES["ja"]], return_tensors="pt")
        with torch.no_grad():
            logits.append(model(**inputs).logits)
        sizes.append(len(model.get_input_embeddings().weight))
    torch.testing.assert_close(logits[0], logits[1], atol=1e-6, rtol=1e-6)
    assert sizes[1] == len(tokenizer) < sizes[0]
    assert f"{sizes[1]:,} of its {sizes[0]:,} pieces for ja en" in told


@pytest.mark.parametrize(
    ("languages", "message"),
    [
        (["en", "xx"], "language 'xx' is not known, expected --languages with codes out of af am ar"),
        ([], "no language"),
    ],
)
def test_unknown_languages_are_refused_with_what_is_known(languages: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        trim_tokenizer(make_unigram(), languages)


def test_a_tokenizer_of_another_kind_is_refused() -> None:
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab={"a": 0}, merges=[])))
    with pytest.raises(InputError, match="tokenizer is BPE, expected Unigram"):
        trim_tokenizer(made, ["en"])


def test_every_script_is_one_that_unicode_has_and_languages_have_theirs() -> None:
    for script in {script for scripts in SCRIPTS.values() for script in scripts}:
        assert regex.compile(rf"\p{{Script={script}}}")
    assert len(SCRIPTS) >= 92
    assert scripts_of(["ja", "he", "sr"]) == ["Cyrillic", "Han", "Hebrew", "Hiragana", "Katakana", "Latin"]


@pytest.mark.parametrize("code", ["ar", "zh", "th", "ru", "el", "hi", "de"])
def test_real_text_gives_the_same_pieces(code: str) -> None:
    backbone = os.environ.get("MULTILINGUAL_BACKBONE", "")
    if not backbone or not REAL.is_dir():
        pytest.skip(f"needs {REAL} and a folder of multilingual-e5-small in MULTILINGUAL_BACKBONE")
    whole = AutoTokenizer.from_pretrained(backbone)
    trimmed, _ = trim_tokenizer(whole, [code, "en"])
    lines = (REAL / code / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    scripts = "".join(rf"\p{{Script={script}}}" for script in [*scripts_of([code, "en"]), "Common", "Inherited"])
    inside = [text for text in texts if regex.fullmatch(f"[{scripts}]*", text)]
    assert len(inside) > 0.9 * len(texts)
    assert [pieces(trimmed, text) for text in inside] == [pieces(whole, text) for text in inside]

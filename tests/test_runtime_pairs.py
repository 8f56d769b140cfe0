"""Text to model inputs, against transformers' own tokenization of pairs with truncation "only_second"."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import WORDS
from flashranker.errors import ArtifactError, InputError
from flashranker.inputs import encodable
from flashranker.pairs import frame_query, join, load_tokenizer
from flashranker.words import LONGEST_KEPT, passage_reader, split, token_ids
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.processors import RobertaProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

words = st.lists(st.sampled_from([*WORDS, "[SEP]", "<s>", "zebra", "Дом", "日本"]), max_size=40).map(" ".join)
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)  # all of Unicode but surrogates


@pytest.fixture(scope="module")
def both(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Tokenizer, object]]:
    """(ours, transformers') for a BERT and for a RoBERTa tokenizer, the latter byte-level."""
    folder = tmp_path_factory.mktemp("roberta")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *letters])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    return [
        (load_tokenizer(path / "tokenizer.json"), AutoTokenizer.from_pretrained(path))
        for path in (tiny_checkpoint, folder)
    ]


@settings(max_examples=300, deadline=None)
@given(query=words | anything, passage=words | anything, max_length=st.integers(16, 64))
def test_inputs_are_those_of_transformers(both: list, query: str, passage: str, max_length: int) -> None:
    for ours, reference in both:
        try:
            frame = frame_query(ours, query, max_length)
        except InputError:  # its limits have a test of their own
            continue
        inputs, cut = join(ours, frame, passage)
        # In lists, as CrossEncoder passes them: outside one, transformers takes "" for no second text at all.
        options = {"truncation": "only_second", "max_length": max_length, "return_token_type_ids": True}
        expected = reference([query], [passage], **options)
        assert {name: values.tolist() for name, values in inputs.items()} == dict(expected)
        assert cut == (len(reference([query], [passage])["input_ids"][0]) > max_length)


def test_roberta_pairs_have_two_separators_and_no_second_type(both: list) -> None:
    ours, _ = both[1]
    a, b = (ours.token_to_id(letter) for letter in "ab")
    inputs, _ = join(ours, frame_query(ours, "a", 16), "bb")
    assert inputs["input_ids"].tolist() == [[0, a, 2, 2, b, b, 2]]
    assert inputs["token_type_ids"].tolist() == [[0] * 7]


def test_a_quarter_is_kept_for_the_passage_and_a_longer_query_is_refused(both: list) -> None:
    ours, _ = both[0]
    # BERT adds 3 tokens: of 32, 8 are the passage's, so 21 are the query's.
    assert frame_query(ours, " ".join(["river"] * 21), 32).room == 8
    with pytest.raises(InputError, match="has 22 tokens, expected at most 21"):
        frame_query(ours, " ".join(["river"] * 22), 32)


def test_a_very_long_query_is_refused_before_its_offsets_are_made(both: list, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = both[0]

    class Counting:
        def __getattr__(self, name: str) -> object:
            assert name != "encode"
            return getattr(ours, name)

    with pytest.raises(InputError, match="has 50000 tokens, expected at most 21"):
        frame_query(Counting(), "river " * 50_000, 32)


def test_a_passage_is_cut_on_its_right_and_only_when_it_must_be(both: list) -> None:
    ours, _ = both[0]
    river, time, bread = (ours.token_to_id(word) for word in ("river", "time", "bread"))
    frame = frame_query(ours, "river", 16)  # 4 tokens with its specials, so 12 for the passage
    fitting, cut = join(ours, frame, "time " * 12)
    assert (fitting["input_ids"].tolist(), cut) == ([[2, river, 3, *[time] * 12, 3]], False)
    longer, cut = join(ours, frame, "time " * 12 + "bread")
    assert (longer["input_ids"].tolist(), cut) == (fitting["input_ids"].tolist(), True)
    first, cut = join(ours, frame, "bread " + "time " * 12)
    assert (first["input_ids"].tolist(), cut) == ([[2, river, 3, bread, *[time] * 11, 3]], True)


def test_a_query_without_tokens_is_refused(both: list) -> None:
    with pytest.raises(InputError, match="no token"):
        frame_query(both[0][0], "\x00\x01", 16)


def test_surrogates_become_what_they_can_stand_for() -> None:
    assert encodable("a\ud800b") == "a\ufffdb"
    assert encodable("\ud83d\ude00\udc00") == "\U0001f600\ufffd"
    assert encodable("дом") == "дом"


def test_a_tokenizer_that_joins_no_pairs_is_refused(tmp_path: Path) -> None:
    Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ArtifactError, match="post_processor"):
        load_tokenizer(tmp_path / "tokenizer.json")


# What a word may be next to, and what it may be made of: blanks of all kinds, marks, controls, accents by themselves.
pieces = st.sampled_from([
    *WORDS, "River", "ZEBRA", "na\u00efve", "na\u0131ve", "\u00df\u0130", "\u65e5\u672c", "\u0301", "\u0338", "=", "!",
    "[", "]", "[SEP]", "[sep]", "SEP", "\u2019", "\u2014", "_", " ", "\t", "\n", "\r", "\x0b", "\x0c", "\x1c", "\x7f",
    "\x00", "\x85", "\xa0", "\u2003", "\u200d", "\ufffd", "\ud800", "\U0001f600",
])  # fmt: skip
mixed = st.lists(pieces | st.characters(), max_size=40).map("".join)


def bert(special: Sequence[str] = ("[PAD]", "[UNK]", "[CLS]", "[SEP]"), **settings: bool) -> Tokenizer:
    """A tokenizer of BERT's kind whose vocabulary is the tests' words, their letters, and pieces of the odd ones."""
    odd = set("RZEBASP=![]_\u00ef\u00df\u65e5\u2019\u2014\u0301\u0338")
    letters = sorted({letter for word in WORDS for letter in word} | odd)
    listed = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *letters, *(f"##{letter}" for letter in letters)]
    made = Tokenizer(models.WordPiece({token: i for i, token in enumerate(dict.fromkeys(listed))}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(**settings)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(list(special))
    return made


def count_texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that the tokenizer itself is given from now on."""
    asked: list[str] = []
    by_itself: Callable = token_ids

    def watched(tokenizer: Tokenizer, passage: str) -> object:
        asked.append(passage)
        return by_itself(tokenizer, passage)

    monkeypatch.setattr("flashranker.words.token_ids", watched)
    return asked


READ = [(made, passage_reader(made)) for made in (bert(), bert(lowercase=False), bert(strip_accents=False))]


@settings(max_examples=500, deadline=None)
@given(passages=st.lists(mixed | words, min_size=1, max_size=3))
def test_passages_read_by_words_have_the_ids_of_the_tokenizer(passages: list[str]) -> None:
    for tokenizer, read in READ:
        assert [read(passage).tolist() for passage in passages] == [
            token_ids(tokenizer, one).tolist() for one in passages
        ]


def test_a_word_is_tokenized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = bert()
    asked = count_texts(monkeypatch)
    read = passage_reader(tokenizer)
    river, time = (tokenizer.token_to_id(word) for word in ("river", "time"))
    assert read("river time, river").tolist()[:2] == [river, time]
    assert read("time River").tolist() == [time, river]
    assert read("River, river").tolist()[::2] == [river, river]
    assert asked == ["river [PAD] time [PAD] ,", "River"]


def test_new_words_are_tokenized_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = bert()
    asked = count_texts(monkeypatch)
    text = " ".join(f"w{number}" for number in range(10_000))
    found = passage_reader(tokenizer)(text)
    # Words, with a separator between two.
    assert [len(part.split()) for part in asked] == [2 * 4096 - 1, 2 * 4096 - 1, 2 * (10_000 - 8192) - 1]
    np.testing.assert_array_equal(found, token_ids(tokenizer, text))


def test_very_long_words_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = count_texts(monkeypatch)
    read, word = passage_reader(bert()), "a" * (LONGEST_KEPT + 1)
    assert read(word).tolist() == read(word).tolist()
    assert asked == [word, word]


def test_the_words_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashranker.words.WORDS_KEPT", 2)
    asked = count_texts(monkeypatch)
    read = passage_reader(bert())
    for passage in ("river", "time", "bread", "time"):  # "bread" would be the third, so what was there went
        read(passage)
    assert asked == ["river", "time", "bread", "time"]
    read("river solar garden")
    read("river solar")
    read("garden")  # the third new word of one passage
    assert asked[4:] == ["river [PAD] solar [PAD] garden", "garden"]


def test_what_a_normalized_added_token_may_match_is_left_to_the_tokenizer() -> None:
    tokenizer = bert()
    tokenizer.add_tokens([AddedToken("River Time", normalized=True)])  # found in "river time", once lower case
    assert passage_reader(tokenizer)("bread RIVER time").tolist() == token_ids(tokenizer, "bread RIVER time").tolist()


@pytest.mark.parametrize(
    ("special", "passage"),
    [
        ([" time"], "river\ntime"), (["time "], "river,time,bread"), ([" "], "river,time"),
        (["[PAD] time"], "river,time"), (["##r"], "time brrr"),
    ],
)  # fmt: skip
def test_added_tokens_with_blanks_or_of_words_inside_are_left_to_the_tokenizer(special: list, passage: str) -> None:
    tokenizer = bert(special=special)
    read = passage_reader(tokenizer)
    assert read(passage).tolist() == token_ids(tokenizer, passage).tolist()


def test_an_added_token_that_words_become_separates_none() -> None:
    tokenizer = bert(special=["river"])
    passage = "bread RIVER time"
    assert passage_reader(tokenizer)(passage).tolist() == token_ids(tokenizer, passage).tolist()


def test_split_gives_one_part_more_than_separators() -> None:
    parts = split(np.array([9, 1, 2, 9, 9, 3]), 9)
    assert [np.frombuffer(part, np.int64).tolist() for part in parts] == [[], [1, 2], [], [3]]

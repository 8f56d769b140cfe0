"""A vocabulary of a hundred languages cut down to some: the tokenizer rebuilt, the word embeddings' rows picked.

Kept is every piece that consists of characters of the languages' scripts and of characters that all scripts share
(digits, punctuation, emoji, combining marks), with the special tokens. A text that, once normalized, has no other
characters gives the same pieces as before: Unigram (Kudo, ACL 2018) looks for the most likely way to put a text
together from pieces, WordPiece takes the longest piece that matches, and neither looks at a piece that is no part of
the text.
Letters of ASCII stay one by one, so that a foreign word in such a text is spelled, and not unknown.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import regex
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.data import InputError
from training.pair_template import with_backend
from training.similarity_ranker import SimilarityRanker
from training.t5_ranker import T5Ranker

# Languages of XLM-R (Conneau et al., ACL 2020) by the scripts that they are written in, after CLDR.
_LANGUAGES = {
    "Arabic": "ar fa ps sd ug ur",
    "Arabic Latin": "ku ms",
    "Armenian": "hy",
    "Bengali": "as bn",
    "Cyrillic": "be bg ky mk mn ru uk",
    "Cyrillic Latin": "az bs kk sr uz",
    "Devanagari": "hi mr ne sa",
    "Ethiopic": "am",
    "Georgian": "ka",
    "Greek": "el",
    "Gujarati": "gu",
    "Gurmukhi": "pa",
    "Han Bopomofo": "zh",
    "Han Hangul": "ko",
    "Han Hiragana Katakana": "ja",
    "Hebrew": "he yi",
    "Kannada": "kn",
    "Khmer": "km",
    "Lao": "lo",
    "Latin": "af br ca cs cy da de en eo es et eu fi fr fy ga gd gl ha hr hu id is it jv la lt lv mg nl no om pl pt ro "
    "sk sl so sq su sv sw tl tr vi xh",
    "Malayalam": "ml",
    "Myanmar": "my",
    "Oriya": "or",
    "Sinhala": "si",
    "Tamil": "ta",
    "Telugu": "te",
    "Thai": "th",
}
SCRIPTS = {code: scripts.split() for scripts, codes in _LANGUAGES.items() for code in codes.split()}
SHARED = ("Common", "Inherited")
SPACE = "▁"  # U+2581, which stands for a space in Unigram's pieces
CONTINUED = "##"  # WordPiece's mark of a piece inside a word
BYTE = regex.compile(r"<0x[0-9A-F]{2}>")


def scripts_of(languages: Sequence[str]) -> list[str]:
    """Unicode scripts that the languages are written in, sorted. Raises InputError, listing what is known."""
    unknown = [code for code in languages if code not in SCRIPTS]
    if unknown or not languages:
        named = f"language {unknown[0]!r} is not known" if unknown else "no language is named"
        raise InputError(
            f"--trim_vocabulary: {named}, expected --languages with codes out of {' '.join(sorted(SCRIPTS))}"
        )
    return sorted({script for code in languages for script in SCRIPTS[code]})


def trim_tokenizer(
    tokenizer: PreTrainedTokenizerBase, languages: Sequence[str]
) -> tuple[PreTrainedTokenizerBase, list[int]]:
    """The tokenizer with the pieces that these languages need, and the old id of each new id, in ascending order.

    Raises InputError for an unknown language, or a tokenizer that is neither Unigram nor WordPiece.
    """
    scripts = scripts_of(languages)
    kind = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["type"] if tokenizer.is_fast else "slow"
    if kind not in ("Unigram", "WordPiece"):
        raise InputError(
            f"--trim_vocabulary: the base's tokenizer is {kind}, expected Unigram (XLM-R) or WordPiece (BERT)"
        )
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    model, special = content["model"], {token["content"] for token in content["added_tokens"]} | framing(content)
    if kind == "Unigram":
        pieces = [piece for piece, _ in model["vocab"]]
        # An unknown character costs a fixed amount more than the least likely piece, so that piece has to stay.
        special |= {min(model["vocab"], key=lambda entry: entry[1])[0], pieces[model["unk_id"]]}
    else:
        pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
        special |= {model["unk_token"]}
    kept = kept_pieces(pieces, special, scripts)
    old_ids = [index for index, keep in enumerate(kept) if keep]
    if kind == "Unigram":
        model["vocab"] = [model["vocab"][index] for index in old_ids]
        model["unk_id"] = old_ids.index(model["unk_id"])
    else:
        model["vocab"] = {pieces[index]: new for new, index in enumerate(old_ids)}
    # Tokens that were added behind the vocabulary follow it again, in their old order.
    old_ids += sorted(token["id"] for token in content["added_tokens"] if token["id"] >= len(pieces))
    renumber(content, {old: new for new, old in enumerate(old_ids)})
    return with_backend(tokenizer, content), old_ids


def kept_pieces(pieces: Iterable[str], special: set[str], scripts: Sequence[str]) -> list[bool]:
    """Which pieces stay: special ones, those of these scripts and shared characters alone, single letters of ASCII."""
    names = "".join(rf"\p{{Script={script}}}" for script in (*scripts, *SHARED))
    wanted = regex.compile(rf"[{names}]*|(?:{SPACE}|{CONTINUED})?[A-Za-z]")
    return [piece in special or bool(wanted.fullmatch(piece) or BYTE.fullmatch(piece)) for piece in pieces]


def framing(content: Mapping[str, Any]) -> set[str]:
    """The tokens of a parsed tokenizer.json that its template puts around a text: T5's prompt is of ordinary pieces."""
    template = (content.get("post_processor") or {}).get("special_tokens", {})
    return {token for entry in template.values() for token in entry["tokens"]}


def renumber(content: Any, new_ids: Mapping[int, int]) -> None:
    """Writes new ids into a parsed tokenizer.json, in place: added tokens, padding, and what frames a text or pair."""
    for token in content["added_tokens"]:
        token["id"] = new_ids[token["id"]]
    if content.get("padding"):
        content["padding"]["pad_id"] = new_ids[content["padding"]["pad_id"]]
    waiting = [content.get("post_processor") or {}]
    while waiting:
        processor = waiting.pop()
        waiting += processor.get("processors", [])
        if processor.get("type") == "TemplateProcessing":
            for token in processor["special_tokens"].values():
                token["ids"] = [new_ids[index] for index in token["ids"]]
        for name in {"sep", "cls"} & processor.keys():  # BERT's and RoBERTa's own processors
            processor[name] = [processor[name][0], new_ids[processor[name][1]]]


def trim_model(model: PreTrainedModel, old_ids: Sequence[int], pad_id: int) -> None:
    """Keeps the word embeddings (and a `SimilarityRanker`'s term weights) of these ids, in their order, in place."""
    rows = torch.tensor(old_ids)
    embeddings: Any = model.get_input_embeddings()
    # In place, because a model may have the same table under other names too.
    embeddings.weight = torch.nn.Parameter(embeddings.weight.detach()[rows].clone())
    embeddings.num_embeddings, embeddings.padding_idx = len(old_ids), pad_id
    model.config.vocab_size, model.config.pad_token_id = len(old_ids), pad_id
    if isinstance(model, (SimilarityRanker, T5Ranker)) and hasattr(model, "term_weight"):
        model.term_weight = torch.nn.Parameter(model.term_weight.detach()[rows].clone())

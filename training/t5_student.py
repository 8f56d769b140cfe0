"""T5 students: any T5, FLAN-T5 or mT5 checkpoint as RankT5's encoder, or a small one that starts from nothing."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PretrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast, T5TokenizerFast

from training.data import InputError
from training.static_words import embed_pieces, teach_pieces, term_weights
from training.t5_ranker import T5Ranker, T5RankerConfig

CHECKPOINTS = ("t5", "mt5")
PROMPTS = ("Query:", "Document:")  # as RankT5 was trained to read them
VOCABULARY = 8192
LONGEST_PIECE = 16  # characters, SentencePiece's own limit: no sentence of a script without spaces becomes a word
CHARACTER_SHARE = 0.5  # of the vocabulary, at most, so that Chinese has words too
SCRATCH_MAX_LENGTH = 512
# What a CPU trains in minutes, as wide as the backbone that knows the words.
SCRATCH = {"d_kv": 64, "num_heads": 6, "d_ff": 768, "num_layers": 2, "feed_forward_proj": "gated-gelu"}
USUAL_LENGTH = 300.0  # tokens of a passage, with all of BM25's discount for longer ones: late interaction has none
MEANS_SCALE = 16.0  # as late interaction has: means of taught pieces order well
QUIET = 0.1  # factor of what random blocks add at first: the words' own vectors lead


def t5_student(folder: Path, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> T5Ranker:
    """The encoder of a T5 checkpoint with a fresh head; `tokenizer` gets RankT5's prompt, in place.

    Raises InputError when the tokenizer has no fast form, or the checkpoint lacks the encoder's weights.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InputError(f"{folder} has no fast tokenizer: expected tokenizer.json, convert it first")
    if tokenizer.eos_token_id is None:
        raise InputError(f"the tokenizer of {folder} has no eos_token: set it in tokenizer_config.json")
    set_prompt(tokenizer)
    settings = {**config.to_dict(), "dropout_rate": 0.0, "classifier_dropout": 0.0, "model_type": "t5_ranker"}
    model, report = T5Ranker.from_pretrained(
        folder, config=T5RankerConfig(**settings), output_loading_info=True, torch_dtype=torch.float32
    )
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("classifier."))
    if missing:
        raise InputError(f"{folder} lacks {missing[0]} (of {len(missing)} weights): expected a T5 checkpoint")
    return model


def set_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    """Write "Query: ... Document: ..." into a tokenizer's template of pairs, and "Query: ..." into that of one text.

    The prompt's tokens stand there one by one by their own names, because some runtimes look each up in the vocabulary.
    """
    backend = tokenizer.backend_tokenizer
    query, document = (
        [backend.id_to_token(token) for token in backend.encode(prompt, add_special_tokens=False).ids]
        for prompt in PROMPTS
    )
    end = str(tokenizer.eos_token)
    names = dict.fromkeys([*query, *document, end])
    content = json.loads(backend.to_str())

    def special(tokens: Sequence[str]) -> list[dict]:
        return [{"SpecialToken": {"id": token, "type_id": 0}} for token in tokens]

    def text(name: str) -> list[dict]:
        return [{"Sequence": {"id": name, "type_id": 0}}]

    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [*special(query), *text("A"), *special([end])],
        "pair": [*special(query), *text("A"), *special(document), *text("B"), *special([end])],
        "special_tokens": {name: {"id": name, "ids": [backend.token_to_id(name)], "tokens": [name]} for name in names},
    }
    backend.post_processor = Tokenizer.from_str(json.dumps(content)).post_processor


def scratch_student(texts: Sequence[str], cache: Path) -> tuple[T5Ranker, PreTrainedTokenizerFast]:
    """A small T5 with random blocks, `similar`, and a Unigram tokenizer of the texts' own pieces.

    A piece weighs what it does in BM25, and stands for what the built-in backbone says (`static_words`). `cache` keeps
    what that one embedded.
    """
    tokenizer = train_tokenizer(texts)
    weight = term_weights(tokenizer, texts, len(tokenizer))
    table = teach_pieces(embed_pieces(tokenizer, cache), weight, tokenizer, texts, cache)
    config = T5RankerConfig(
        similar=True, vocab_size=len(tokenizer), d_model=table.shape[1], dropout_rate=0.0, classifier_dropout=0.0,
        num_labels=1, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        usual_length=USUAL_LENGTH, b=1.0, **SCRATCH,
    )  # fmt: skip
    model = T5Ranker(config)
    with torch.no_grad():
        model.term_weight.copy_(weight)
        model.dimension_weight.fill_(MEANS_SCALE)
        model.shared.weight.copy_(table * table.shape[1] ** 0.5)  # of the size that T5 gives its tables
        for block in model.encoder.block:
            block.layer[0].SelfAttention.o.weight.mul_(QUIET)
            block.layer[1].DenseReluDense.wo.weight.mul_(QUIET)
    return model, tokenizer


def train_tokenizer(texts: Sequence[str], size: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """T5's kind of tokenizer (Unigram over words that begin with a mark), lower-casing, made from the texts alone.

    Its pieces are those of byte-pair encoding (Sennrich et al., 2016), of which a word takes as few as it can. The
    library's `UnigramTrainer` makes another vocabulary in every process, and drops common words: the texts of
    `pydocs` become two fifths longer, and "metadata" two pieces.
    """
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " ")]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits()]
    )
    special = ["<pad>", "</s>", "<unk>"]
    characters = Counter("\u2581")
    for text in texts:
        characters.update(backend.normalizer.normalize_str(text).replace(" ", ""))
    # Where a script has more characters than fit, the trainer would choose among equals by chance.
    kept = sorted(characters, key=lambda one: (-characters[one], one))[: int(size * CHARACTER_SHARE)]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=kept, limit_alphabet=len(kept),
        max_token_length=LONGEST_PIECE, show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator(texts, trainer)
    # Equal weights: a word is written in as few pieces as there can be.
    weights = [(piece, -1.0) for piece in sorted(set(backend.get_vocab()) - set(special))]
    backend.model = models.Unigram([(name, 0.0) for name in special] + weights, unk_id=special.index("<unk>"))
    backend.add_special_tokens(special)
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", backend.token_to_id("</s>"))]
    )
    return T5TokenizerFast(
        tokenizer_object=backend, extra_ids=0, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        model_max_length=SCRATCH_MAX_LENGTH,
    )  # fmt: skip

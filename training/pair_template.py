"""Token types for tokenizers that make none: XLM-R's and its like frame a pair, but do not say which text is which."""

import json
from copy import deepcopy

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase

INPUT_NAMES = ["input_ids", "token_type_ids", "attention_mask"]


def with_token_types(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer that frames a pair as `<s> query </s> passage </s>` and gives the passage and what follows type 1.

    The template is part of tokenizer.json, so that every library that reads the file makes the same types. One that
    makes them already comes back as it is. Raises ValueError for a tokenizer without a fast form, or without the
    special tokens that a template needs.
    """
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} has no tokenizer.json: convert it to a fast tokenizer first")
    text = tokenizer.backend_tokenizer.encode("a", add_special_tokens=False)
    if (
        "token_type_ids" in tokenizer.model_input_names
        and 1 in tokenizer.backend_tokenizer.post_process(text, text).type_ids
    ):
        return tokenizer
    first, last = tokenizer.cls_token, tokenizer.sep_token
    if first is None or last is None:
        raise ValueError(f"{type(tokenizer).__name__} has no cls_token or no sep_token, expected both to join a pair")
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    made = with_backend(tokenizer, backend)
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=[(first, tokenizer.cls_token_id), (last, tokenizer.sep_token_id)],
    )
    made.model_input_names = made.init_kwargs["model_input_names"] = INPUT_NAMES
    return made


def with_backend(tokenizer: PreTrainedTokenizerBase, content: dict) -> PreTrainedTokenizerBase:
    """The same tokenizer around another tokenizer.json, given as its parsed content; the first one stays as it is."""
    made = deepcopy(tokenizer)
    # No constructor takes both: each class rebuilds parts of what it is given from its own settings.
    made._tokenizer = Tokenizer.from_str(json.dumps(content))
    if hasattr(made, "vocab_file"):
        made.vocab_file = None  # of the old vocabulary: saving would copy it beside the new one
    return made

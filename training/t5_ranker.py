"""A cross-encoder made of a T5 encoder: one relevance logit, no decoder.

RankT5's encoder variant (Zhuang et al., SIGIR 2023) reads "Query: ... Document: ..." and puts a linear layer on the
first token's last state. That prompt stands in the tokenizer's own pair template, so whatever tokenizes a query with a
passage makes the same input. T5, FLAN-T5 and mT5 weights load as they are; the decoder's are left out. As nothing but
the first token is read, the last block is computed there alone, which is exact.

A T5 that starts from nothing does not find matching words by itself. `similar` gives it the gate and the readings of a
`SimilarityRanker`, its means weighted by term, that of equal tokens with all of BM25's discount for long passages,
b = 1: late interaction has none. T5 knows no token types: the passage is what follows the first end-of-sequence token.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, T5Config
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.t5.modeling_t5 import T5PreTrainedModel, T5Stack

from training.first_stage import B
from training.similarity_ranker import (
    CLOSED,
    COSINE_SCALE,
    LATE_SCALE,
    exact_match,
    longest,
    read_apart,
    read_together,
)

EXACT_SCALE = 16.0


class T5RankerConfig(T5Config):
    """T5's settings under a name of their own; `similar` as the module says, the rest as `SimilarityRankerConfig`."""

    model_type = "t5_ranker"

    def __init__(self, *, similar: bool = False, usual_length: float = 64.0, b: float = B, **settings: Any) -> None:
        # An encoder alone: with these T5's own defaults would ask for a decoder.
        super().__init__(**{**settings, "is_encoder_decoder": False, "use_cache": False})
        self.similar, self.usual_length, self.b = similar, usual_length, b


class T5Ranker(T5PreTrainedModel):
    """One relevance logit for a query and a passage in the tokenizer's pair template."""

    config_class = T5RankerConfig  # type: ignore[assignment]
    _tied_weights_keys: Any = ["encoder.embed_tokens.weight"]  # noqa: RUF012
    _keys_to_ignore_on_load_unexpected: Any = [r"^decoder\.", r"^lm_head\."]  # noqa: RUF012

    def __init__(self, config: T5RankerConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.end = int(config.eos_token_id or 0)
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = T5Stack(config, self.shared)
        self.classifier = nn.Linear(config.d_model, 1)
        if config.similar:
            self.gate = nn.Parameter(torch.full((config.num_layers, config.num_heads), CLOSED))
            self.dimension_weight = nn.Parameter(torch.full((config.d_model,), COSINE_SCALE))
            self.late_scale = nn.Parameter(torch.tensor([LATE_SCALE]))
            self.exact_scale = nn.Parameter(torch.tensor([EXACT_SCALE]))
            self.term_weight = nn.Parameter(torch.ones(config.vocab_size))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            self.shared.weight.data.normal_(std=self.config.initializer_factor)
            self.classifier.bias.data.zero_()
            if self.config.similar:
                self.classifier.weight.data.zero_()
            else:
                self.classifier.weight.data.normal_(std=self.config.initializer_factor * self.config.d_model**-0.5)

    def get_input_embeddings(self) -> nn.Module:
        """The table that encoder and `shared` have in common."""
        return self.shared

    @property
    def first_token_only(self) -> bool:
        """Whether the last block is computed at the first token alone."""
        return not self.config.similar

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: object) -> SequenceClassifierOutput:
        """Ids and mask are int64 (batch, length); the logits float32 (batch, 1)."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if not self.config.similar:
            return SequenceClassifierOutput(logits=self.classifier(self.encode(input_ids, mask)[:, 0]))
        real = mask.to(self.shared.weight.dtype)
        ends = torch.eq(input_ids, self.end).long()
        passage = ((ends.cumsum(dim=1) - ends) > 0).to(real.dtype) * real
        state = self.encode(input_ids, mask, passage)
        weight = self.term_weight[input_ids].relu()
        query = real - passage
        first = slice(longest(query))
        terms = (weight * query)[:, first]
        logit = read_together(self, state, weight * query, weight * passage, terms)
        logit = logit + exact_match(self, input_ids[:, first], terms, input_ids, passage)
        return SequenceClassifierOutput(logits=logit[:, None] + self.classifier(state[:, 0]))

    def score_apart(self, query_ids: Tensor, query_mask: Tensor, passage_ids: Tensor, passage_mask: Tensor) -> Tensor:
        """Logits (queries, passages) of all pairs, each text read by itself, as `SimilarityRanker.score_apart`."""
        query_state, passage_state = self.encode(query_ids, query_mask), self.encode(passage_ids, passage_mask)
        passage = passage_mask.to(query_state.dtype)
        terms = self.term_weight[query_ids].relu() * query_mask
        weight = self.term_weight[passage_ids].relu() * passage
        logits = read_apart(self, query_state, terms, passage_state, weight, terms)
        return logits + exact_match(self, query_ids[:, None], terms[:, None], passage_ids, passage)

    def encode(self, input_ids: Tensor, attention_mask: Tensor, passage: Tensor | None = None) -> Tensor:
        """Last states (batch, length, width), or (batch, 1, width) of the first token where no more is read.

        `passage` (batch, length), 1 at its tokens, sets the gate between the segments; without it there is one.
        """
        state = self.shared(input_ids)
        length = input_ids.shape[1]
        # The first block's table of relative positions serves all of them.
        bias = self.encoder.block[0].layer[0].SelfAttention.compute_bias(length, length, device=input_ids.device)
        real = attention_mask.to(state.dtype)
        bias = bias + (1.0 - real)[:, None, None, :] * torch.finfo(state.dtype).min
        across = None if passage is None else (passage[:, :, None] != passage[:, None, :]).to(state.dtype)[:, None]
        for number, block in enumerate(self.encoder.block):
            gated = bias if across is None else bias + across * self.gate[number][None, :, None, None]
            if self.first_token_only and number == len(self.encoder.block) - 1:
                state = first_token(block, state, gated)
            else:
                state = block(state, position_bias=gated)[0]
        return self.encoder.final_layer_norm(state)


def first_token(block: Any, state: Tensor, bias: Tensor) -> Tensor:
    """A block at the first token: state (batch, length, width) and bias (batch, heads, length, length) to one token."""
    attention, feed_forward = block.layer[0], block.layer[1]
    normed = attention.layer_norm(state)
    context = attention.SelfAttention(normed[:, :1], key_value_states=normed, position_bias=bias[:, :, :1])[0]
    return feed_forward(state[:, :1] + attention.dropout(context))


AutoConfig.register(T5RankerConfig.model_type, T5RankerConfig)
AutoModelForSequenceClassification.register(T5RankerConfig, T5Ranker)

"""A cross-encoder that starts as the bi-encoder it is made of, and may leave it as far as training wants.

A bi-encoder's layers know what two texts mean, but a fresh head at [CLS] throws that away, and ranking losses find it
again only slowly. Here nothing is thrown away: one BERT encoder reads the query and the passage together, as any
cross-encoder, with three additions.

1. A gate. Each head of each layer adds one learned number to its attention logits between the two segments. It starts
   so low that each segment is encoded nearly as if it stood alone; training opens the heads for which that pays.
   [CLS] stays visible to both: without a [CLS] to rest on, a passage's states are far from those it had alone
   (correlation with the bi-encoder's scores within a query's candidates 0.79, with it 0.91).
2. Positions of the passage count from its own start, as they did when the bi-encoder read it alone.
3. The logit is a sum of three readings of the last layer: the scaled cosine of the two segments' means, each dimension
   with a learned weight; late interaction, that is for each token of the query its best cosine with a token of the
   passage (MaxSim; Khattab and Zaharia, ColBERT, SIGIR 2020), averaged with a learned weight per word of the vocabulary
   that starts at the word's inverse document frequency; and a linear reading of [CLS] that starts at 0.

The readings need every token of the last layer, so its work at [CLS] alone would not do.

A narrow student mistakes words for others that are alike, so `exact` gives it a fourth reading: how often each token of
the query stands in the passage, saturated as in BM25 (Robertson and Zaragoza, 2009), in the mean that late interaction
takes. Added to a trained ranker of six layers it gained nothing (STUDENT_LOG.md).
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    BertPreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from training.first_stage import K1, B
from training.precision import exact

CLOSED = -4.0  # attention logit: exp(-4) is a fiftieth, near enough to alone, and still has a gradient
# Cosine to logit. Late interaction orders better than the means, and a softmax over the sum is about as sure as right.
COSINE_SCALE, LATE_SCALE, EXACT_SCALE = 8.0, 16.0, 8.0
NO_MATCH = -1.0  # the lowest cosine: what a token finds in an empty passage


class SimilarityRankerConfig(BertConfig):
    """BERT's settings under a name of their own, so that no other class loads such a checkpoint by mistake.

    `exact` as the module says, `usual_length` (tokens of a passage, of which BM25 takes the corpus's mean) and `b` as
    `exact_match`.
    """

    model_type = "similarity_ranker"

    def __init__(self, *, exact: bool = False, usual_length: float = 64.0, b: float = B, **settings: Any) -> None:
        super().__init__(**settings)
        self.exact, self.usual_length, self.b = exact, usual_length, b


class SimilarityRanker(BertPreTrainedModel):
    """One relevance logit for a query (token type 0) and a passage (token type 1)."""

    config_class = SimilarityRankerConfig  # type: ignore[assignment]

    def __init__(self, config: SimilarityRankerConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = BertModel(config, add_pooling_layer=False)
        self.gate = nn.Parameter(torch.full((config.num_hidden_layers, config.num_attention_heads), CLOSED))
        self.dimension_weight = nn.Parameter(torch.full((config.hidden_size,), COSINE_SCALE))
        self.late_scale = nn.Parameter(torch.tensor([LATE_SCALE]))
        self.term_weight = nn.Parameter(torch.ones(config.vocab_size))
        if config.exact:
            self.exact_scale = nn.Parameter(torch.tensor([EXACT_SCALE]))
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.post_init()
        nn.init.zeros_(self.classifier.weight)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **_: object,
    ) -> SequenceClassifierOutput:
        """Ids, mask and types are int64 (batch, length); the logits float32 (batch, 1)."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        real = mask.to(self.dimension_weight.dtype)
        passage = types.to(real.dtype) * real
        state = self.encode(input_ids, mask, types)
        query = real - passage
        first = slice(longest(query))
        terms = self.term_weight[input_ids[:, first]].relu() * query[:, first]
        logit = read_together(self, state, query, passage, terms)
        if self.config.exact:
            logit = logit + exact_match(self, input_ids[:, first], terms, input_ids, passage)
        return SequenceClassifierOutput(logits=logit[:, None] + self.classifier(state[:, 0]))

    def score_apart(self, query_ids: Tensor, query_mask: Tensor, passage_ids: Tensor, passage_mask: Tensor) -> Tensor:
        """Logits (queries, passages) of all pairs, each text read by itself: a bi-encoder with this ranker's weights.

        It is what `forward` computes behind closed gates, without the reading of [CLS]. Ids and masks are int64
        (queries, n) and (passages, m), each text with its own [CLS] and [SEP].
        """
        query_state = self.encode(query_ids, query_mask, torch.zeros_like(query_ids))
        passage_state = self.encode(passage_ids, passage_mask, torch.zeros_like(passage_ids))
        query, passage = (mask.to(query_state.dtype) for mask in (query_mask, passage_mask))
        passage = passage * (torch.arange(passage.shape[1], device=passage.device) > 0)  # a pair has one [CLS]
        terms = self.term_weight[query_ids].relu() * query
        logits = read_apart(self, query_state, query, passage_state, passage, terms)
        if self.config.exact:
            logits = logits + exact_match(self, query_ids[:, None], terms[:, None], passage_ids, passage)
        return logits

    def encode(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Last states (batch, length, hidden size) of one or two segments; ids, mask and types (batch, length)."""
        real = attention_mask.to(self.dimension_weight.dtype)
        start = (real * (token_type_ids == 0)).sum(dim=1, keepdim=True).long()
        position = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        # A passage alone would begin behind its own [CLS].
        position = torch.where(token_type_ids == 1, (position - start + 1).clamp(min=1), position)
        state = self.bert.embeddings(
            input_ids=input_ids, token_type_ids=torch.zeros_like(token_type_ids), position_ids=position
        )
        padding = (1.0 - real)[:, None, None, :] * torch.finfo(real.dtype).min
        apart = token_type_ids[:, :, None] != token_type_ids[:, None, :]
        across = (apart & (position[:, None, :] != 0)).to(real.dtype)[:, None]
        for number, layer in enumerate(self.bert.encoder.layer):
            state = layer(state, attention_mask=padding + across * self.gate[number][None, :, None, None])[0]
        return state


def load_encoder(folder: Path) -> Any:
    """The encoder of a folder, without its pooler, which nothing here reads."""
    encoder = AutoModel.from_pretrained(folder)  # whole, or transformers warns of the pooler's unused weights
    encoder.pooler = None
    return encoder


def read_together(ranker: Any, state: Tensor, query: Tensor, passage: Tensor, terms: Tensor) -> Tensor:
    """Cosine of the means and late interaction of pairs read together, (batch,).

    Args: what has the learned weights; last states (batch, length, h); how much each token counts in the means of
    query and passage, 0 outside of them, (batch, length) each; and in late interaction, (batch, n) for the first n
    tokens, among which are all of the query.
    """
    direction = normalize(state, dim=2)
    # Not a product with a vector: a quantizer would round it.
    cosine = (mean(state, query) * mean(state, passage) * ranker.dimension_weight).sum(dim=1)
    with exact(state):
        cosines = direction[:, : terms.shape[1]] @ direction.transpose(1, 2)
    return cosine + ranker.late_scale * late_interaction(cosines, terms, passage)


def read_apart(
    ranker: Any, query_state: Tensor, query: Tensor, passage_state: Tensor, passage: Tensor, terms: Tensor
) -> Tensor:
    """The same of all queries (q, n) with all passages (p, m), each text's states by itself: (q, p)."""
    with exact(query_state):
        cosine = (mean(query_state, query) * ranker.dimension_weight) @ mean(passage_state, passage).T
        cosines = torch.einsum("qnh,pmh->qpnm", normalize(query_state, dim=2), normalize(passage_state, dim=2))
        return cosine + ranker.late_scale * late_interaction(cosines, terms[:, None], passage)


def late_interaction(cosines: Tensor, weight: Tensor, present: Tensor) -> Tensor:
    """The weighted mean over a query's tokens of the best cosine with a token of the passage; leading axes broadcast.

    Args: cosines (..., n, m); weight of the n tokens (..., n); present (..., m), 0 where the passage has no token.
    """
    best = cosines.masked_fill(present[..., None, :] == 0, NO_MATCH).amax(dim=-1)
    return (best * weight).sum(dim=-1) / weight.sum(dim=-1).clamp(min=1e-6)


def exact_match(ranker: Any, query_ids: Tensor, weight: Tensor, passage_ids: Tensor, passage: Tensor) -> Tensor:
    """The scaled, weighted mean over a query's tokens of BM25's saturated count in the passage; leading axes broadcast.

    Args: what has the learned scale, and in its configuration how many tokens are usual and b, the share of that
    which longer passages count less; ids and weight of n tokens (..., n); ids of m (..., m), and 1 at the passage's.
    """
    same = (query_ids[..., :, None] == passage_ids[..., None, :]).to(passage.dtype)
    count = (same * passage[..., None, :]).sum(dim=-1)
    length = passage.sum(dim=-1, keepdim=True) / ranker.config.usual_length
    half = (K1 * (1.0 - ranker.config.b + ranker.config.b * length)).clamp(min=1e-6)
    logit = ranker.exact_scale * (count / (count + half) * weight).sum(dim=-1)
    return logit / weight.sum(dim=-1).clamp(min=1e-6)


def longest(query: Tensor) -> Tensor:
    """How many tokens the longest query of a batch has; `query` is (batch, length), 1 at its tokens, which come first.

    A tensor, so that an exported graph computes it anew.
    """
    return (query > 0).sum(dim=1).max()


def mean(state: Tensor, weight: Tensor) -> Tensor:
    """Mean over the weighted tokens, of norm 1: (batch, length, h) and (batch, length) -> (batch, h)."""
    with exact(state):
        total = (weight[:, None] @ state)[:, 0]
    return normalize(total / weight.sum(dim=1, keepdim=True).clamp(min=1.0), dim=1)


AutoConfig.register(SimilarityRankerConfig.model_type, SimilarityRankerConfig)
AutoModelForSequenceClassification.register(SimilarityRankerConfig, SimilarityRanker)

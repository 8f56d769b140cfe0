"""A cross-encoder that starts as the bi-encoder it is made of, and may leave it as far as training wants.

A bi-encoder's layers know what two texts mean, but a fresh head at [CLS] throws that away, and ranking losses find it
again only slowly. Here nothing is thrown away: one BERT encoder reads the query and the passage together, as any
cross-encoder, with three additions.

1. A gate. Each head of each layer adds one learned number to its attention logits between the two segments. It starts
   so low that each segment is encoded nearly as if it stood alone; training opens the heads for which that pays.
   [CLS] stays visible to both: without a [CLS] to rest on, a passage's states are far from those it had alone
   (correlation with the bi-encoder's scores within a query's candidates 0.79, with it 0.91).
2. Positions of the passage count from its own start, as they did when the bi-encoder read it alone.
3. The logit is the scaled cosine of the two segments' means, each dimension with a learned weight that starts at 1,
   plus a linear reading of [CLS] that starts at 0.

The means need every token of the last layer, so its work at [CLS] alone would not do.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig, BertModel, BertPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

CLOSED = -4.0  # attention logit: exp(-4) is a fiftieth, near enough to alone, and still has a gradient
COSINE_SCALE = 20.0  # cosine to logit, as the teacher's


class SimilarityRankerConfig(BertConfig):
    """BERT's settings under a name of their own, so that no other class loads such a checkpoint by mistake."""

    model_type = "similarity_ranker"


class SimilarityRanker(BertPreTrainedModel):
    """One relevance logit for a query (token type 0) and a passage (token type 1)."""

    config_class = SimilarityRankerConfig  # type: ignore[assignment]

    def __init__(self, config: SimilarityRankerConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = BertModel(config, add_pooling_layer=False)
        self.gate = nn.Parameter(torch.full((config.num_hidden_layers, config.num_attention_heads), CLOSED))
        self.dimension_weight = nn.Parameter(torch.full((config.hidden_size,), COSINE_SCALE))
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
        query, passage, first = self.encode(input_ids, attention_mask, token_type_ids)
        similarity = (query * passage * self.dimension_weight).sum(dim=1, keepdim=True)
        return SequenceClassifierOutput(logits=similarity + self.classifier(first))

    def encode(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Means of query and passage, of norm 1, and the state of [CLS]; each (batch, hidden size)."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        real = mask.to(self.dimension_weight.dtype)
        passage = types.to(self.dimension_weight.dtype) * real
        query = real - passage
        start = query.sum(dim=1, keepdim=True).long()
        position = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        # A passage alone would begin behind its own [CLS].
        position = torch.where(types == 1, (position - start + 1).clamp(min=1), position)
        state = self.bert.embeddings(input_ids=input_ids, token_type_ids=torch.zeros_like(types), position_ids=position)
        padding = (1.0 - real)[:, None, None, :] * torch.finfo(real.dtype).min
        apart = types[:, :, None] != types[:, None, :]
        across = (apart & (position[:, None, :] != 0)).to(real.dtype)[:, None]
        for gate, layer in zip(self.gate, self.bert.encoder.layer, strict=True):
            state = layer(state, attention_mask=padding + across * gate[None, :, None, None])[0]
        return _mean(state, query), _mean(state, passage), state[:, 0]


def _mean(state: Tensor, weight: Tensor) -> Tensor:
    """Mean over the weighted tokens, of norm 1: (batch, length, h) and (batch, length) -> (batch, h)."""
    total = (state * weight[..., None]).sum(dim=1)
    return normalize(total / weight.sum(dim=1, keepdim=True).clamp(min=1.0), dim=1)


AutoConfig.register(SimilarityRankerConfig.model_type, SimilarityRankerConfig)
AutoModelForSequenceClassification.register(SimilarityRankerConfig, SimilarityRanker)

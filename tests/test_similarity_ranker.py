"""The student that starts as its bi-encoder: what the gate, the positions and the head must do."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel

from training.similarity_ranker import SimilarityRanker, SimilarityRankerConfig

QUERY, OTHER_QUERY = [2, 10, 11, 12, 3], [2, 20, 21, 3]
PASSAGE = [30, 31, 32, 33, 34, 3]


def make_ranker(layers: int = 2) -> SimilarityRanker:
    torch.manual_seed(1)
    config = SimilarityRankerConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, num_labels=1, initializer_range=0.4,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return SimilarityRanker(config).eval()


def pair(query: list[int], passage: list[int], padding: int = 0) -> dict[str, torch.Tensor]:
    length = len(query) + len(passage)
    return {
        "input_ids": torch.tensor([query + passage + [0] * padding]),
        "attention_mask": torch.tensor([[1] * length + [0] * padding]),
        "token_type_ids": torch.tensor([[0] * len(query) + [1] * len(passage) + [0] * padding]),
    }


@torch.no_grad()
def test_behind_a_closed_gate_the_query_is_encoded_as_the_bi_encoder_does() -> None:
    ranker = make_ranker()
    alone = BertModel(BertConfig(**ranker.config.to_dict()), add_pooling_layer=False).eval()
    alone.load_state_dict(ranker.bert.state_dict())
    state = alone(input_ids=torch.tensor([QUERY])).last_hidden_state.mean(dim=1)
    expected = torch.nn.functional.normalize(state, dim=1)
    ranker.gate.fill_(-1e4)
    torch.testing.assert_close(ranker.encode(**pair(QUERY, PASSAGE))[0], expected, atol=1e-5, rtol=1e-5)
    ranker.gate.fill_(0.0)
    assert (ranker.encode(**pair(QUERY, PASSAGE))[0] - expected).abs().max() > 0.01


@torch.no_grad()
def test_a_passage_does_not_feel_the_length_of_its_query() -> None:
    ranker = make_ranker(layers=1)  # in one layer, [CLS] has not yet seen the query
    ranker.gate.fill_(-1e4)
    first, second = (ranker.encode(**pair(query, PASSAGE))[1] for query in (QUERY, OTHER_QUERY))
    torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_the_untrained_logit_is_twenty_cosines() -> None:
    ranker = make_ranker()
    query, passage, _ = ranker.encode(**pair(QUERY, PASSAGE))
    expected = 20 * torch.nn.functional.cosine_similarity(query, passage)
    torch.testing.assert_close(ranker(**pair(QUERY, PASSAGE)).logits[:, 0], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("padding", [1, 9])
def test_padding_changes_nothing(padding: int) -> None:
    ranker = make_ranker()
    ranker.classifier.weight.normal_()
    expected = ranker(**pair(QUERY, PASSAGE)).logits
    torch.testing.assert_close(ranker(**pair(QUERY, PASSAGE, padding)).logits, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_saved_ranker_comes_back_with_its_gates(tmp_path: Path) -> None:
    ranker = make_ranker()
    ranker.gate.uniform_(-3, 3)
    ranker.dimension_weight.uniform_(10, 30)
    ranker.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(**pair(QUERY, PASSAGE)).logits, ranker(**pair(QUERY, PASSAGE)).logits)

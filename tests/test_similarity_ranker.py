"""The student that starts as its bi-encoder: what the gate, the positions and the head must do."""

import math
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from conftest import make_tokenizer
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel

from export.cls_graph import export_first_token
from training.similarity_ranker import SimilarityRanker, SimilarityRankerConfig, exact_match, late_interaction
from training.static_words import term_weights

QUERY, OTHER_QUERY = [2, 10, 11, 12, 3], [2, 20, 21, 3]
PASSAGE = [30, 31, 32, 33, 34, 3]


def make_ranker(layers: int = 2, **settings: Any) -> SimilarityRanker:
    torch.manual_seed(1)
    config = SimilarityRankerConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, num_labels=1, initializer_range=0.4, **settings,
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


def padded(texts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, (texts, longest)."""
    longest = max(map(len, texts))
    ids = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
    return ids, torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])


def states(ranker: SimilarityRanker, query: list[int], passage: list[int]) -> torch.Tensor:
    """The last layer's states of a pair, (length, hidden size)."""
    return ranker.encode(**pair(query, passage))[0]


@torch.no_grad()
def test_behind_a_closed_gate_the_query_is_encoded_as_the_bi_encoder_does() -> None:
    ranker = make_ranker()
    alone = BertModel(BertConfig(**ranker.config.to_dict()), add_pooling_layer=False).eval()
    alone.load_state_dict(ranker.bert.state_dict())
    expected = alone(input_ids=torch.tensor([QUERY])).last_hidden_state[0]
    ranker.gate.fill_(-1e4)
    # [CLS] itself sees both segments, so from the second layer on the others feel a little of the passage.
    found = states(ranker, QUERY, PASSAGE)[: len(QUERY)]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    ranker.gate.fill_(0.0)
    assert (states(ranker, QUERY, PASSAGE)[: len(QUERY)] - expected).abs().max() > 0.01


@torch.no_grad()
def test_a_passage_does_not_feel_the_length_of_its_query() -> None:
    ranker = make_ranker(layers=1)  # in one layer, [CLS] has not yet seen the query
    ranker.gate.fill_(-1e4)
    first, second = (states(ranker, query, PASSAGE)[len(query) :] for query in (QUERY, OTHER_QUERY))
    torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_the_untrained_logit_is_eight_cosines_and_sixteen_late_interactions() -> None:
    ranker = make_ranker()
    ranker.term_weight.copy_(torch.arange(50) / 10)
    state = torch.nn.functional.normalize(states(ranker, QUERY, PASSAGE), dim=1)
    query, passage = state[: len(QUERY)], state[len(QUERY) :]
    raw = states(ranker, QUERY, PASSAGE)
    cosine = torch.nn.functional.cosine_similarity(raw[: len(QUERY)].mean(dim=0), raw[len(QUERY) :].mean(dim=0), dim=0)
    weight = torch.tensor(QUERY) / 10
    best = torch.stack([max(token @ other for other in passage) for token in query])
    late = (weight * best).sum() / weight.sum()
    expected = 8 * cosine + 16 * late
    torch.testing.assert_close(ranker(**pair(QUERY, PASSAGE)).logits[0, 0], expected, atol=1e-4, rtol=1e-5)


def test_late_interaction_takes_each_terms_best_match_by_its_weight() -> None:
    query = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    passage = torch.tensor([[3.0, 0.0], [0.6, 0.8]])
    weight = torch.tensor([1.0, 3.0])
    cosines = torch.nn.functional.normalize(query, dim=1) @ torch.nn.functional.normalize(passage, dim=1).T
    both, first = (late_interaction(cosines, weight, torch.tensor(mask)) for mask in ([1.0, 1.0], [1.0, 0.0]))
    assert both.item() == pytest.approx((1 * 1.0 + 3 * 0.8) / 4)
    assert first.item() == pytest.approx((1 * 1.0 + 3 * 0.0) / 4)


@pytest.mark.parametrize(("usual_length", "b"), [(64.0, 0.4), (300.0, 1.0)])
def test_exact_matches_are_counted_as_bm25_does(usual_length: float, b: float) -> None:
    ranker = make_ranker(exact=True, usual_length=usual_length, b=b)
    query, passage = torch.tensor([[5, 6]]), torch.tensor([[5, 5, 7, 5]])
    weight, real = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    # The first token, of weight 2 of 3, stands there twice among three; k1 = 0.9.
    expected = 8 * 2 / 3 * 2 / (2 + 0.9 * (1 - b + b * 3 / usual_length))
    assert float(exact_match(ranker, query, weight, passage, real)) == pytest.approx(expected)
    assert float(exact_match(ranker, query, weight, passage, torch.zeros(1, 4))) == 0.0


@torch.no_grad()
def test_a_narrow_ranker_adds_eight_exact_matches() -> None:
    plain, counting = make_ranker(), make_ranker(exact=True)
    for ranker in (plain, counting):
        ranker.term_weight.copy_(torch.arange(50) / 10)
    passage = [30, 11, 31, 11, 3]
    # Of 2, 10, 11, 12 and 3 the passage has 11 twice and its own last token, 3, among five.
    saturated = [0, 0, 2 / (2 + 0.9 * (0.6 + 0.4 * 5 / 64)), 0, 1 / (1 + 0.9 * (0.6 + 0.4 * 5 / 64))]
    weight = [token / 10 for token in QUERY]
    expected = 8 * sum(w * s for w, s in zip(weight, saturated, strict=True)) / sum(weight)
    added = counting(**pair(QUERY, passage)).logits - plain(**pair(QUERY, passage)).logits
    assert added.item() == pytest.approx(expected, abs=1e-4)
    behind = pair(QUERY, passage, padding=7)
    behind["input_ids"][0, -7:] = 11  # what is masked must not be counted, whatever it is
    torch.testing.assert_close(counting(**behind).logits, counting(**pair(QUERY, passage)).logits, atol=1e-5, rtol=1e-5)


def test_a_term_weighs_its_inverse_document_frequency_and_a_special_token_nothing(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path)
    weights = term_weights(tokenizer, ["river river bread", "river water", "river"], len(tokenizer))
    river, bread, unseen = tokenizer.convert_tokens_to_ids(["river", "bread", "solar"])
    assert weights[river].item() == pytest.approx(math.log(1 + 0.5 / 3.5))
    assert weights[bread].item() == pytest.approx(math.log(1 + 2.5 / 1.5))
    assert weights[unseen].item() == pytest.approx(math.log(1 + 3.5 / 0.5))
    assert weights[tokenizer.all_special_ids].abs().max() == 0


@torch.no_grad()
@pytest.mark.parametrize("exact", [False, True])
def test_texts_read_apart_give_the_logits_of_pairs_that_do_not_see_each_other(exact: bool) -> None:
    ranker = make_ranker(layers=0, exact=exact)  # without a layer nothing can leak, not even through [CLS]
    ranker.term_weight.uniform_(0, 5)
    passages = [PASSAGE, [40, 41, 3], [10, 11, 3]]
    expected = torch.stack([torch.stack([ranker(**pair(q, p)).logits[0, 0] for p in passages])
                            for q in (QUERY, OTHER_QUERY)])  # fmt: skip
    sides = [padded([QUERY, OTHER_QUERY]), padded([[2, *passage] for passage in passages])]
    found = ranker.score_apart(*(part for side in sides for part in side))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("padding", [1, 9])
def test_padding_changes_nothing(padding: int) -> None:
    ranker = make_ranker()
    ranker.classifier.weight.normal_()
    expected = ranker(**pair(QUERY, PASSAGE)).logits
    torch.testing.assert_close(ranker(**pair(QUERY, PASSAGE, padding)).logits, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_all_words_of_a_query_count_next_to_shorter_ones_and_in_onnx(tmp_path: Path) -> None:
    ranker = make_ranker(exact=True)
    ranker.term_weight.uniform_(1, 9)
    texts = [(QUERY, PASSAGE), (OTHER_QUERY, PASSAGE), ([2, *range(10, 24), 3], [40, 3])]
    alone = torch.cat([ranker(**pair(*text)).logits for text in texts])
    longest = max(len(query) + len(passage) for query, passage in texts)
    each = [pair(query, passage, longest - len(query) - len(passage)) for query, passage in texts]
    together = {name: torch.cat([one[name] for one in each]) for name in each[0]}
    torch.testing.assert_close(ranker(**together).logits, alone, atol=1e-5, rtol=1e-5)

    make_tokenizer(tmp_path)
    ranker.save_pretrained(tmp_path)
    exported = export_first_token(tmp_path, tmp_path / "m.onnx")
    assert "or the head behind it, needs more than the first token" in exported.reason
    session = onnxruntime.InferenceSession(exported.path)
    (found,) = session.run(None, {name: values.numpy() for name, values in together.items()})
    torch.testing.assert_close(torch.from_numpy(found), alone, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_a_saved_ranker_comes_back_with_its_gates(tmp_path: Path) -> None:
    ranker = make_ranker(exact=True)
    ranker.exact_scale.data.fill_(5.0)
    ranker.gate.uniform_(-3, 3)
    ranker.dimension_weight.uniform_(10, 30)
    ranker.term_weight.uniform_(0, 9)
    ranker.late_scale.fill_(7.0)
    ranker.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(**pair(QUERY, PASSAGE)).logits, ranker(**pair(QUERY, PASSAGE)).logits)

"""Words without their company: how much each weighs, and a vector for each, taught by the built-in backbone.

A T5 that starts from nothing reads by these vectors. A piece begins as the backbone's embedding of it by itself
(Model2Vec; Tulkens and van Dongen, 2024), which says little of what it adds to a text. So the mean of a text's pieces
is then taught to be as near to another text's as the backbone's embeddings of both are: Tokenlearn (the same authors,
2024), but by pairs of texts, so that the directions are free.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, normalize
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from training.backbone import BUILTIN
from training.teacher import encode_texts

RUNS = 30_000  # of words; twice as many of `pydocs` gain nothing
RUN_WORDS = (8, 16, 32, 64)  # a query has the first, a short passage the last
ROUNDS, BATCH, RATE = 6, 512, 2e-3  # more rounds learn these texts, and not others


def term_weights(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], size: int) -> Tensor:
    """BM25's inverse document frequency of each token id in `texts`, float32 (size,); 0 for special tokens.

    ln(1 + (N - n + 0.5) / (n + 0.5)) where n of N texts have the token (Robertson and Zaragoza, 2009).
    """
    counts = torch.zeros(size)
    for text in texts:
        counts[list(set(tokenizer(text, truncation=True)["input_ids"]))] += 1
    weights = torch.log1p((len(texts) - counts + 0.5) / (counts + 0.5))
    weights[tokenizer.all_special_ids] = 0.0
    return weights


def embed_pieces(tokenizer: PreTrainedTokenizerBase, cache: Path) -> Tensor:
    """Each piece as the backbone embeds it by itself, less their mean, float32 (pieces, dimension); special ones 0."""
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    words = encode_texts(BUILTIN, [piece.replace("\u2581", " ").strip() or "," for piece in pieces], cache)
    table = torch.from_numpy(words - words.mean(axis=0))
    table[tokenizer.all_special_ids] = 0.0
    return table


def runs_of_words(texts: Sequence[str]) -> list[str]:
    """Two runs of 8 to 64 words from anywhere in each text, in all `RUNS` at most, by torch's generator of numbers."""
    runs: dict[str, None] = {}
    for index in torch.randperm(len(texts)).tolist() * 2:
        if len(runs) == RUNS:
            break
        words = texts[index].split()
        length = RUN_WORDS[int(torch.randint(len(RUN_WORDS), ()))]
        first = int(torch.randint(max(1, len(words) - length + 1), ()))
        runs[" ".join(words[first : first + length])] = None
    return list(runs)


@torch.enable_grad()
def teach_pieces(
    table: Tensor, weight: Tensor, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], cache: Path
) -> Tensor:
    """The directions of the pieces, float32 (pieces, dimension) of norm 1 and 0 where the table has none.

    Args: what they begin with; how much each counts in a text's mean, (pieces,); passages of the domain; where what
    was embedded is kept. Texts whose pieces weigh nothing teach nothing.
    """
    runs = runs_of_words(texts)
    read = tokenizer(runs, add_special_tokens=False)["input_ids"]
    known = [(run, row) for run, row in zip(runs, read, strict=True) if row]
    if not known:
        return normalize(table, dim=1)
    target = torch.from_numpy(encode_texts(BUILTIN, [run for run, _ in known], cache))
    ids = [torch.tensor(row) for _, row in known]
    batches = max(1, len(ids) // BATCH)
    learned = nn.Parameter(normalize(table, dim=1))
    optimizer = torch.optim.Adam([learned], lr=RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=ROUNDS * batches)
    for _ in tqdm(range(ROUNDS), desc="words", unit="round"):
        for batch in torch.randperm(len(ids)).tensor_split(batches):
            rows = [ids[i] for i in batch.tolist()]
            flat = torch.cat(rows)
            starts = torch.tensor([0, *(len(row) for row in rows[:-1])]).cumsum(0)
            total = embedding_bag(
                flat, normalize(learned, dim=1), starts, mode="sum", per_sample_weights=weight[flat]
            )  # fmt: skip
            mean, wanted = normalize(total, dim=1), target[batch]
            loss = (mean @ mean.T - wanted @ wanted.T).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return normalize(learned.detach(), dim=1)

# ruff: noqa: RUF001  letters of other alphabets are meant
"""A miniature of XLM-R's kind: a Unigram tokenizer of sentences in many scripts, and a bi-encoder around it."""

import math
from collections import Counter
from functools import cache
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Pooling, Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import AddedToken, BertConfig, BertModel, XLMRobertaTokenizerFast

# Without spaces (ja, zh, th), right to left (ar, he), other alphabets, and all mixed with Latin and digits.
SENTENCES = {
    "en": "The river is wide and the mountain is high. Open the window, read the letter and close the old door.",
    "de": "Der Fluss ist breit und der Berg ist hoch. Öffne das Fenster, lies den Brief und schließe die alte Tür.",
    "ru": "Река широкая, а гора высокая. Открой окно, прочитай письмо и закрой старую дверь.",
    "el": "Το ποτάμι είναι πλατύ και το βουνό είναι ψηλό. Άνοιξε το παράθυρο και διάβασε το γράμμα.",
    "ja": "川は広くて山は高い。窓を開けて手紙を読み、古いドアを閉めてください。東京の天気は晴れ、気温は25度です。",
    "zh": "河很宽，山很高。请打开窗户，读信，然后关上旧门。北京今天的天气是晴天，气温25度。",
    "th": "แม่น้ำกว้างและภูเขาสูง เปิดหน้าต่าง อ่านจดหมาย และปิดประตูเก่า",
    "ko": "강은 넓고 산은 높다. 창문을 열고 편지를 읽고 낡은 문을 닫아 주세요. 大韓民國",
    "ar": "النهر واسع والجبل عالٍ. افتح النافذة واقرأ الرسالة وأغلق الباب القديم.",
    "he": "הנהר רחב וההר גבוה. פתח את החלון, קרא את המכתב וסגור את הדלת הישנה.",
    "hi": "नदी चौड़ी है और पहाड़ ऊँचा है। खिड़की खोलो, पत्र पढ़ो और पुराना दरवाज़ा बंद करो।",
}
MIXED = "iPhone 15を買った！ Привет, мир: 3 ＋ 4 = ７ 😀 (שלום world) ราคา 100 บาท ＡＢＣ"
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


@cache
def _model() -> str:
    """tokenizer.json of a Unigram model: each character of the sentences, repeated parts of words, and short ones.

    `UnigramTrainer` is not used: from the same text it makes another vocabulary in every process.
    """
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    texts = [made.normalizer.normalize_str(sentence) for sentence in SENTENCES.values()]
    words = [word for text in texts for word, _ in made.pre_tokenizer.pre_tokenize_str(text)]
    counts = Counter(word[first:last] for word in words for first in range(len(word))
                     for last in range(first + 1, min(first + 8, len(word)) + 1))  # fmt: skip
    characters = sorted(part for part in counts if len(part) == 1)
    repeated = [part for part in counts if len(part) > 1 and (counts[part] > 1 or len(part) <= 3)]
    parts = sorted(repeated, key=lambda part: (-counts[part] * len(part), part))[:400]
    total = sum(counts[part] for part in characters + parts)
    pieces = [(part, math.log(counts[part] / total)) for part in characters + parts]
    made.model = models.Unigram([(special, 0.0) for special in SPECIAL] + pieces, unk_id=SPECIAL.index("<unk>"))
    made.add_special_tokens(SPECIAL)
    made.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return made.to_str()


def make_unigram() -> XLMRobertaTokenizerFast:
    """XLM-R's tokenizer in small: NFKC, spaces in pieces, two separators in a pair, no types, <mask> behind all."""
    return XLMRobertaTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_model()), mask_token=AddedToken("<mask>", lstrip=True, special=True),
        model_max_length=64, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def make_multilingual_bi_encoder(folder: Path, spread: float = 0.4) -> Path:
    """A mean-pooled BERT of one layer, 32 wide, with this tokenizer and, as e5 has, more rows than pieces."""
    tokenizer = make_unigram()
    torch.manual_seed(1)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = BertConfig(vocab_size=len(tokenizer) + 35, max_position_embeddings=64, initializer_range=spread, **size)
    plain = folder.with_name(f"{folder.name}-plain")
    BertModel(config).save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    SentenceTransformer(modules=[Transformer(str(plain)), Pooling(32)]).save_pretrained(str(folder))
    return folder

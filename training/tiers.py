"""Tiers: how large a student is, how it is trained by default, and how many megabytes its artifact may have."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tier:
    """Defaults of one size. Lengths are tokens of a pair, the limit is in MB of 10^6 bytes."""

    hub_base: str
    layers: int
    width: int
    max_length: int
    train_length: int
    imitated_texts: int  # on which a projected student first imitates its backbone
    apart_queries: int  # trained first in neighbourhoods, with query and passage read apart
    train_queries: int
    apart_rate: float
    learning_rate: float
    limit_megabytes: float
    projected: bool  # cut out of a wider backbone when there is no pretrained base of this shape
    builtin: bool  # whether the built-in backbone can be its base
    int8_tau: float = 0.985  # Kendall's tau to fp32, on dev, that quantization climbs to


# So narrow a model gains little speed by int8, and each layer's noise weighs more: nano climbs further.
TIERS = {
    "nano": Tier(
        "google/bert_uncased_L-2_H-128_A-2", 2, 128, 192, 128, 36000, 18000, 200, 5e-4, 5e-6, 5.0, True, True, 0.995
    ),
    "small": Tier("microsoft/MiniLM-L12-H384-uncased", 6, 384, 192, 128, 0, 3200, 200, 5e-5, 5e-6, 35.0, False, True),
    "medium": Tier("google/flan-t5-base", 12, 768, 256, 192, 0, 8000, 2000, 2e-4, 1e-4, 112.0, False, False),
    "large": Tier("intfloat/multilingual-e5-small", 12, 384, 192, 128, 0, 3200, 200, 3e-5, 5e-6, 150.0, False, False),
}

"""Where training may multiply in bfloat16: more than twice as fast, with the weights kept in float32."""

import torch
from torch import Tensor

PRECISIONS = ["auto", "bf16", "fp32"]
# What the processor says of itself, on x86-64 and on ARM. Without such instructions bfloat16 is emulated, and slow.
INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


def uses_bfloat16(precision: str) -> bool:
    """Whether one of `PRECISIONS` is bfloat16; auto asks the GPU, or without one the processor."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.backends.mps.is_available():
        return False  # there models lie on Apple's GPU, of which the processor knows nothing
    found = torch.cpu.get_capabilities()
    return any(found.get(name) for name in INSTRUCTIONS)


def exact(tensor: Tensor) -> torch.autocast:
    """A context of float32 within bfloat16, for cosines, whose differences count: bfloat16 has three digits."""
    return torch.autocast(tensor.device.type, enabled=False)

"""Training in several processes at once, as torchrun and accelerate start them: who is who, and who waits."""

import os

import torch
from accelerate import PartialState
from torch import Tensor, nn


def process_count() -> int:
    """How many processes train together; 1 unless torchrun or accelerate started this one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the process that writes files and tells what is going on."""
    return int(os.environ.get("RANK", "0")) == 0


def on_processors() -> bool:
    """Whether several processes train without a GPU; unless told, accelerate takes each of them for the only one."""
    return process_count() > 1 and not torch.cuda.is_available()


def wait_for_all() -> None:
    """Go on when every process has come here, which joins them into a group the first time."""
    if process_count() > 1:
        PartialState(cpu=on_processors()).wait_for_everyone()


def average_gradients(model: nn.Module) -> None:
    """Have every later gradient of a parameter averaged over the processes as soon as it is there.

    Gradients that several passes sum up are averaged after each, which leaves the part that is averaged already as it
    is. All processes must use the same parameters in a pass.
    """
    if process_count() == 1:
        return
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(_average)


def _average(parameter: Tensor) -> None:
    assert parameter.grad is not None
    torch.distributed.all_reduce(parameter.grad)
    parameter.grad /= process_count()

"""Keep a training's peak memory near what is alive at once."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)
EVERY = 10  # layers between two looks; what each returns has to be cleared again: a hundredth of a step


def return_freed_memory(layers: Iterable[Any], every: int = EVERY) -> bool:
    """Have what freed tensors left in the heap returned to the system every few layers, forwards and backwards.

    glibc keeps freed blocks of up to 32 MB. The activations of a training come in many sizes and leave holes that fit
    nothing: the heap grew to twice or three times of what was ever alive. Returning every block at once would have all
    pages cleared anew, which took half as long as a step.

    Args:
        layers: modules that run one after another, as those of a decoder.
        every: how many layers apart.

    Returns:
        Whether this system's C library knows how (glibc does; elsewhere nothing happens).
    """
    trim = _malloc_trim()
    if trim is None:
        return False

    def give_back(*_: Any) -> None:
        trim(0)

    def give_back_while_learning(*_: Any) -> None:
        if torch.is_grad_enabled():  # not for every token that a watched policy writes
            trim(0)

    def give_back_in_backward(_module: Any, _inputs: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        if isinstance(hidden, Tensor) and hidden.requires_grad:
            hidden.register_hook(give_back)

    for layer in list(layers)[::every]:
        layer.register_forward_pre_hook(give_back_while_learning)
        layer.register_forward_hook(give_back_in_backward)
    return True


def return_all_freed_memory() -> bool:
    """Return what a training that has ended left in the heap: gigabytes, which whatever comes next would be without.

    Returns:
        Whether this system's C library knows how.
    """
    gc.collect()  # models and optimisers refer to themselves in circles
    trim = _malloc_trim()
    if trim is not None:
        trim(0)
    return trim is not None


def _malloc_trim() -> Callable[[int], int] | None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is None:
        logger.debug("this C library has no malloc_trim; freed memory stays where it is")
    return trim

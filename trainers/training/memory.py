"""What becomes of memory that a training's tensors have freed: kept for the next ones, or returned."""

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
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names of mallopt
_LARGE = 32 << 20  # glibc's own bound: blocks from here on are the system's, and go back when they are freed


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


def keep_freed_memory() -> bool:
    """Have the heap keep what is free at its end, until `return_all_freed_memory`.

    glibc returns it whenever that is more than 64 MB, as after a layer, and every page is cleared by the system when
    it comes back. That was a twentieth of a step. The peak is the same: blocks of 32 MB and more are returned as ever,
    and so is what `return_freed_memory` returns.

    Returns:
        Whether this system's C library knows how (glibc does).
    """
    return _keep_at_its_end(-1)  # the largest number there is


def return_all_freed_memory() -> bool:
    """Return what a training that has ended left in the heap: gigabytes, which whatever comes next would be without.

    From then on glibc returns what is free at the heap's end, as it does when it is left alone.

    Returns:
        Whether this system's C library knows how.
    """
    gc.collect()  # models and optimisers refer to themselves in circles
    _keep_at_its_end(2 * _LARGE)
    trim = _malloc_trim()
    if trim is not None:
        trim(0)
    return trim is not None


def _keep_at_its_end(size: int) -> bool:
    """At most ``size`` bytes. Both bounds are set, for to set one ends glibc's adapting of both, and it begins low."""
    mallopt = _of_libc("mallopt")
    bounds = ((_M_MMAP_THRESHOLD, _LARGE), (_M_TRIM_THRESHOLD, size))
    return mallopt is not None and all(mallopt(*bound) for bound in bounds)


def _malloc_trim() -> Callable[[int], int] | None:
    return _of_libc("malloc_trim")


def _of_libc(name: str) -> Callable[..., int] | None:
    found = getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
    if found is None:
        logger.debug("this C library has no %s; freed memory stays where it is", name)
    return found

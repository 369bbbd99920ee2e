"""Keep a training's peak memory near what is alive at once."""

from __future__ import annotations

import ctypes
import logging

logger = logging.getLogger(__name__)

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of glibc's mallopt(3)
RETURNED_AT_ONCE = 1 << 20  # bytes; activations of a few hundred tokens are larger


def return_freed_memory() -> bool:
    """Have freed tensors returned to the system at once, for the rest of this process.

    glibc keeps freed blocks of up to 32 MB in its heap. The activations of a training come in many sizes and leave
    holes there which fit nothing: the heap grew to twice of what was ever alive. Blocks of their own leave no holes; a
    step takes about a fifth more time, since fresh pages must be cleared.

    Returns:
        Whether this system's C library knows how (glibc does; elsewhere nothing happens).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        logger.debug("this C library has no mallopt; freed memory stays as it is kept")
        return False
    return all(mallopt(name, RETURNED_AT_ONCE) == 1 for name in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))

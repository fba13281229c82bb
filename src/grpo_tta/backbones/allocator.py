"""Memory that a model's layers free stays with the process, where the C library is glibc.

glibc gives large pieces of freed memory back to the system. The next layer asks for the same again, and the system has to fill
every page with zeros: up to a third of a frozen pass (docs/cost.md). torch itself keeps nothing on a CPU.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's malloc.h: free bytes that the heap keeps at its end, and size from which a piece is outside of it."""
_KEPT, _OF_OLD_GLIBC = 256 * 2**20, 32 * 2**20
"""Bytes; old versions of glibc refuse more than the second for the second of them."""
_OF_THE_USER = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Lets this process keep up to 256 MB of freed memory. For programs of their own, such as the commands, not for a library.

    Whoever sets glibc's own variables is left alone.

    Returns:
        Whether it is so now. With another C library nothing is done.
    """
    mallopt = _mallopt()
    if mallopt is None or any(name in environment for name in _OF_THE_USER):
        return False
    # The size first: the other one alone would also freeze this at its start, where every tensor is a piece of its own.
    sized = mallopt(_MMAP_THRESHOLD, _KEPT) or mallopt(_MMAP_THRESHOLD, _OF_OLD_GLIBC)
    return bool(sized and mallopt(_TRIM_THRESHOLD, _KEPT))


def _mallopt() -> Callable[[int, int], int] | None:
    """glibc's function; None where there is none, or one of the same name that does nothing."""
    try:
        library = ctypes.CDLL(None)
        return library.mallopt if hasattr(library, "gnu_get_libc_version") else None
    except (TypeError, OSError, AttributeError):  # Windows; a program without shared libraries
        return None

"""Memory that was used once goes back to the system (glibc; elsewhere nothing is done)."""

from __future__ import annotations

import ctypes
import gc
import sys

# malloc.h
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

# By default there are eight arenas a core, each of which keeps what its threads once needed, and
# the size from which memory is the system's own grows with what is freed, to 32 MB.
_ARENAS = 4
_OWN_MAPPING = 4 << 20


def use_little() -> None:
    """Have malloc keep less for itself. For the whole process; safe to repeat."""
    if (libc := _glibc()) is not None:
        libc.mallopt(_M_ARENA_MAX, _ARENAS)
        libc.mallopt(_M_MMAP_THRESHOLD, _OWN_MAPPING)


def give_back() -> None:
    """Collect what nobody holds, and return free memory to the system."""
    gc.collect()
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") else None  # musl has none

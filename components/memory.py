"""How the C library gives memory back."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""As in glibc's malloc.h."""
LARGEST_ON_HEAP = 32 * 2**20
"""Bytes: the most that glibc takes for M_MMAP_THRESHOLD."""


def keep_freed_memory() -> None:
    """Has the C library keep what is freed for the next one who asks, to the end of the process.

    A network's activations on a CPU are some tens of megabytes that come and go with every batch. glibc
    hands them back to the system each time, which then fills every page with zeros again: a third of the
    time of a feature network's pass. Other C libraries are left as they are.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_ON_HEAP)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)

"""What a process does with memory that it has freed."""

import ctypes
import os

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8


def keep_freed_memory() -> None:
    """Let glibc keep what is freed, up to half a gigabyte, instead of handing it back to the system.

    Models come and go by the megabyte, and page faults on fresh memory cost several times the copy itself. Threads that
    begin afterwards share one arena, so that what one has freed serves another; of those that have memory of their own
    by then all is kept. Hence the earlier, the better. Forked workers inherit the setting; Ray's make it themselves.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, 1 << 25)
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)  # refused by some versions, which then keep the line above
        mallopt(_M_TRIM_THRESHOLD, 1 << 29)
        # Threads that have an arena of their own already: its heaps, of 64 MB, would go once they are empty.
        mallopt(_M_TOP_PAD, 1 << 26)

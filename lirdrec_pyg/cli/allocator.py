import ctypes

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
# Larger pieces go back: kept, they would take a large graph half as much memory again.
_LARGEST_KEPT = 256 * 2**20
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next tensors of the same size; does nothing without glibc.

    Each training step frees what the next one allocates. Returning it to the system in between takes a tenth of a step.
    The setting is that of the whole process, so only commands call this.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    if not mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT):
        # An older glibc refuses more than 32 MiB, and would stay at 128 KiB once a threshold is set.
        mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _NEVER)

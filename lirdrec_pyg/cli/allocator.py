import ctypes

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
# Larger pieces go back: kept, they would take a large graph half as much memory again.
_LARGEST_KEPT = 256 * 2**20
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Has glibc keep freed memory for the next tensors of the same size.

    Each step of a training frees what the next one asks for; to give it back to the system in between,
    and to be given it page by page again, takes a tenth of a step. It is the process that has a say in
    this, so only commands call it. Elsewhere than on glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    if not mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT):
        # An older glibc refuses more than 32 MiB, and would stay at 128 KiB once a threshold is set.
        mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _NEVER)

"""What a process does with memory that it no longer needs."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of `mallopt`, from the GNU C library's malloc.h."""

LARGEST_KEPT_BYTES = 2**25
"""What is larger is always mapped by itself, and given back; the library takes no higher threshold on 64 bits."""

TRIMMED_BYTES = 2 * LARGEST_KEPT_BYTES
"""Free memory at the end of the heap above which the library gives it back, as it chooses for maps of this size."""

NEVER_TRIMMED_BYTES = 2**31 - 1


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within the block, keep freed memory for what is asked for next; after it, give back what is free.

    Each step of a training on a CPU asks for the same maps. The GNU C library gives memory back as soon as some is free
    at the end of its heap, and the system clears and maps every page of it anew in the next step. What was most in use
    at once stays the same. With another C library, the block changes nothing.

    Source:
        mallopt(3), M_TRIM_THRESHOLD and M_MMAP_THRESHOLD; malloc_trim(3); docs/speed.md.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    library.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
    library.mallopt(M_TRIM_THRESHOLD, NEVER_TRIMMED_BYTES)
    try:
        yield
    finally:
        library.mallopt(M_TRIM_THRESHOLD, TRIMMED_BYTES)
        library.malloc_trim(0)

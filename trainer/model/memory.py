"""Give memory back to the system."""

import ctypes
import gc
import platform


def release_memory() -> None:
    """Give back what is no longer used: cycles of objects, and with glibc the freed blocks of the heap."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)

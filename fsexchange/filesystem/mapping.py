"""Mappings of files, whose memory belongs to the caller."""

from __future__ import annotations

import ctypes
import errno
import mmap
from itertools import starmap

import numpy as np

from fsexchange.filesystem.release import Releases

# Python's own mmap object keeps a duplicate of the file descriptor for as long as the mapping
# lives (before 3.13 always): a thousand live arrays would use up the usual limit of open files. So
# libc's mmap is called.
_libc = ctypes.CDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_munmap = _libc.munmap
_munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.py_object]  # the last for `Releases`
_MAP_FAILED = ctypes.c_void_p(-1).value
_MAP_NORESERVE = 0x4000  # asm-generic/mman.h; Python has it from 3.13 on
_WRITABLE = mmap.PROT_READ | mmap.PROT_WRITE


def _most_mappings() -> int:
    """Return how many files to keep mapped at most: three quarters of what the kernel allows.

    A process that has used up its maps gets no more memory, not even to read into.
    """
    try:
        with open("/proc/sys/vm/max_map_count", encoding="ascii") as file:
            return int(file.read()) * 3 // 4
    except OSError:
        return 65530 * 3 // 4  # the kernel's default: sysctl/vm.rst


_MOST_MAPPINGS = _most_mappings()
_mapped = Releases()


class _Mapping:
    """Owner of one mapping; numpy arrays made from it keep it alive."""

    __array_interface__: dict[str, object]
    """https://numpy.org/doc/stable/reference/arrays.interface.html"""


def mapped(fd: int, nbytes: int, offset: int = 0) -> memoryview | None:
    """Map a file copy-on-write; None where the kernel will not: no mmap, maps used up.

    Memory is not reserved for pages that are never written to, so that a file may be larger than
    the memory. Where a writable mapping is refused all the same (ulimit -d, overcommit_memory 2) it
    is read-only: setrlimit(2), proc(5).
    """
    for protection in (_WRITABLE, mmap.PROT_READ):
        memory = _map(fd, nbytes, protection, mmap.MAP_PRIVATE | _MAP_NORESERVE, offset)
        if memory is not None:
            return memory
    return None


def shared(fd: int, nbytes: int) -> memoryview:
    """Map a file to read and write; `OSError` where the kernel will not."""
    memory = _map(fd, nbytes, _WRITABLE, mmap.MAP_SHARED)
    if memory is None:
        raise OSError(errno.ENOMEM, "the kernel maps no more for this process")
    return memory


def _map(fd: int, nbytes: int, protection: int, flags: int, offset: int = 0) -> memoryview | None:
    if len(_mapped) >= _MOST_MAPPINGS:
        return None
    mapping, address, size = _Mapping(), ctypes.c_void_p(), ctypes.c_size_t()
    _mapped.add(mapping, _munmap, address, size)  # of no bytes it does nothing
    wanted = (None, nbytes, protection, flags, fd, offset)
    (address.value,) = starmap(_mmap, (wanted,))
    size.value = nbytes  # where it failed the address is -1, from which nothing is unmapped
    if address.value == _MAP_FAILED:
        return None
    mapping.__array_interface__ = {
        "data": (address.value, not protection & mmap.PROT_WRITE),
        "shape": (nbytes,),
        "typestr": "|u1",
        "version": 3,
    }
    return np.asarray(mapping).data

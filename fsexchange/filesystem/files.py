"""Whole files: written once from buffers without a copy, then read or mapped.

These functions take paths and buffers, and know nothing of keys and stores. They raise plain
`OSError`, and `CorruptObjectError` for a file of the wrong length.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import weakref
from collections.abc import Iterable, Sequence
from pickle import PickleBuffer
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fsexchange.errors import CorruptObjectError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    Buffers: TypeAlias = Buffer | Sequence[Buffer]

#: Data as a read returns it: always writable, and always the caller's own.
BytesLike: TypeAlias = bytes | bytearray | memoryview

#: A file of this many bytes or more is mapped, not read: on warm ext4 and tmpfs a mapping costs
#: 15 us whatever the size, a `read` 45 us for 1 MiB and 350 us for 4 MiB.
MAP_FROM = 1 << 20

# Fewer bytes are read into a bytearray: to fill it with zeros costs less than to make an array.
_BYTEARRAY_UP_TO = 1 << 16

# The most buffers in one call: limits.h, writev(2).
_IOV_MAX = os.sysconf("SC_IOV_MAX")

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_CLOEXEC

# Python's own mmap object keeps a duplicate of the file descriptor for as long as the mapping
# lives (before 3.13 always): a thousand live arrays would use up the usual limit of open files. So
# libc's mmap is called.
_libc = ctypes.CDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_munmap = _libc.munmap
_munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_MAP_FAILED = ctypes.c_void_p(-1).value
_MAP_NORESERVE = 0x4000  # asm-generic/mman.h; Python has it from 3.13 on


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
_mapped: set[int] = set()


def flatten(obj: Buffers) -> tuple[list[Buffer], int]:
    """Return one object as contiguous buffers, and the sum of their lengths in bytes.

    C-contiguous buffers are passed on uncopied. Others are copied in C order, as
    `memoryview.tobytes` does. `TypeError` for an object without a buffer, such as a `str`.
    """
    if type(obj) is bytes:
        return ([obj], len(obj)) if obj else ([], 0)
    pieces: list[Buffer] = []
    total = 0
    for buffer in obj if isinstance(obj, (list, tuple)) else (obj,):
        if type(buffer) is bytes:
            nbytes = len(buffer)
        else:
            try:
                view = memoryview(buffer)
            except (TypeError, ValueError):  # ValueError: numpy's datetimes export no buffer
                raise TypeError(
                    f"expected a bytes-like object or a list of them, not {type(buffer).__name__}"
                    "; fsexchange.serialize turns any object into such a list"
                ) from None
            nbytes = view.nbytes
            if not view.c_contiguous:
                buffer = view.tobytes()
            elif view.ndim != 1 or view.itemsize != 1:
                buffer = PickleBuffer(view).raw() if nbytes else b""
        if nbytes:
            pieces.append(buffer)
            total += nbytes
    return pieces, total


def create(path: str, pieces: Sequence[Buffer], nbytes: int) -> None:
    """Write `pieces`, `nbytes` in all, to a file that must not exist yet: all of them, or no file.

    Three system calls, if one `pwritev` takes everything. Mode 0600, not synced to disk.
    """
    fd = os.open(path, _CREATE, 0o600)
    try:
        try:
            write(fd, pieces, nbytes)
        finally:
            # Write errors may show only here (NFS, quotas); the descriptor is gone either way,
            # so close is checked but never repeated: close(2).
            os.close(fd)
    except BaseException:
        # Ctrl-C counts: nobody will ever have the key of half a file.
        unlink(path)
        raise


def write(fd: int, pieces: Sequence[Buffer], nbytes: int, offset: int = 0) -> None:
    """Write contiguous `pieces`, `nbytes` in all, from `offset` on."""
    written = 0
    for at in range(0, len(pieces), _IOV_MAX):
        written += os.pwritev(fd, pieces[at : at + _IOV_MAX], offset + written)
    if written != nbytes:
        # Any one of several calls may have written too little: then write all again.
        _write_rest(fd, pieces, written if len(pieces) <= _IOV_MAX else 0, offset)


def _write_rest(fd: int, pieces: Sequence[Buffer], written: int, offset: int) -> None:
    """Write all after `written` bytes; one call takes IOV_MAX buffers and 0x7ffff000 bytes."""
    rest = [memoryview(piece).cast("B") for piece in pieces if memoryview(piece).nbytes]
    rest.reverse()  # the next piece is last: there `pop` is cheap
    while True:
        offset += written
        while rest and written >= rest[-1].nbytes:
            written -= rest.pop().nbytes
        if not rest:
            return
        rest[-1] = rest[-1][written:]
        written = os.pwritev(fd, rest[: -_IOV_MAX - 1 : -1], offset)
        if written == 0:
            raise OSError(errno.EIO, "pwritev wrote nothing")


def read(path: str, nbytes: int = -1, *, mappable: bool = True) -> BytesLike:
    """Return a whole file as a writable buffer of the caller's own.

    If `nbytes` is given, a file of another length is a `CorruptObjectError`. Three system calls for
    a file below `MAP_FROM`, four for a mapping. A mapping is private, copy-on-write: pages not
    written to are shared with all readers, pages written to are the caller's, and the file never
    changes.
    """
    fd = os.open(path, _READ)
    try:
        if 0 <= nbytes < MAP_FROM:
            # One byte more than there should be: so a longer file is noticed without an fstat.
            buffer = _memory(nbytes)
            if os.readv(fd, [buffer, bytearray(1)]) == nbytes:
                return buffer
        size = os.fstat(fd).st_size
        if nbytes not in (-1, size):
            raise CorruptObjectError(
                f"{path} has {size} bytes instead of {nbytes}: it was truncated or overwritten by "
                "something other than fsexchange; put the object again",
                path=path,
                expected=nbytes,
                actual=size,
            )
        if size >= MAP_FROM and mappable:
            mapping = _map(fd, size)
            if mapping is not None:
                return mapping
        return _read_all(fd, size, path)
    finally:
        os.close(fd)


def read_part(path: str, offset: int, nbytes: int, *, mappable: bool = True) -> BytesLike:
    """Return `nbytes` bytes of a file from `offset` on, as `read` returns a whole file."""
    fd = os.open(path, _READ)
    try:
        if nbytes >= MAP_FROM and mappable and os.fstat(fd).st_size >= offset + nbytes:
            before = offset % mmap.ALLOCATIONGRANULARITY  # a mapping starts at a page: mmap(2)
            mapping = _map(fd, before + nbytes, offset - before)
            if mapping is not None:
                return mapping[before:]
        return _read_all(fd, nbytes, path, offset)
    finally:
        os.close(fd)


def _read_all(fd: int, size: int, path: str, offset: int = 0) -> BytesLike:
    buffer = _memory(size)
    view = memoryview(buffer)
    done = 0
    while done < size:
        got = os.preadv(fd, [view[done:]], offset + done)  # at most 0x7ffff000 bytes: read(2)
        if got == 0:
            raise CorruptObjectError(
                f"{path} ended after {done} of {size} bytes while it was read",
                path=path,
                expected=size,
                actual=done,
            )
        done += got
    view.release()
    return buffer


def _memory(nbytes: int) -> BytesLike:
    """Return fresh memory to read into; only a bytearray is filled with zeros first."""
    return bytearray(nbytes) if nbytes < _BYTEARRAY_UP_TO else np.empty(nbytes, np.uint8).data


class _Mapping:
    """Owner of one mapping; numpy arrays made from it keep it alive."""

    def __init__(self, address: int, nbytes: int, *, writable: bool) -> None:
        # https://numpy.org/doc/stable/reference/arrays.interface.html
        self.__array_interface__ = {
            "data": (address, not writable),
            "shape": (nbytes,),
            "typestr": "|u1",
            "version": 3,
        }
        _mapped.add(address)
        finalizer = weakref.finalize(self, _unmap, address, nbytes)
        # Other exit handlers may still use the array; the kernel unmaps it at the end anyway.
        finalizer.atexit = False


def _unmap(address: int, nbytes: int) -> None:
    _mapped.discard(address)  # before the kernel may give the address to another thread
    _munmap(address, nbytes)


def _map(fd: int, nbytes: int, offset: int = 0) -> memoryview | None:
    """Map a file copy-on-write; None where the kernel will not: no mmap, maps used up.

    Memory is not reserved for pages that are never written to, so that a file may be larger than
    the memory. Where a writable mapping is refused all the same (ulimit -d, overcommit_memory 2) it
    is read-only: setrlimit(2), proc(5).
    """
    if len(_mapped) >= _MOST_MAPPINGS:
        return None
    flags = mmap.MAP_PRIVATE | _MAP_NORESERVE
    for writable in (True, False):
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        address = _mmap(None, nbytes, protection, flags, fd, offset)
        if address != _MAP_FAILED:
            return np.asarray(_Mapping(address, nbytes, writable=writable)).data
    return None


def unlink(path: str) -> None:
    """Remove a file; no error if it is gone already."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def listing(path: str) -> Iterable[str]:
    """Return the names in a directory; none if it is gone."""
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return ()

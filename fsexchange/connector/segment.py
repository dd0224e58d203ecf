"""Segments: files that many small objects share, each of them to be evicted by itself.

A segment of n units of 64 bytes is a file `<number>.<n>`; who has a key of it knows where all is:

    offset      size
    0           1 for each chunk of 1,024 units: 1 if all of them are free
    ...         1 for each unit: 1 if the object that it was a part of is evicted
    start       64 for each unit, from the next multiple of 4,096 on: the objects, each from the
                beginning of a unit on and taking one at least

The flags are there from the beginning, so that a full disk keeps nobody from evicting. Two who
evict at a time write different bytes, then look at the others', so at least one of them sees all
free, and removes the file. A free chunk's space is given back at once where the file system can,
fallocate(2). An object is read before its flag, so nobody takes a hole's zeros for an object.

On network file systems all is read past the client's cache (O_DIRECT, open(2)), which would show
others' flags as they were: measured on NFSv4, GlusterFS and bindfs, for minutes, as a client that
writes to a page itself holds the rest of it for new. What is written there goes to the server at
once, and nothing beside it does (O_DSYNC; without it an NFS client may send the whole page, Linux,
nfs_can_extend_write). A segment is never mapped.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fsexchange.connector.layout import (
    CHUNK,
    UNIT,
    fits,
    segment_chunks,
    segment_start,
    segment_units,
)
from fsexchange.errors import CorruptObjectError
from fsexchange.filesystem import files

if TYPE_CHECKING:
    import numpy.typing as npt
    from typing_extensions import Buffer

#: Where objects begin, or how long they are, in bytes.
Ints: TypeAlias = "npt.NDArray[np.int64]"

_LIVE, _FREE = b"\0", b"\1"

#: How to open a segment: to read from it, or to evict and append, too.
READ, WRITE = os.O_RDONLY | os.O_CLOEXEC, os.O_RDWR | os.O_CLOEXEC

# falloc.h
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_fallocate = ctypes.CDLL(None).fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def units_of(nbytes: int) -> int:
    """Return how many units an object takes: one at least, for its flag."""
    return -(-nbytes // UNIT) or 1


def padding(nbytes: int) -> bytes:
    """Return what follows an object in a segment, up to where another may begin."""
    return bytes(UNIT * units_of(nbytes) - nbytes)


def retire(path: str) -> None:
    """Evict all that is in a segment which is to be removed, if it is one.

    Who has it open sees none of it any more, and keeps no space.
    """
    units = segment_units(path)
    with contextlib.suppress(OSError):
        fd = os.open(path, WRITE | os.O_NOFOLLOW)
        try:
            if os.fstat(fd).st_size >= segment_start(units):
                os.pwrite(fd, _FREE * units, segment_chunks(units))
                os.ftruncate(fd, segment_start(units))
        finally:
            os.close(fd)


class Segment:
    """A segment, open until the last reference goes. Threads may share it."""

    __slots__ = ("_chunks", "_end", "_fd", "_path", "_pread", "_start", "_units", "_writable")

    def __init__(self, path: str, flags: int) -> None:
        self._fd = -1
        self._path = path
        self._units = segment_units(path)
        self._chunks = segment_chunks(self._units)
        self._start = segment_start(self._units)
        self._end = self._start + UNIT * self._units
        self._pread = _pread_aligned if flags & os.O_DIRECT else os.pread
        self._writable = bool(flags & os.O_RDWR)
        self._fd = os.open(path, flags)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def holds(self, offset: int, nbytes: int) -> bool:
        """Tell whether an object can lie there."""
        return bool(fits(self._start, self._end, offset, nbytes))

    def read(self, offset: int, nbytes: int) -> bytearray | None:
        """Return an object, or None if it is evicted."""
        data = self._pread(self._fd, nbytes, offset)
        flag = self._pread(self._fd, 1, self._chunks + (offset - self._start) // UNIT)
        if flag == _FREE:
            return None
        if len(data) != nbytes or flag != _LIVE:
            raise self._truncated(offset + nbytes)
        return bytearray(data)

    def read_run(self, begins: Ints, ends: Ints) -> tuple[bytes, npt.NDArray[np.bool_]]:
        """Return what is from the first to the last of neighbours, and which are not evicted."""
        begin, end = int(begins[0]), int(ends.max())
        data = self._pread(self._fd, end - begin, begin)
        units = (begins - begin) // UNIT
        flags = self._flags((begin - self._start) // UNIT, int(units[-1]) + 1)
        if len(flags) <= units[-1]:
            raise self._truncated(end)
        live: npt.NDArray[np.bool_] = np.frombuffer(flags, np.uint8)[units] == 0
        if len(data) < end - begin and live[(ends > begins) & (ends - begin > len(data))].any():
            raise self._truncated(end)
        return data, live

    def is_live(self, offset: int) -> bool:
        """Tell whether the object that begins there is not evicted."""
        return self._flags((offset - self._start) // UNIT, 1) == _LIVE

    def evict(self, offset: int, end: int) -> bool:
        """Evict what is from `offset` to the end of a unit; return whether nothing is left."""
        first = (offset - self._start) // UNIT
        count = units_of(end - offset)
        fd = self._fd if self._writable else os.open(self._path, WRITE | os.O_DSYNC)
        try:
            os.pwrite(fd, _FREE * count, self._chunks + first)
            if count > CHUNK and self._are_free(self._chunks, self._units):
                os.ftruncate(fd, self._start)  # all at once; who has it open keeps no space
                return True
            some_free = False
            for chunk in range(first // CHUNK, (first + count - 1) // CHUNK + 1):
                if self._is_free(chunk):
                    some_free = True
                    os.pwrite(fd, _FREE, chunk)
                    # Where the file system cannot, the space goes with the file.
                    begin, size = self._start + chunk * CHUNK * UNIT, CHUNK * UNIT
                    _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, begin, size)
        finally:
            if fd != self._fd:
                os.close(fd)
        return some_free and self._are_free(0, self._chunks)

    def append(self, offset: int, pieces: Sequence[Buffer], nbytes: int) -> None:
        """Write an object where none was before; on failure none is there, either.

        `FileNotFoundError` if the file was removed meanwhile.
        """
        try:
            files.write(self._fd, pieces, nbytes, offset)
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, offset)
            raise
        if not os.fstat(self._fd).st_nlink:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._path)

    def _is_free(self, chunk: int) -> bool:
        count = min(CHUNK, self._units - chunk * CHUNK)
        return self._are_free(self._chunks + chunk * CHUNK, count)

    def _are_free(self, offset: int, count: int) -> bool:
        flags = self._pread(self._fd, count, offset)
        return _LIVE not in flags and len(flags) == count

    def _flags(self, first: int, count: int) -> bytes:
        """Return the flags of units, fewer if the file ends before."""
        return self._pread(self._fd, count, self._chunks + first)

    def _truncated(self, end: int) -> CorruptObjectError:
        return CorruptObjectError(
            f"{self._path} ends before byte {end}: it was truncated or overwritten by something "
            "other than fsexchange; put the object again",
            path=self._path,
            expected=end,
            actual=os.fstat(self._fd).st_size,
        )


def _pread_aligned(fd: int, nbytes: int, offset: int) -> bytes:
    """Do as `os.pread`, but by whole pages, as O_DIRECT may want it: open(2), NOTES."""
    before = offset % mmap.PAGESIZE
    size = -(-(before + nbytes) // mmap.PAGESIZE) * mmap.PAGESIZE
    with mmap.mmap(-1, size or mmap.PAGESIZE) as pages:
        end = 0
        while end < size and end % mmap.PAGESIZE == 0:  # a part of a page is the end of the file
            with memoryview(pages) as whole, whole[end:] as rest:
                got = os.preadv(fd, (rest,), offset - before + end)
            if got == 0:
                break
            end += got
        return pages[before : min(end, before + nbytes)]

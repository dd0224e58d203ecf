"""Segments: files that many small objects share, each of them to be evicted by itself.

A segment of n units of 64 bytes is a file `<number>.<n>`; who has a key of it knows where all is:

    offset      size
    0           1 for each chunk of 1,024 units: 1 if all of them are free
    ...         1 for each unit: 1 if the object that it was a part of is evicted
    start       64 for each unit, from the next multiple of 4,096 on: the objects, each from the
                beginning of a unit on and taking one at least

The flags are there from the beginning, so that a full disk keeps nobody from evicting. Two who
evict at a time write different bytes and look at the others' after their own, so at least one of
them sees all free, and removes the file. On network file systems a write goes to the server by
itself (O_DSYNC: else an NFS client may send the whole page, with others' flags as it remembers
them; Linux, nfs_can_extend_write), and is followed by an `open`, which asks the server (nfs(5),
close-to-open).

Where no other host reads, a free chunk's space is given back at once (fallocate(2)). An object is
read before its flag, so nobody takes a hole's zeros for an object. A segment is never mapped.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from fsexchange import files
from fsexchange.errors import CorruptObjectError
from fsexchange.layout import (
    CHUNK,
    PACKED_BELOW,
    UNIT,
    segment_chunks,
    segment_start,
    segment_units,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: Where objects begin, or how long they are, in bytes.
Ints: TypeAlias = npt.NDArray[np.int64]

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
    """A segment, open until the last reference goes. Threads may share it.

    With `network`, what other hosts write is asked for where it matters.
    """

    __slots__ = ("_chunks", "_end", "_fd", "_network", "_path", "_start", "_units")

    def __init__(self, path: str, flags: int, *, network: bool) -> None:
        self._fd = -1
        self._path = path
        self._network = network
        self._units = segment_units(path)
        self._chunks = segment_chunks(self._units)
        self._start = segment_start(self._units)
        self._end = self._start + UNIT * self._units
        self._fd = os.open(path, flags)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def holds(self, offset: int, nbytes: int) -> bool:
        """Tell whether an object can lie there."""
        return (
            self._start <= offset <= self._end - nbytes
            and offset % UNIT == 0
            and 0 <= nbytes < PACKED_BELOW
        )

    def read(self, offset: int, nbytes: int) -> bytearray | None:
        """Return an object, or None if it is evicted."""
        data = bytearray(nbytes)
        got = os.preadv(self._fd, (data,), offset)
        flag = os.pread(self._fd, 1, self._flag(offset))
        if flag == _FREE:
            return None
        if got != nbytes or flag != _LIVE:
            raise self._truncated(offset + nbytes)
        return data

    def read_run(self, memory: memoryview, begins: Ints, ends: Ints) -> npt.NDArray[np.bool_]:
        """Read neighbours into `memory`; return which of them are not evicted."""
        begin, end = int(begins[0]), int(ends[-1])
        got = os.preadv(self._fd, (memory[: end - begin],), begin)
        units = (begins - begin) // UNIT
        flags = os.pread(self._fd, int(units[-1]) + 1, self._flag(begin))
        if len(flags) <= units[-1]:
            raise self._truncated(end)
        live: npt.NDArray[np.bool_] = np.frombuffer(flags, np.uint8)[units] == 0
        if got < end - begin and live[ends - begin > got].any():
            raise self._truncated(end)
        return live

    def is_live(self, offset: int) -> bool:
        """Tell whether the object that begins there is not evicted."""
        return os.pread(self._fd, 1, self._flag(offset)) == _LIVE

    def evict(self, offsets: Sequence[int], ends: Sequence[int]) -> bool:
        """Evict what is from each of `offsets` to the end of a unit; return if nothing is left."""
        chunks: set[int] = set()
        for offset, end in zip(offsets, ends, strict=True):
            first = (offset - self._start) // UNIT
            count = units_of(end - offset)
            os.pwrite(self._fd, _FREE * count, self._chunks + first)
            chunks.update(range(first // CHUNK, (first + count - 1) // CHUNK + 1))
        self._ask_server()
        free = [chunk for chunk in chunks if self._is_free(chunk)]
        if not free:
            return False
        for chunk in free:
            os.pwrite(self._fd, _FREE, chunk)
            if not self._network:
                # Where the file system cannot, the space goes with the file.
                size = CHUNK * UNIT
                _fallocate(self._fd, _PUNCH_HOLE | _KEEP_SIZE, self._start + chunk * size, size)
        self._ask_server()
        return os.pread(self._fd, self._chunks, 0) == _FREE * self._chunks

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

    def _flag(self, offset: int) -> int:
        return self._chunks + (offset - self._start) // UNIT

    def _is_free(self, chunk: int) -> bool:
        count = min(CHUNK, self._units - chunk * CHUNK)
        return os.pread(self._fd, count, self._chunks + chunk * CHUNK) == _FREE * count

    def _ask_server(self) -> None:
        """Have the next `pread` see what other hosts have written by now."""
        if self._network:
            fd, self._fd = self._fd, -1
            os.close(fd)
            self._fd = os.open(self._path, WRITE | os.O_DSYNC)

    def _truncated(self, end: int) -> CorruptObjectError:
        return CorruptObjectError(
            f"{self._path} ends before byte {end}: it was truncated or overwritten by something "
            "other than fsexchange; put the object again",
            path=self._path,
            expected=end,
            actual=os.fstat(self._fd).st_size,
        )

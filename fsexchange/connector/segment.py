"""Segments: files that many small objects share. Each object can be evicted alone.

`geometry.py` says where everything lies. The flags are in the file from the start, so evicting
works on a full disk, too. Two processes that evict at the same time first write different bytes,
then read all flags; so at least one of them sees all flags set, and removes the file. The space of
a free chunk is given back at once where the file system can do that, fallocate(2). An object is
read before its flag, so nobody takes the zeros of a hole for an object.

On network file systems all reads bypass the client's cache (O_DIRECT, open(2)). The cache would
show old flags of other clients, for minutes: measured on NFSv4, GlusterFS and bindfs. A client that
writes to a page itself takes the rest of that page for new. Flags written there go to the server at
once, and no bytes beside them do (O_DSYNC; without it an NFS client may send the whole page: Linux,
nfs_can_extend_write). A segment is never mapped.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from typing import TYPE_CHECKING

import numpy as np

from fsexchange.connector.geometry import CHUNK, UNIT, Geometry, Ints, geometry_of, units_for
from fsexchange.errors import CorruptObjectError
from fsexchange.filesystem import files
from fsexchange.filesystem.release import Releases

if TYPE_CHECKING:
    import numpy.typing as npt

_LIVE, _FREE = b"\0", b"\1"

#: How to open a segment: to read from it, or to evict as well.
READ, WRITE = os.O_RDONLY | os.O_CLOEXEC, os.O_RDWR | os.O_CLOEXEC

# falloc.h
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_libc = ctypes.CDLL(None)
_close = _libc.close
_close.argtypes = [ctypes.c_int, ctypes.py_object]  # the last for `Releases`

# The files of all segments that are open.
_open = Releases()


def retire(path: str) -> None:
    """Evict all objects of a segment that is about to be removed, if the file is one.

    A process that has it open then sees none of them, and keeps no space in use.
    """
    geometry = geometry_of(path)
    with contextlib.suppress(OSError):
        (fd,) = map(os.open, (path,), (WRITE | os.O_NOFOLLOW,))
        try:
            if os.fstat(fd).st_size >= geometry.start:
                files.write(fd, [_FREE * geometry.units], geometry.units, geometry.flag(0))
                os.ftruncate(fd, geometry.start)
        finally:
            os.close(fd)


class Segment:
    """A segment, open until the last reference to it goes. Threads may share it."""

    __slots__ = ("__weakref__", "_fd", "_path", "_pread", "_writable", "geometry")

    def __init__(self, path: str, flags: int, uid: int = -1) -> None:
        self._path = path
        self.geometry: Geometry = geometry_of(path)
        self._pread = _pread_aligned if flags & os.O_DIRECT else os.pread
        self._writable = bool(flags & os.O_RDWR)
        fd = ctypes.c_int(-1)
        _open.add(self, _close, fd)
        (fd.value,) = map(os.open, (path,), (flags,))  # as `files` says
        self._fd = fd.value
        files.check_uid(self._fd, uid, path)

    def read(self, offset: int, nbytes: int) -> bytearray | None:
        """Return an object, or None if it is evicted."""
        data = self._pread(self._fd, nbytes, offset)
        flag = self._flags(self.geometry.unit(offset), 1)
        if flag == _FREE:
            return None
        if len(data) != nbytes or flag != _LIVE:
            raise self._truncated(offset + nbytes)
        return bytearray(data)

    def read_extent(self, starts: Ints, ends: Ints) -> tuple[bytes, npt.NDArray[np.bool_]]:
        """Return the bytes from the first to the last object, and which objects are not evicted."""
        start, end = int(starts[0]), int(ends.max())
        data = self._pread(self._fd, end - start, start)
        units = (starts - start) // UNIT
        flags = self._flags(self.geometry.unit(start), int(units[-1]) + 1)
        if len(flags) <= units[-1]:
            raise self._truncated(end)
        live: npt.NDArray[np.bool_] = np.frombuffer(flags, np.uint8)[units] == 0
        if len(data) < end - start and live[(ends > starts) & (ends - start > len(data))].any():
            raise self._truncated(end)
        return data, live

    def is_live(self, offset: int) -> bool:
        """Return whether the object that starts at `offset` is not evicted."""
        return self._flags(self.geometry.unit(offset), 1) == _LIVE

    def evict(self, offset: int, end: int) -> bool:
        """Evict all objects from `offset` to `end`; return whether the segment has none left."""
        if self._writable:
            return self._evict(self._fd, offset, end)
        (fd,) = map(os.open, (self._path,), (WRITE | os.O_DSYNC,))
        try:
            return self._evict(fd, offset, end)
        finally:
            os.closerange(fd, fd + 1)  # what was written is on the server

    def _evict(self, fd: int, offset: int, end: int) -> bool:
        geometry = self.geometry
        first = geometry.unit(offset)
        count = units_for(end - offset)
        files.write(fd, [_FREE * count], count, geometry.flag(first))
        if count > CHUNK and self._are_free(geometry.flag(0), geometry.units):
            os.ftruncate(fd, geometry.start)  # then an open file keeps no space
            return True
        chunks = range(first // CHUNK, (first + count - 1) // CHUNK + 1)
        freed = [self._free(fd, chunk) for chunk in chunks]
        return any(freed) and self._free_all(fd)

    def _free(self, fd: int, chunk: int) -> bool:
        """Give the space of a chunk back, and mark it, if all of its units are free; False if not.

        The mark comes last: space that a killed process did not give back is given back later.
        """
        geometry = self.geometry
        if not self._are_free(geometry.flag(chunk * CHUNK), geometry.units_of_chunk(chunk)):
            return False
        # Where the file system cannot do this, the space is freed with the file.
        files.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, *geometry.space_of_chunk(chunk))
        files.write(fd, [_FREE], 1, chunk)
        return True

    def _free_all(self, fd: int) -> bool:
        """Return whether all chunks are free, as far as the first that is not.

        A process that was killed before it marked a chunk has left the mark to us: nobody else may
        ever evict an object of that chunk, and the segment would stay.
        """
        marks = self._pread(self._fd, self.geometry.chunks, 0)
        return all(mark == _FREE[0] or self._free(fd, n) for n, mark in enumerate(marks))

    def _are_free(self, offset: int, count: int) -> bool:
        flags = self._pread(self._fd, count, offset)
        return _LIVE not in flags and len(flags) == count

    def _flags(self, first: int, count: int) -> bytes:
        """Return the flags of units; fewer than `count` if the file ends before."""
        return self._pread(self._fd, count, self.geometry.flag(first))

    def _truncated(self, end: int) -> CorruptObjectError:
        return CorruptObjectError(
            f"{self._path} has no whole object that ends at byte {end}: it was truncated or "
            "overwritten by something other than fsexchange; put the object again",
            path=self._path,
            expected=end,
            actual=os.fstat(self._fd).st_size,
        )


def _pread_aligned(fd: int, nbytes: int, offset: int) -> bytes:
    """Do what `os.pread` does, but read whole pages, which O_DIRECT may require: open(2), NOTES."""
    before = offset % mmap.PAGESIZE
    size = -(-(before + nbytes) // mmap.PAGESIZE) * mmap.PAGESIZE
    with mmap.mmap(-1, size or mmap.PAGESIZE) as pages:
        end = 0
        while end < size and end % mmap.PAGESIZE == 0:  # a part of a page: the file ends here
            with memoryview(pages) as whole, whole[end:] as rest:
                got = os.preadv(fd, (rest,), offset - before + end)
            if got == 0:
                break
            end += got
        return pages[before : min(end, before + nbytes)]

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
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from fsexchange import files, publish
from fsexchange.errors import CorruptObjectError
from fsexchange.layout import CHUNK, UNIT, segment_chunks, segment_start, segment_units

if TYPE_CHECKING:
    from typing_extensions import Buffer

T = TypeVar("T")

#: Where objects begin, or how long they are, in bytes.
Ints: TypeAlias = npt.NDArray[np.int64]


class Run(NamedTuple):
    """Objects of a batch that were read at once."""

    numbers: Ints
    memory: memoryview
    """What was read; the next run is read to the same memory."""
    begins: Ints
    """Where in it each object begins, in order."""
    sizes: Ints


# Units of a segment that is appended to: 1 MiB, whose flags fill four pages.
_TAIL_UNITS = 16368

# Bytes to read at a time for a batch, and to read over rather than to read anew behind them.
_RUN, _GAP = 1 << 20, 1 << 14

# Open segments that a process keeps for whoever reads or evicts next.
_MOST_OPEN = 64

_LIVE, _FREE = b"\0", b"\1"

_READ, _WRITE = os.O_RDONLY | os.O_CLOEXEC, os.O_RDWR | os.O_CLOEXEC

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
        fd = os.open(path, _WRITE | os.O_NOFOLLOW)
        try:
            if os.fstat(fd).st_size >= segment_start(units):
                os.pwrite(fd, _FREE * units, segment_chunks(units))
                os.ftruncate(fd, segment_start(units))
        finally:
            os.close(fd)


class Segment:
    """A segment, open until the last reference goes. Threads may share it."""

    __slots__ = ("_chunks", "_fd", "_network", "_path", "_start", "_units")

    def __init__(self, path: str, flags: int, *, network: bool) -> None:
        self._fd = -1
        self._path = path
        self._network = network
        self._units = segment_units(path)
        self._chunks = segment_chunks(self._units)
        self._start = segment_start(self._units)
        self._fd = os.open(path, flags)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

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
            self._fd = os.open(self._path, _WRITE | os.O_DSYNC)

    def _truncated(self, end: int) -> CorruptObjectError:
        return CorruptObjectError(
            f"{self._path} ends before byte {end}: it was truncated or overwritten by something "
            "other than fsexchange; put the object again",
            path=self._path,
            expected=end,
            actual=os.fstat(self._fd).st_size,
        )


def _runs(begins: Ints, ends: Ints) -> Iterator[tuple[int, int]]:
    """Yield from which to which object to read at once, of objects in order."""
    first = 0
    for stop in (*(np.flatnonzero(begins[1:] > ends[:-1] + _GAP) + 1).tolist(), len(begins)):
        while first < stop:
            limit = begins[first] + _RUN
            last = first + int(np.searchsorted(ends[first:stop], limit, "right"))
            yield first, last
            first = last


def _merged(offsets: Ints, sizes: Ints) -> tuple[list[int], list[int]]:
    """Return where neighbours begin and end, each object up to the end of its last unit."""
    order = np.argsort(offsets)
    begins = offsets[order]
    ends = begins + UNIT * np.maximum(1, -(-sizes[order] // UNIT))
    apart = np.flatnonzero(begins[1:] != ends[:-1])
    return begins[[0, *(apart + 1)]].tolist(), ends[[*apart, -1]].tolist()


class Segments:
    """The segments of one store as this process has them open. Threads may share it.

    A segment that is gone means that all its objects are evicted; other errors are raised. Files
    stay open only where no other host writes, as an `open` is what asks the server.
    """

    def __init__(self, *, network: bool) -> None:
        self.network = network
        self._open: dict[str, Segment] = {}

    def read(self, path: str, offset: int, nbytes: int) -> bytearray | None:
        """Return an object, or None if it is evicted."""
        segment = self._open.get(path)
        if segment is not None:
            return segment.read(offset, nbytes)
        return self._do(path, lambda segment: segment.read(offset, nbytes), gone=None)

    def read_runs(self, path: str, offsets: Ints, sizes: Ints) -> Iterator[Run]:
        """Yield objects of one segment in runs of neighbours, but for those that are evicted."""
        order = np.argsort(offsets, kind="stable")
        begins, sizes = offsets[order], sizes[order]
        ends = begins + sizes
        memory = memoryview(bytearray(min(_RUN, int(ends[-1] - begins[0]))))
        for first, stop in _runs(begins, ends):
            some = slice(first, stop)

            def read(segment: Segment, some: slice = some) -> npt.NDArray[np.bool_]:
                return segment.read_run(memory, begins[some], ends[some])

            live = self._do(path, read, gone=None)
            if live is not None and live.any():
                at = (begins[some] - begins[first])[live]
                yield Run(order[some][live], memory, at, sizes[some][live])

    def is_live(self, path: str, offset: int) -> bool:
        """Tell whether an object is not evicted."""
        return self._do(path, lambda segment: segment.is_live(offset), gone=False)

    def evict(self, path: str, offset: int, nbytes: int) -> None:
        """Evict an object, or the rest of a segment, and remove the file if it was the last."""
        self._evict(path, (offset,), (offset + nbytes,))

    def evict_batch(self, path: str, offsets: Ints, sizes: Ints) -> None:
        """Evict objects of one segment, and remove it with the last."""
        self._evict(path, *_merged(offsets, sizes))

    def _evict(self, path: str, offsets: Sequence[int], ends: Sequence[int]) -> None:
        if self._do(path, lambda segment: segment.evict(offsets, ends), gone=False, write=True):
            self._open.pop(path, None)
            files.unlink(path)

    def open(self, path: str, *, write: bool) -> Segment:
        """Return a segment, open to be read, and with `write` to be evicted from."""
        if self.network:
            return Segment(path, _WRITE | os.O_DSYNC if write else _READ, network=True)
        segment = self._open.get(path)
        if segment is None:
            try:
                segment = Segment(path, _WRITE, network=False)
            except OSError as error:
                if write or error.errno not in (errno.EROFS, errno.EACCES):
                    raise
                return Segment(path, _READ, network=False)
            if len(self._open) >= _MOST_OPEN:
                self._open.clear()
            self._open[path] = segment
        return segment

    def close(self) -> None:
        """Close what is open; it opens again when it is needed."""
        self._open.clear()

    def _do(self, path: str, work: Callable[[Segment], T], *, gone: T, write: bool = False) -> T:
        tries = publish.TRIES
        while True:
            try:
                return work(self.open(path, write=write))
            except FileNotFoundError:
                return gone
            except OSError as error:
                tries -= 1
                if error.errno not in publish.REPLACED or not tries:
                    raise


class Tails:
    """The segments that a process appends to: one for each thread that does so at a time.

    Only where segments stay open. `folder` is a writer's directory, `numbers` has its next names.
    """

    def __init__(self, folder: str, numbers: Iterator[int]) -> None:
        self._folder = folder
        self._numbers = numbers
        self._idle: list[_Tail] = []

    def append(self, segments: Segments, pieces: Sequence[Buffer], nbytes: int) -> tuple[str, int]:
        """Write an object; return the path of its segment, and where it begins."""
        try:
            tail = self._idle.pop()  # now no other thread has it
        except IndexError:
            tail = self._make(segments)
        if tail.end + nbytes > tail.limit:
            tail.seal(segments)
            tail = self._make(segments)
        try:
            offset = tail.end
            tail.segment.append(offset, pieces, nbytes)
            tail.end += UNIT * units_of(nbytes)
        finally:
            self._idle.append(tail)
        return tail.path, offset

    def seal(self, segments: Segments) -> None:
        """Give up the rest of each, so that it goes with its last object."""
        while self._idle:
            self._idle.pop().seal(segments)

    def _make(self, segments: Segments) -> _Tail:
        path = f"{self._folder}/{next(self._numbers)}.{_TAIL_UNITS}"
        start = segment_start(_TAIL_UNITS)
        files.create(path, [bytes(start)], start)
        return _Tail(path, segments.open(path, write=True))


class _Tail:
    """What is left of a segment, to append to."""

    __slots__ = ("end", "limit", "path", "segment")

    def __init__(self, path: str, segment: Segment) -> None:
        self.path = path
        self.segment = segment
        self.end = segment_start(_TAIL_UNITS)
        self.limit = self.end + UNIT * _TAIL_UNITS

    def seal(self, segments: Segments) -> None:
        if self.end < self.limit:
            segments.evict(self.path, self.end, self.limit - self.end)

"""Small objects of a store, which share files: written, read and evicted by their keys."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from fsexchange.connector.directory import Directory
from fsexchange.connector.keys import FileKey, check_key, segment_bounds
from fsexchange.connector.layout import UNIT, fits, segment_start
from fsexchange.connector.segment import READ, WRITE, Ints, Segment, units_of
from fsexchange.errors import FsExchangeError
from fsexchange.filesystem import files

if TYPE_CHECKING:
    from typing_extensions import Buffer

T = TypeVar("T")

# Units of a segment that is appended to: 1 MiB, whose flags fill four pages.
_TAIL_UNITS = 16368

# Bytes to read at a time for a batch, and to read over rather than to read anew behind them.
_RUN, _GAP = 1 << 20, 1 << 14

# Segments that a process keeps open for whoever reads or evicts next.
_MOST_OPEN = 16


class Group(NamedTuple):
    """Objects of one segment: their numbers in a batch, where they begin, and how long they are."""

    filename: str
    numbers: Ints
    offsets: Ints
    sizes: Ints


class Run(NamedTuple):
    """Objects of a batch that were read at once."""

    numbers: Ints
    data: memoryview
    begins: Ints
    """Where in the data each object begins, in order."""
    sizes: Ints


def grouped(keys: Sequence[FileKey]) -> tuple[list[int], list[Group]]:
    """Return the numbers of keys of whole files, and groups of the others, all checked."""
    try:
        return _grouped(keys) if keys else ([], [])
    except (TypeError, ValueError, OverflowError):
        for key in keys:
            check_key(key)
        raise


def _grouped(keys: Sequence[FileKey]) -> tuple[list[int], list[Group]]:
    plain = set(map(type, keys)) == {FileKey}
    names, nbytes, begins = zip(*(keys if plain else map(_as_tuple, keys)), strict=True)
    offsets, sizes = np.array(begins, np.int64), np.array(nbytes, np.int64)
    by_name: dict[str, list[int]] = {}
    if len(set(names)) == 1:
        by_name[names[0]] = list(range(len(keys)))
    else:
        for n, name in enumerate(names):
            by_name.setdefault(name, []).append(n)
    alone, groups = [], []
    for filename, numbers in by_name.items():
        if begins[numbers[0]]:
            group = Group(filename, np.array(numbers), offsets[numbers], sizes[numbers])
            if _is_sound(group):
                groups.append(group)
                continue
        for n in numbers:
            check_key(keys[n])
        alone += numbers
    return alone, groups


def _as_tuple(key: Any) -> tuple[str, int, int]:
    if type(key) is FileKey:
        return key
    return check_key(key), getattr(key, "nbytes", -1), getattr(key, "offset", 0)


def _is_sound(group: Group) -> bool:
    """Tell what `check_key` would say of all keys of a group."""
    _, _, offsets, sizes = group
    start, end = segment_bounds(group.filename)
    return bool(fits(start, end, offsets, sizes).all())


class Packing:
    """The segments of one store as one process uses them. Threads may share it.

    Files stay open only where no other host writes: each `open` asks the server for what is gone.
    All raise `StoreError` where the file system refuses, `StoreClosedError` if the store is gone.
    """

    def __init__(self, directory: Directory, *, network: bool) -> None:
        self._directory = directory
        self._network = network
        self._open: dict[str, Segment] = {}

    def write(self, name: str, pieces: list[Any], sizes: Sequence[int]) -> list[FileKey]:
        """Write objects to a new segment, whose name is to begin with `name`; return their keys.

        `pieces` are the contiguous buffers of one object after the other, each of `sizes` bytes and
        filled up to whole units.
        """
        units = np.maximum(1, -(-np.array(sizes) // UNIT))
        ends = np.cumsum(units)
        total = int(ends[-1])
        start = segment_start(total)
        filename = f"{name}.{total}"
        with self._explained("write", filename):
            path = f"{self._directory.path}/{filename}"
            files.create(path, [bytes(start), *pieces], start + UNIT * total)
        begins = (start + UNIT * (ends - units)).tolist()
        rows = zip(repeat(filename), sizes, begins)
        return list(map(partial(tuple.__new__, FileKey), rows))

    def append(
        self, tails: list[Tail], next_name: Callable[[], str], pieces: Sequence[Buffer], nbytes: int
    ) -> FileKey:
        """Write an object behind others and return its key.

        `tails` are segments that no thread is appending to; one is taken, or made with a name.
        """
        try:
            tail = tails.pop()  # now no other thread has it
        except IndexError:
            tail = self._make_tail(next_name())
        size = UNIT * units_of(nbytes)
        if tail.end + size > tail.limit:
            tail.seal()
            tail = self._make_tail(next_name())
        try:
            tail.segment.append(tail.end, pieces, nbytes)
            key = FileKey(tail.filename, nbytes, tail.end)
            tail.end += size
        except OSError as error:
            if error.errno == errno.ENOENT:  # somebody removed it: the next object has another
                self._open.pop(tail.filename, None)
                tail.end = tail.limit
            raise self._explain(error, "write", tail.filename) from error
        finally:
            tails.append(tail)
        return key

    def _make_tail(self, name: str) -> Tail:
        filename = f"{name}.{_TAIL_UNITS}"
        start = segment_start(_TAIL_UNITS)
        with self._explained("write", filename):
            files.create(f"{self._directory.path}/{filename}", [bytes(start)], start)
            return Tail(self, filename, self._segment(filename))

    def read(self, key: FileKey) -> bytearray | None:
        """Return an object, or None if it is evicted."""
        filename, nbytes, offset = _as_tuple(key)
        segment = self._open.get(filename)  # if it is open, its name is sound
        if segment is None or not segment.holds(offset, nbytes):
            check_key(key)
        data = self._do("read", filename, lambda it: it.read(offset, nbytes), gone=None)
        if data is None:
            self._directory.check()
        return data

    def read_runs(self, groups: Sequence[Group]) -> Iterator[Run]:
        """Yield objects in runs of neighbours, but for those that are evicted."""
        for filename, numbers, offsets, sizes in groups:
            order = np.argsort(offsets, kind="stable")
            begins, sizes = offsets[order], sizes[order]
            ends = begins + sizes
            for first, stop in _runs(begins, ends):
                some = slice(first, stop)
                run = self._do(
                    "read",
                    filename,
                    partial(Segment.read_run, begins=begins[some], ends=ends[some]),
                    gone=None,
                )
                if run is not None:
                    data, live = run
                    at = (begins[some] - begins[first])[live]
                    yield Run(numbers[order[some][live]], memoryview(data), at, sizes[some][live])

    def is_live(self, key: FileKey) -> bool:
        """Tell whether an object is not evicted."""
        return self._do("look at", check_key(key), lambda it: it.is_live(key.offset), gone=False)

    def evict(self, key: FileKey) -> None:
        """Evict an object, and remove its segment if it was the last."""
        filename = check_key(key)
        self.evict_span(filename, key.offset, key.offset + key.nbytes)

    def evict_batch(self, groups: Sequence[Group]) -> None:
        """Evict objects, and remove each segment with the last."""
        for group in groups:
            for offset, end in _merged(group.offsets, group.sizes):
                self.evict_span(group.filename, offset, end)

    def close(self) -> None:
        """Close what is open; it opens again when it is needed."""
        self._open.clear()

    def evict_span(self, filename: str, offset: int, end: int) -> None:
        """Evict what is from `offset` to `end`, and remove the segment if nothing else is left."""
        if self._do("evict from", filename, lambda it: it.evict(offset, end), gone=False):
            self._open.pop(filename, None)
            with self._explained("remove", filename):
                files.unlink(f"{self._directory.path}/{filename}")

    def _do(
        self,
        doing: str,
        filename: str,
        work: Callable[[Segment], T],
        *,
        gone: T,
    ) -> T:
        """Return the result of `work` with a segment, or `gone`: with the last object of all."""
        try:
            return work(self._segment(filename))
        except OSError as error:
            # Who still has the name in a cache hears of a removed file when it reads: ESTALE.
            if error.errno in (errno.ENOENT, errno.ESTALE):
                return gone
            raise self._explain(error, doing, filename) from error

    def _segment(self, filename: str) -> Segment:
        segment = self._open.get(filename)
        if segment is None:
            segment = self._open_segment(f"{self._directory.path}/{filename}")
            if not self._network:
                if len(self._open) >= _MOST_OPEN:
                    self._open.clear()
                self._open[filename] = segment
        return segment

    def _open_segment(self, path: str) -> Segment:
        # If the first is refused: without O_DIRECT; from where there is nothing to be written.
        best, other = (READ | os.O_DIRECT, READ) if self._network else (WRITE, READ)
        try:
            return Segment(path, best)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EROFS, errno.EACCES):
                raise
        return Segment(path, other)

    def _explain(self, error: OSError, doing: str, filename: str) -> FsExchangeError:
        return self._directory.explain(error, doing, f"{self._directory.path}/{filename}")

    @contextlib.contextmanager
    def _explained(self, doing: str, filename: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._explain(error, doing, filename) from error


class Tail:
    """A segment to append to: where its next object begins, and where the last must end."""

    __slots__ = ("_packing", "end", "filename", "limit", "segment")

    def __init__(self, packing: Packing, filename: str, segment: Segment) -> None:
        self._packing = packing
        self.filename = filename
        self.segment = segment
        self.end = segment_start(_TAIL_UNITS)
        self.limit = self.end + UNIT * _TAIL_UNITS

    def seal(self) -> None:
        """Give up the rest, so that the file goes with its last object, if the disk lets us."""
        if self.end < self.limit:
            with contextlib.suppress(FsExchangeError):
                self._packing.evict_span(self.filename, self.end, self.limit)


def _runs(begins: Ints, ends: Ints) -> Iterator[tuple[int, int]]:
    """Yield from which to which object to read at once, of objects in order."""
    first = 0
    for stop in (*(np.flatnonzero(begins[1:] > ends[:-1] + _GAP) + 1).tolist(), len(begins)):
        while first < stop:
            limit = begins[first] + _RUN
            last = first + int(np.searchsorted(ends[first:stop], limit, "right"))
            yield first, last
            first = last


def _merged(offsets: Ints, sizes: Ints) -> Iterator[tuple[int, int]]:
    """Yield where neighbours begin and end, each object up to the end of its last unit."""
    order = np.argsort(offsets)
    begins = offsets[order]
    ends = begins + UNIT * np.maximum(1, -(-sizes[order] // UNIT))
    apart = np.flatnonzero(begins[1:] != ends[:-1])
    return zip(begins[[0, *(apart + 1)]].tolist(), ends[[*apart, -1]].tolist(), strict=True)

"""The small objects of a store that share segments: written, read and evicted by their keys."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from fsexchange.connector.batch import Group
from fsexchange.connector.directory import Directory
from fsexchange.connector.geometry import UNIT, Ints, all_units_for, geometry_of
from fsexchange.connector.keys import FileKey
from fsexchange.connector.segment import READ, WRITE, Segment
from fsexchange.filesystem import files

if TYPE_CHECKING:
    from typing_extensions import Buffer

T = TypeVar("T")

# The most bytes of a batch to read at once, and the longest gap between two objects that is read
# along with them: that costs less than another system call.
_EXTENT, _GAP = 1 << 20, 1 << 14

# Segments that a process keeps open for the next read or eviction.
_MOST_OPEN = 16


class Extent(NamedTuple):
    """Objects of a batch that were read at once."""

    numbers: Ints
    data: memoryview
    starts: Ints
    """Where in the data each object starts, in ascending order."""
    sizes: Ints


class Segments:
    """The segments of one store as one process uses them. Threads may share it.

    Keys are checked before they come here. Files stay open only where no other host writes:
    elsewhere each `open` asks the file server whether a file is gone. All methods raise
    `StoreError` where the file system refuses, `StoreClosedError` if the store is gone.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._open: dict[str, Segment] = {}

    def create(self, filename: str, pieces: list[Buffer]) -> None:
        """Write the segment of this name, that of its keys; see `keys_in_segment`.

        `pieces` are contiguous buffers: those of the first object, its `padding`, those of the
        next, and so on.
        """
        path = f"{self._directory.path}/{filename}"
        geometry = geometry_of(path)
        try:
            files.create(path, [bytes(geometry.start), *pieces], geometry.end)
        except OSError as error:
            raise self._directory.error(error, "write", path) from error

    def get(self, key: FileKey) -> bytearray | None:
        """Return an object, or None if it is evicted."""
        data = self._with(key.filename, "read", lambda s: s.read(key.offset, key.nbytes), gone=None)
        if data is None:
            self._directory.check()
        return data

    def read_extents(self, groups: Sequence[Group]) -> Iterator[Extent]:
        """Yield the objects that are not evicted; neighbours are in one extent."""
        for filename, numbers, offsets, sizes in groups:
            order = np.argsort(offsets, kind="stable")
            starts, sizes = offsets[order], sizes[order]
            ends = starts + sizes
            for first, stop in _extents(starts, ends):
                some = slice(first, stop)
                read = partial(Segment.read_extent, starts=starts[some], ends=ends[some])
                found = self._with(filename, "read", read, gone=None)
                if found is not None:
                    data, live = found
                    at = (starts[some] - starts[first])[live]
                    yield Extent(
                        numbers[order[some][live]], memoryview(data), at, sizes[some][live]
                    )

    def exists(self, key: FileKey) -> bool:
        """Return whether an object is still there."""
        return self._with(key.filename, "look at", lambda s: s.is_live(key.offset), gone=False)

    def evict(self, key: FileKey) -> None:
        """Evict an object, and remove its segment if it was the last."""
        self._evict(key.filename, key.offset, key.offset + key.nbytes)

    def evict_groups(self, groups: Sequence[Group]) -> None:
        """Evict the objects of groups, and remove each segment with its last object."""
        for group in groups:
            for offset, end in _merged(group.offsets, group.sizes):
                self._evict(group.filename, offset, end)

    def close(self) -> None:
        """Close the files that are open; they are opened again when they are needed."""
        self._open.clear()

    def _evict(self, filename: str, offset: int, end: int) -> None:
        if self._with(filename, "evict from", lambda s: s.evict(offset, end), gone=False):
            self._open.pop(filename, None)
            path = f"{self._directory.path}/{filename}"
            try:
                files.unlink(path)
            except OSError as error:
                raise self._directory.error(error, "remove", path) from error

    def _with(self, filename: str, doing: str, work: Callable[[Segment], T], *, gone: T) -> T:
        """Return the result of `work` with a segment, or `gone` if that was removed."""
        try:
            return work(self._segment(filename))
        except OSError as error:
            # A host that has the name in its cache learns only by reading that the file is gone.
            if error.errno in (errno.ENOENT, errno.ESTALE):
                return gone
            path = f"{self._directory.path}/{filename}"
            raise self._directory.error(error, doing, path) from error

    def _segment(self, filename: str) -> Segment:
        segment = self._open.get(filename)
        if segment is None:
            network = self._directory.policy.network
            path = f"{self._directory.path}/{filename}"
            segment = _open_segment(path, network=network, uid=self._directory.uid)
            if not network:
                if len(self._open) >= _MOST_OPEN:
                    self._open.clear()
                self._open[filename] = segment
        return segment


def _open_segment(path: str, *, network: bool, uid: int) -> Segment:
    # `other` is for file systems that have no O_DIRECT, and for files that cannot be written to.
    best, other = (READ | os.O_DIRECT, READ) if network else (WRITE, READ)
    try:
        return Segment(path, best, uid)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EROFS, errno.EACCES):
            raise
    return Segment(path, other, uid)


def _extents(starts: Ints, ends: Ints) -> Iterator[tuple[int, int]]:
    """Yield which objects to read at once: the first, and the one after the last."""
    first = 0
    for stop in (*(np.flatnonzero(starts[1:] > ends[:-1] + _GAP) + 1).tolist(), len(starts)):
        while first < stop:
            limit = starts[first] + _EXTENT
            last = first + int(np.searchsorted(ends[first:stop], limit, "right"))
            yield first, last
            first = last


def _merged(offsets: Ints, sizes: Ints) -> Iterator[tuple[int, int]]:
    """Yield where each row of neighbours starts, and where its last unit ends."""
    order = np.argsort(offsets)
    starts = offsets[order]
    ends = starts + UNIT * all_units_for(sizes[order])
    apart = np.flatnonzero(starts[1:] != ends[:-1])
    return zip(starts[[0, *(apart + 1)]].tolist(), ends[[*apart, -1]].tolist(), strict=True)

"""What lies in a store's directory: looked at by names, sizes and heads, and by nothing else.

The directory may be a stranger's: links are not followed, nothing that is no regular file is
opened, and names that fsexchange does not make are foreign.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, TypeAlias

from fsexchange.connector import layout
from fsexchange.connector.geometry import UNIT, Geometry, geometry_of, units_for
from fsexchange.connector.keys import FileKey, checked
from fsexchange.errors import CorruptObjectError, FsExchangeError
from fsexchange.filesystem import files
from fsexchange.filesystem.markers import MARKERS, READY
from fsexchange.filesystem.process import Process
from fsexchange.filesystem.publish import RENAMING

# Bytes of a record of a process, or of a name's key, at most.
_SHORT = 4096

# Flags of a segment that are read at once.
_FLAGS = 1 << 16


Kind: TypeAlias = Literal["object", "segment", "partial", "name", "own", "foreign"]


class Item(NamedTuple):
    """One file in a store's directory."""

    kind: Kind
    """`partial`: an object that is not yet in place, or whose writer was killed. `own`: what
    fsexchange needs beside objects."""
    filename: str
    """Its path in the directory."""
    nbytes: int
    allocated: int
    """Bytes that it takes on the device."""
    modified: float
    """Seconds since the epoch."""


def items(path: str, *, markers: bool) -> Iterator[Item]:
    """Yield the files in the store at `path`; one that goes meanwhile is left out."""
    names = sorted(files.listing(path))
    for name in names:
        if layout.WRITER.fullmatch(name):
            yield from _in_writer(path, name, markers)
        elif layout.LEAVING.fullmatch(name):
            yield from _in(path, name, lambda _: "partial")
        elif name == layout.NAMES:
            yield from _in(path, layout.NAMES, _kind_of_name)
        else:
            kind = _kind_beside_writers(path, name, names, markers)
            yield from _item(path, name, kind)


def items_of_names(path: str) -> Iterator[Item]:
    """Yield only the names among the `items` of the store at `path`."""
    if files.is_there(f"{path}/{layout.NAMES}"):
        yield from (i for i in _in(path, layout.NAMES, _kind_of_name) if i.kind == "name")


def items_of_object(path: str, filename: str, *, markers: bool) -> Iterator[Item]:
    """Yield the one of the `items` that has this file name, if it is an object or a segment."""
    folder, slash, _ = filename.partition("/")
    if slash:
        found = _in_writer(path, folder, markers) if layout.WRITER.fullmatch(folder) else iter(())
    else:
        names = sorted(files.listing(path))
        there = filename in names
        kind = _kind_beside_writers(path, filename, names, markers) if there else "foreign"
        found = _item(path, filename, kind)
    yield from (i for i in found if i.filename == filename and i.kind in ("object", "segment"))


def objects_in(
    path: str, filename: str, length: Callable[[bytes], int | None], head: int
) -> Iterator[FileKey | None]:
    """Yield the keys of the objects of a segment that are not evicted.

    The segment does not have their lengths; `length` tells it of an object's first `head` bytes.
    Where it cannot, None stands for all from there on.
    """
    with contextlib.suppress(OSError, CorruptObjectError):
        fd = files.open_regular(f"{path}/{filename}")
        try:
            yield from _packed(fd, filename, length, head)
        finally:
            os.close(fd)


def live_bytes(path: str, filename: str) -> int:
    """Return how many bytes of a segment the objects take that are not evicted."""
    count = 0
    with contextlib.suppress(OSError, CorruptObjectError):
        fd = files.open_regular(f"{path}/{filename}")
        try:
            geometry = geometry_of(filename)
            if os.fstat(fd).st_size >= geometry.end:
                count = _zeros(fd, geometry.flag(0), geometry.flag(geometry.units))
        finally:
            os.close(fd)
    return count * UNIT


def writer_of(path: str, writer: str) -> tuple[Process | None, bool]:
    """Return the process that signed a writer's directory, and whether objects in it may be set.

    None for one whose signature was lost, or is of an earlier version.
    """
    with contextlib.suppress(OSError, ValueError, CorruptObjectError):
        text = _short(f"{path}/{writer}/{layout.SIGNATURE}")
        return Process.from_json(text.decode()), not text.startswith(layout.FOR_PUT)
    return None, False


def tells_lengths(path: str, writer: str) -> bool:
    """Return whether the objects in a writer's directory say at their start how long they are."""
    with contextlib.suppress(OSError):
        return _short(f"{path}/{writer}/{layout.SIGNATURE}").startswith(layout.FOR_PUT_WITH_LENGTH)
    return False


def key_of_name(path: str, filename: str) -> FileKey | None:
    """Return the key in a name's file; None if there is none."""
    with contextlib.suppress(OSError, ValueError, FsExchangeError):
        return FileKey.parse(_short(f"{path}/{filename}").decode())
    return None


def _in_writer(path: str, writer: str, markers: bool) -> Iterator[Item]:
    there = frozenset(_listing(f"{path}/{writer}") or ())

    def kind(name: str) -> Kind:
        if layout.SEGMENT.fullmatch(name):
            return "segment"
        if name.isdecimal():
            return "object" if not markers or name + READY in there else "partial"
        if layout.TEMPORARY.fullmatch(name):
            return "partial"
        return "own" if layout.IN_WRITER.fullmatch(name) else "foreign"

    yield from _in(path, writer, kind)


def _kind_beside_writers(path: str, name: str, names: list[str], markers: bool) -> Kind:
    if markers and name + READY in names and MARKERS.is_stamped(f"{path}/{name}"):
        return "object"
    if not markers and RENAMING.is_stamped(f"{path}/{name}"):
        return "object"
    if layout.TEMPORARY.fullmatch(name):
        return "partial"
    own = layout.BESIDE_WRITERS.fullmatch(name) or layout.KEPT_TO_THE_END.fullmatch(name)
    marker = markers and MARKERS.is_stamped(f"{path}/{name.removesuffix(READY)}")
    return "own" if own or marker else "foreign"


def _kind_of_name(name: str) -> Kind:
    """Return the kind of a file among the names, whose own dots are written %2E."""
    if layout.TEMPORARY.fullmatch(name):
        return "partial"
    return "own" if "." in name else "name"


def _in(path: str, folder: str, kind: Callable[[str], Kind]) -> Iterator[Item]:
    names = _listing(f"{path}/{folder}")
    if names is None:  # a user's file
        yield from _item(path, folder, "foreign")
        return
    for name in names:
        yield from _item(path, f"{folder}/{name}", kind(name))


def _listing(path: str) -> list[str] | None:
    """Return the names in a directory; None if it is none, or a link to one."""
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            return None
    except FileNotFoundError:
        return []
    return sorted(files.listing(path))


def _item(path: str, filename: str, kind: Kind) -> Iterator[Item]:
    with contextlib.suppress(FileNotFoundError):
        status = os.lstat(f"{path}/{filename}")
        if not stat.S_ISREG(status.st_mode):
            kind = "foreign"
        allocated = 512 * status.st_blocks  # stat(2)
        yield Item(kind, filename, status.st_size, allocated, status.st_mtime)


def _packed(
    fd: int, filename: str, length: Callable[[bytes], int | None], head: int
) -> Iterator[FileKey | None]:
    geometry = geometry_of(filename)
    if os.fstat(fd).st_size < geometry.end:
        return  # all are evicted, or it was truncated
    unit = 0
    for first in range(0, geometry.units, _FLAGS):
        flags = _flags(fd, geometry, first)
        while 0 <= unit - first < len(flags):
            # Evicted objects may be holes already. Those that are not are whole and in a row, so
            # one starts where the flags say so for the first time.
            live = flags.find(0, unit - first)
            if live < 0:
                unit = first + len(flags)
                break
            unit = first + live
            offset = geometry.start + UNIT * unit
            nbytes = length(os.pread(fd, head, offset))
            if nbytes is None or not geometry.holds(offset, nbytes):
                yield None
                return
            yield checked(FileKey(filename, nbytes, offset))
            unit += units_for(nbytes)


def _zeros(fd: int, at: int, end: int) -> int:
    """Return how many zeros are in a part of a file; holes, which may be huge, are not read."""
    count = 0
    while at < end:
        try:
            data = min(end, os.lseek(fd, at, os.SEEK_DATA))
        except OSError as error:
            if error.errno != errno.ENXIO:  # which means: none from here on
                raise
            data = end
        flags = os.pread(fd, min(_FLAGS, end - data), data)
        count += data - at + flags.count(0)
        at = data + len(flags) if flags else end
    return count


def _flags(fd: int, geometry: Geometry, first: int) -> bytes:
    return os.pread(fd, min(_FLAGS, geometry.units - first), geometry.flag(first))


def _short(path: str) -> bytes:
    fd = files.open_regular(path)
    try:
        return os.pread(fd, _SHORT, 0)
    finally:
        os.close(fd)

"""Room: where ranks lay out the messages of one call, and from where they take them.

It is memory of a host, for its ranks, or a file of the store, for all. Both have the same methods.
The memory is a file without a name (memfd_create(2)): no size of /dev/shm limits it, it ends with
its last mapping, and a rank that is killed leaves nothing. The rank that makes one may keep it, and
use it again when the kernel says that nobody has any of it. This module needs no MPI.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import signal
import struct
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from fsexchange.connector.keys import KEY_SIZE, FileKey
from fsexchange.errors import MissingObjectError
from fsexchange.filesystem import files
from fsexchange.filesystem.capacity import memory_to_share
from fsexchange.filesystem.faults import Filler
from fsexchange.filesystem.kinds import find_filesystem
from fsexchange.filesystem.mapping import mapped
from fsexchange.filesystem.memory import whole_pages
from fsexchange.mpi.received import empty

if TYPE_CHECKING:
    from fsexchange.connector.connector import FileConnector
    from fsexchange.mpi.codec import Memory
    from fsexchange.mpi.message import Pieces

#: Bytes of which parts of a room are multiples, so that each can be mapped by itself, and no page
#: of a network file system has two writers.
PAGE = mmap.ALLOCATIONGRANULARITY

# linux/mman.h; Linux 5.14
_MADV_POPULATE_WRITE = 23

# Bytes that are taken or copied at a time, so that a signal's handler runs soon.
_PIECE = 1 << 23

#: Bytes up to which a process keeps the memory that it has made last, to use it again: an object of
#: 256 MiB with what travels beside it. And the part of a host's memory that this is at most.
KEPT, KEPT_PART = (256 << 20) + (1 << 16), 1 / 32

#: Memory that is used again is cut if it is more than so many times as long as what is asked for.
SPARE = 9 / 8

#: Bytes from which pages are copied into their places.
FILLED_FROM = 1 << 16

_IN_MEMORY = ("tmpfs", "ramfs")

#: The content of a part, each piece with its offset in the room.
Content: TypeAlias = "Iterable[tuple[int, Memory]]"

_MEMORY = struct.Struct("<BQQ")
_FILE = struct.Struct(f"<BQ{KEY_SIZE}s")

#: Bytes of a place: what says where a room is.
PLACE_SIZE = max(_MEMORY.size, _FILE.size)

#: The place of no room.
NOWHERE = bytes(PLACE_SIZE)


def pages(nbytes: int) -> int:
    """Return the bytes of the whole pages that hold so many bytes."""
    return nbytes + -nbytes % PAGE


def content(message: Pieces, at: int) -> Iterator[tuple[int, Memory]]:
    """Yield the content of a part that holds one message."""
    for piece in message:
        yield at, piece
        at += len(piece)


def within(parts: Content, start: int, stop: int) -> Iterator[tuple[int, Memory]]:
    """Yield of the content of a part what is from one offset to another."""
    for at, piece in parts:
        inner = memoryview(piece)[max(0, start - at) : max(0, stop - at)]
        if len(inner):
            yield max(at, start), inner


def span(part: npt.NDArray[Any], memory: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Return from where to where in some memory the elements of a part of it are."""
    start = part.ctypes.data - memory.ctypes.data
    along = zip(part.shape, part.strides, strict=True)
    return start, start + sum((n - 1) * stride for n, stride in along) + part.itemsize


def _check_memory(nbytes: int) -> None:
    if nbytes > memory_to_share():
        HostRoom.forget()
    if nbytes > memory_to_share():
        raise OSError(errno.ENOMEM, f"the host has no {nbytes} bytes to share")


class HostRoom:
    """Memory that ranks of a host share."""

    kind: ClassVar[int] = 1

    # The one that this process keeps.
    _kept: ClassVar[list[HostRoom]] = []

    def __init__(self, fd: int, nbytes: int) -> None:
        #: The descriptor of its file.
        self.fd = fd
        self.nbytes = nbytes
        self._map: mmap.mmap | None = None
        # Where it may be kept: its length, and the descriptor by which it was made.
        self._capacity = nbytes
        self._made = -1
        self._is_kept = False

    @classmethod
    def make(cls, nbytes: int) -> HostRoom:
        """Make one; `OSError` if the host has no memory for it."""
        _check_memory(nbytes)
        (fd,) = map(os.memfd_create, ("fsexchange",))  # no handler of a signal before `try`
        try:
            os.ftruncate(fd, nbytes)
            return cls(fd, nbytes)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def make_again(cls, nbytes: int) -> HostRoom:
        """Return the one that this process keeps, if nobody has any of it; else make one.

        Its memory is there already, and to write to it takes a fraction of the time.
        """
        with contextlib.suppress(IndexError), contextlib.ExitStack() as unless_used:
            room = cls._kept.pop()
            unless_used.callback(room.close)
            if nbytes <= room._capacity and room._open_if_unused():
                room._shorten(nbytes)
                unless_used.pop_all()
                return room
        room = cls.make(nbytes)
        with contextlib.ExitStack() as unless_made:
            unless_made.callback(room.close)
            if nbytes <= min(KEPT, memory_to_share() * KEPT_PART):
                room._made, room.fd = room.fd, -1
                room.fd = _opened_again(os.getpid(), room._made)
            unless_made.pop_all()
        return room

    def _open_if_unused(self) -> bool:
        """Open one that is kept if nothing that was taken of it is left, in any process.

        The kernel grants a lease to write, fcntl(2), on a file that nobody else has open to write.
        Each mapping holds the open file by which it was made, also in forked children. What
        memfd_create(2) opens does not count.
        """
        try:
            path = f"/proc/{os.getpid()}/fd/{self._made}"
            # No handler of a signal runs before `close` would close it: see `filesystem.files`.
            (self.fd,) = map(os.open, (path,), (os.O_RDWR | os.O_CLOEXEC,))
            # Who opens the file meanwhile is announced by a signal: by SIGIO, unless told, which
            # kills.
            fcntl.fcntl(self.fd, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(self.fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            fcntl.fcntl(self.fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError:
            return False
        return True

    def _shorten(self, nbytes: int) -> None:
        """Make one that nobody has any of shorter, but for a little that is left at its end.

        Else a small array that is kept would keep the memory of a large one.
        """
        self.nbytes = nbytes
        if self._capacity > nbytes * SPARE:
            os.ftruncate(self.fd, nbytes)
            self._capacity = nbytes

    @classmethod
    def enter(cls, place: Memory, nbytes: int) -> HostRoom:
        """Return the one that another rank of the host has made."""
        _, pid, fd = _MEMORY.unpack_from(place)
        return cls(_opened_again(pid, fd), nbytes)

    @property
    def memory(self) -> npt.NDArray[np.uint8]:
        """The memory itself, which others see at once; `OSError` if it cannot be mapped.

        Whoever does not need it saves a descriptor and half of the address space.
        """
        return np.frombuffer(self._mapping(), np.uint8, self.nbytes)

    def _mapping(self) -> mmap.mmap:
        if self._map is None:
            # Not by the descriptor of this call, which must end with it: see `_open_if_unused`.
            self._map = mmap.mmap(self.fd if self._made < 0 else self._made, self._capacity)
        return self._map

    @property
    def place(self) -> bytes:
        """What says to other ranks of the host where it is."""
        return _MEMORY.pack(self.kind, os.getpid(), self.fd).ljust(PLACE_SIZE, b"\0")

    def reserve(self, start: int, stop: int) -> None:
        """Have the kernel give the memory of a range; `OSError` if it cannot."""
        start -= start % PAGE
        for at in range(start, stop, _PIECE):
            nbytes = min(_PIECE, stop - at)
            try:
                self._mapping().madvise(_MADV_POPULATE_WRITE, at, nbytes)
            except OSError as error:
                if error.errno != errno.EINVAL:  # as an older kernel says
                    raise
                os.posix_fallocate(self.fd, at, nbytes)

    def fill(self, parts: Content, *, alone: bool = False) -> None:
        """Write pieces to their offsets; unless `alone`, others write elsewhere at the same time.

        `OSError` if there is no memory for them.
        """
        if alone:
            for at, piece in parts:
                files.write(self.fd, [piece], len(piece), at)
            return
        with contextlib.ExitStack() as last:
            filler: Filler | None = None
            with contextlib.suppress(OSError):
                filler = Filler()
                last.callback(filler.close)
            address: int = self.memory.ctypes.data
            for at, piece in parts:
                inner, nbytes = whole_pages(address + at, len(piece))
                before, filled = inner - address - at, 0
                if filler is not None and nbytes >= FILLED_FROM:
                    source = np.frombuffer(piece, np.uint8).ctypes.data + before
                    filled = filler.fill(inner, source, nbytes)
                self._copy(at, memoryview(piece)[:before])
                self._copy(at + before + filled, memoryview(piece)[before + filled :])

    def _copy(self, at: int, data: memoryview) -> None:
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            self.reserve(at + start, at + start + len(piece))
            self.memory[at + start : at + start + len(piece)] = np.frombuffer(piece, np.uint8)

    def take(self, at: int, nbytes: int) -> memoryview:
        """Return a part, which starts at a page, as memory of the caller's own: copy-on-write."""
        memory = mapped(self.fd, nbytes, at)
        if memory is None:  # the kernel maps no more for this process
            memory = empty(nbytes)
            memory[:] = self.memory[at : at + nbytes].data
        return memory

    def keep(self) -> None:
        """Have `close` keep it for `make_again`, which made it: no rank is still to enter it."""
        self._is_kept = self._made >= 0

    def close(self) -> None:
        """End it for this rank; what was taken stays."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
        if self._is_kept:
            self._is_kept = False
            self.forget()
            self._kept.append(self)
            return
        if self._map is not None:
            with contextlib.suppress(BufferError):  # an exception's frames show some of it yet
                self._map.close()
        if self._made >= 0:
            os.close(self._made)

    @classmethod
    def forget(cls) -> None:
        """End the one that this process keeps."""
        while cls._kept:
            cls._kept.pop().close()


# Else what a process keeps stays in memory for as long as a child lives.
os.register_at_fork(after_in_child=HostRoom.forget)


def _opened_again(pid: int, fd: int) -> int:
    """Return a descriptor of the file that a process has open as `fd`, opened anew."""
    return os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)


class OwnRoom:
    """Memory of a rank that is alone on its host; `OSError` if that has none."""

    def __init__(self, nbytes: int) -> None:
        _check_memory(nbytes)
        self.nbytes = nbytes
        #: The memory itself.
        self.memory: npt.NDArray[np.uint8] = np.empty(nbytes, np.uint8)

    def reserve(self, start: int, stop: int) -> None:
        """Do nothing: such memory is given when it is used, as any."""

    def fill(self, parts: Content, *, alone: bool = False) -> None:
        """Write pieces to their offsets."""
        for at, piece in parts:
            self.memory[at : at + len(piece)] = np.frombuffer(piece, np.uint8)

    def take(self, at: int, nbytes: int) -> memoryview:
        """Return a part."""
        return self.memory[at : at + nbytes].data

    def keep(self) -> None:
        """Do nothing: malloc keeps such memory."""

    def close(self) -> None:
        """End it; what was taken stays."""


class StoreRoom:
    """A file of the store."""

    kind: ClassVar[int] = 2

    def __init__(self, connector: FileConnector, key: FileKey, *, made: bool) -> None:
        self._connector = connector
        self._key = key
        self._made = made
        self._fd: int | None = None
        self.nbytes = key.nbytes

    @classmethod
    def make(cls, connector: FileConnector, nbytes: int) -> StoreRoom:
        """Make one; `StoreError` if the file system has no space for it, `OSError` no memory."""
        cls.check(connector, nbytes)
        return cls(connector, connector.reserve(b"", nbytes), made=True)

    @staticmethod
    def check(connector: FileConnector, nbytes: int) -> None:
        """Raise `OSError` if files of the store are memory, and the host has none for one."""
        if find_filesystem(connector.store_dir).kind in _IN_MEMORY:
            _check_memory(nbytes)

    @property
    def place(self) -> bytes:
        """What says to other ranks where it is."""
        return _FILE.pack(self.kind, 0, self._key.pack()).ljust(PLACE_SIZE, b"\0")

    def fill(self, parts: Content, *, alone: bool = False) -> None:
        """Write pieces to their offsets; others may write elsewhere at the same time."""
        self._connector.fill(self._key, parts)

    def take(self, at: int, nbytes: int) -> Memory:
        """Return a part as memory of the caller's own. Not before all have filled theirs.

        On a network file system a file shows what others have closed when it is opened: it is
        opened here once, and not the same time as to fill it.
        """
        path = self._connector.path(self._key)
        if self._fd is None:
            self._fd = self._connector.open(self._key)
        if self._fd is None:
            raise MissingObjectError(f"{path} was removed before it was received", path=path)
        try:
            mappable = self._connector.maps(nbytes)
            return files.part_of(self._fd, path, at, nbytes, mappable=mappable)
        except OSError as error:
            raise self._connector.directory.error(error, "read", path) from error

    def keep(self) -> None:
        """Do nothing: it is removed."""

    def close(self) -> None:
        """End it for this rank; the one that made it removes it."""
        if self._fd is not None:
            os.closerange(self._fd, self._fd + 1)
        if self._made:
            self._connector.evict(self._key)


#: A room whose memory a process can reach.
MemoryRoom: TypeAlias = "HostRoom | OwnRoom"

Room: TypeAlias = "MemoryRoom | StoreRoom"


def enter(place: Memory, nbytes: int, connector: FileConnector) -> Room:
    """Return the room of `nbytes` bytes that another rank has made."""
    if place[0] == HostRoom.kind:
        return HostRoom.enter(place, nbytes)
    key = FileKey.unpack(_FILE.unpack_from(place)[2])
    return StoreRoom(connector, key, made=False)

"""HostCache: copies in a host's memory of objects whose own files cannot be mapped.

The first process of a host that gets an object reads it into a file in /dev/shm, and all map that.
The kernel keeps the books. A lock on the file says who reads into it, and is free once that process
is gone. Its mtime is that of the object when the copy is whole, and never before; its atime is that
of its last use. The files lie in a store of their own, which is cleared and proven dead as any.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import time
from contextlib import closing

from fsexchange.connector import layout
from fsexchange.connector.connector import FileConnector
from fsexchange.connector.default import clear_dead
from fsexchange.filesystem import files, publish
from fsexchange.filesystem.capacity import memory_to_share
from fsexchange.filesystem.kinds import find_filesystem
from fsexchange.filesystem.locks import Lock
from fsexchange.filesystem.mapping import mapped

#: Where the copies are.
BASE = "/dev/shm"

# linux/falloc.h. The size of a copy tells how far it has come.
_KEEP_SIZE = 1

# Bytes that are read at a time, so that a signal's handler runs soon.
_PIECE = 1 << 23

# Seconds without a new byte, after which a process does not wait for the one that reads: that may
# be stopped, or in the frames below a signal's handler.
_STALLED = 5.0

# Without a limit copies take at most this part of what /dev/shm has free but for them.
_PART = 1 / 4

# With the stamp of objects that have a name of their own, so that whoever clears the store may
# remove them, whole or not.
_MODE = publish.mode(stamp=True)
_OPEN = os.O_RDWR | os.O_CREAT

_is_of_copy = re.compile(rf"{layout.WRITER.pattern}-[0-9]+").fullmatch


class HostCache:
    """The copies of objects of the store at `store_dir` that the processes of a host share.

    Those with the same `name`, 16 hex digits, share them; the first one that needs the directory
    owns it. Copies of up to `limit` bytes are kept, by default a quarter of what /dev/shm has free;
    those that were not used for longest go first. What a process has mapped of them stays.

    Only objects of `put` are copied: others are there to be set again. Where somebody replaces one
    of `put` all the same, its mtime tells.
    """

    def __init__(self, store_dir: str, name: str, limit: int | None = None) -> None:
        self.path = f"{BASE}/fsexchange-{name}"  # as a default store, whose like are looked for
        self.closed = False
        self._start = len(store_dir) + 1
        self._limit = limit
        self._opened: list[FileConnector] = []

    def mapped(self, path: str, fd: int, nbytes: int) -> memoryview | None:
        """Map the copy of the object at `path`, open as `fd`; None if there can be none.

        The caller opens it for each call: so an object that was evicted is not shown.
        """
        try:
            return self._mapped(path, fd, nbytes) if self._keeps(path) else None
        except OSError:
            # No memory, or the directory is gone with its owner. Or the object could not be read:
            # then the caller gets the same error.
            return None

    def drop(self, path: str) -> None:
        """Give back the memory for the object at `path`, which was evicted."""
        if self._opened and self._keeps(path):
            publish.discard(self._copy(path))

    def close(self, clear: bool | None = None) -> None:
        """Keep no copies any more; in the process that owns the directory, remove it.

        With `clear` True whoever owns it.
        """
        self.closed = True
        for connector in self._opened:
            connector.close()
        if clear and os.path.isdir(self.path):
            FileConnector(self.path).close(clear=True)

    def _keeps(self, path: str) -> bool:
        """Return whether copies may be kept of an object: one with a plain name may be set anew."""
        return not self.closed and "/" in path[self._start :]

    def _copy(self, path: str) -> str:
        return f"{self.path}/{path[self._start :].replace('/', '-')}"

    def _mapped(self, path: str, fd: int, nbytes: int) -> memoryview | None:
        self._open()
        mtime = os.fstat(fd).st_mtime_ns
        while True:
            with closing(Lock(self._copy(path), _OPEN, _MODE)) as copy:
                if not _wait(copy, nbytes, mtime):
                    return None
                status = os.fstat(copy.fd)
                if not _is_whole(status, nbytes, mtime):
                    if not status.st_nlink:
                        continue  # another process has just dropped it
                    if status.st_blocks:
                        # Half of one, of a killed process. Or of an object that was replaced by
                        # `set`: others may have it mapped, so it cannot be written to.
                        os.unlink(copy.path)
                        continue
                    self._read(copy, fd, nbytes)
                os.utime(copy.fd, ns=(time.time_ns(), mtime))
                return mapped(copy.fd, nbytes)

    def _open(self) -> None:
        """Open the directory, unless this process has."""
        if self._opened:
            return
        try:
            if not (os.path.isdir(BASE) and find_filesystem(BASE).policy.mappable):
                raise OSError(errno.EOPNOTSUPP, "no memory of this host", BASE)
            if not os.path.isdir(self.path):
                clear_dead(BASE)
            self._opened.extend(map(FileConnector, (self.path,)))  # with no moment between
        except OSError:
            self.closed = True  # it would be the same the next time
            raise

    def _read(self, copy: Lock, source: int, nbytes: int) -> None:
        """Read an object into its empty copy; `OSError` and no copy if that cannot be."""
        try:
            with closing(Lock(f"{self.path}/lock", _OPEN, _MODE)) as turn:
                if not _wait(turn):
                    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), turn.path)
                self._make_room(copy.path, nbytes)
                if files.fallocate(copy.fd, _KEEP_SIZE, 0, nbytes) != 0:
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number), copy.path)
            done = 0
            while done < nbytes:
                count = os.sendfile(copy.fd, source, done, min(_PIECE, nbytes - done))
                if count == 0:
                    raise OSError(errno.EIO, "the object ends too early")
                done += count
        except BaseException:
            publish.discard(copy.path)
            raise

    def _make_room(self, new: str, nbytes: int) -> None:
        """Drop the least recently used copies, but a new one, for `nbytes` bytes; or `OSError`."""
        copies = []
        for name in filter(_is_of_copy, os.listdir(self.path)):
            path = f"{self.path}/{name}"
            with contextlib.suppress(FileNotFoundError):  # another process has just dropped it
                status = os.stat(path)
                if path != new:
                    copies.append((status.st_atime_ns, status.st_blocks * 512, path))
        held = sum(size for _, size, _ in copies)
        system = os.statvfs(self.path)
        space = system.f_bavail * system.f_frsize
        most = int((space + held) * _PART) if self._limit is None else self._limit
        free = min(space, memory_to_share())
        if nbytes > min(most, held + free):
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), new)
        for _, size, path in sorted(copies):
            if held + nbytes <= most and nbytes <= free:
                break
            publish.discard(path)
            held, free = held - size, free + size
        if nbytes > memory_to_share():  # what is mapped of the dropped ones is still there
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), new)


def _is_whole(status: os.stat_result, nbytes: int, mtime: int) -> bool:
    return status.st_size == nbytes and status.st_mtime_ns == mtime


def _wait(lock: Lock, nbytes: int = -1, mtime: int = 0) -> bool:
    """Wait until this process has the lock of a copy, or the copy is whole.

    False if nothing happens for a while.
    """
    began = grown = time.monotonic()
    before = None
    while not lock.take():
        status = os.fstat(lock.fd)
        if _is_whole(status, nbytes, mtime):
            break
        now = time.monotonic()
        size = status.st_size, status.st_blocks
        if size != before:
            before, grown = size, now
        elif now - grown > _STALLED:
            return False
        time.sleep(min(1e-2, 5e-5 + (now - began) / 20))
    return True

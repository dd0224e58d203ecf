"""Arguments: large buffers that tasks need, each written once for as long as tasks need it."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np

from fsexchange.connector.connector import FileConnector
from fsexchange.connector.keys import FileKey
from fsexchange.errors import FsExchangeError
from fsexchange.filesystem.memory import WatchedMemory, whole_pages
from fsexchange.pools.task import evict

_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]

# To compare fewer bytes takes no longer than to ask the kernel.
_WATCHED_FROM = 1 << 22


class _File:
    """A file that holds a buffer, and how many tasks need it."""

    def __init__(self, connector: FileConnector, buffer: Any, place: tuple[int, int]) -> None:
        self.tasks = 1
        self.place = place
        self.lock = threading.Lock()  # held by who finds out whether the buffer has changed
        address, nbytes = place
        start, length = whole_pages(*place)
        self._ends = (0, start - address), (start + length - address, nbytes)
        self._connector = connector
        self._content: Any = None
        self._digest = b""
        self._at_ends: list[bytes] = []
        self.key = connector.put([buffer])

    def holds(self, buffer: memoryview) -> bool:
        """Return whether the buffer is what was written, as far as there is memory to tell."""
        if not self._at_ends and not self._look():
            return False
        if self._content is None:
            return _digest(buffer) == self._digest
        return not _memcmp(self.place[0], self._content.ctypes.data, buffer.nbytes)

    def holds_ends(self, buffer: memoryview) -> bool:
        """Return whether the same is true of what is not in whole pages."""
        return [bytes(buffer[slice(*end)]) for end in self._ends] == self._at_ends

    def _look(self) -> bool:
        """Find out what was written; return whether that was possible.

        Only the file tells: who writes to the buffer at that time does so before or after it is
        read for the file, and for something else after or before.
        """
        try:
            data = self._connector.get(self.key)
        except (FsExchangeError, MemoryError):
            return False
        if data is None:
            return False
        content = np.frombuffer(data, np.uint8)
        if self._connector.maps(content.nbytes):
            self._content = content
        else:  # to compare it would be kept in memory, or read again
            self._digest = _digest(content)
        self._at_ends = [content[slice(*end)].tobytes() for end in self._ends]
        return True


def _digest(buffer: Any) -> bytes:
    return hashlib.sha256(buffer).digest()


class Arguments:
    """The buffers that tasks of one executor need. Threads may share it.

    Each task gets what its arguments were when it was submitted, and a buffer that has not changed
    is written once. One at the same place as one that is written already is compared with it, which
    takes a quarter of the time to write it. From then on the kernel is asked whether anybody has
    written to that memory, see `WatchedMemory`; where it cannot tell, or somebody has, the buffer
    is compared again.
    """

    def __init__(self, connector: FileConnector) -> None:
        self._connector = connector
        self._at: dict[tuple[int, int], _File] = {}
        self._files: dict[FileKey, _File] = {}
        self._lock = threading.Lock()  # not held while a file is written or compared
        self._watched: dict[tuple[int, int], _File] = {}
        self._memory: WatchedMemory | None = None
        with contextlib.suppress(OSError):
            self._memory = WatchedMemory()

    def close(self) -> None:
        """Watch no memory any more; to be called when no task is left."""
        if self._memory is not None:
            self._memory.close()

    def add(self, buffer: memoryview) -> FileKey:
        """Return the key of a file with a buffer, for one task more."""
        address = np.frombuffer(buffer, np.uint8).ctypes.data
        place = address, buffer.nbytes
        with self._lock:
            known = self._at.get(place)
            if known is not None:
                known.tasks += 1
        if known is not None:
            same = False
            try:
                same = self._is_same(known, buffer)
            finally:
                if not same:
                    self.release([known.key])
            if same:
                return known.key
        made = _File(self._connector, buffer, place)
        with self._lock:
            self._at[place] = self._files[made.key] = made
        return made.key

    def release(self, keys: Iterable[FileKey]) -> None:
        """Say that a task does not need these files any more; remove those that none needs."""
        unused = []
        with self._lock:
            for key in keys:
                file = self._files.get(key)
                if file is not None:
                    file.tasks -= 1
                    if file.tasks:
                        continue
                    del self._files[key]
                    if self._at.get(file.place) is file:  # else what is there now is another
                        del self._at[file.place]
                    self._forget(file)
                unused.append(key)
        evict(self._connector, unused)

    def _is_same(self, file: _File, buffer: memoryview) -> bool:
        """Return whether a buffer is what it was when the file was written."""
        # Else a thread that watches the memory anew, because of a write, would hide the write from
        # one that asks the kernel before the first has found the difference.
        with file.lock:
            if self._memory is None or buffer.nbytes < _WATCHED_FROM:
                return file.holds(buffer)
            watched = self._watched.get(file.place) is file
            if watched and self._memory.is_unwritten(*file.place):
                return file.holds_ends(buffer)
            # In this order: what is written from here on is seen by the comparison or by the next.
            self._watch(self._memory, file)
            same = False
            try:
                same = file.holds(buffer)
            finally:
                if not same:
                    with self._lock:
                        self._forget(file)
            return same

    def _watch(self, memory: WatchedMemory, file: _File) -> None:
        """Watch the memory of a file's buffer, unless a part of it is watched for another one."""
        address, nbytes = file.place
        with self._lock:
            for (start, length), other in self._watched.items():
                if other is not file and start < address + nbytes and address < start + length:
                    return
            try:
                memory.watch(address, nbytes)
                self._watched[file.place] = file
            except OSError:  # shared memory, a device's, a file's, or what a limit forbids
                self._forget(file)

    def _forget(self, file: _File) -> None:
        """Watch the memory of a file's buffer no more; the caller holds the lock."""
        if self._watched.get(file.place) is file:
            del self._watched[file.place]
            if self._memory is not None:
                with contextlib.suppress(OSError):  # it was freed
                    self._memory.forget(*file.place)

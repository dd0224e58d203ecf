"""Arguments: large buffers that tasks need, each written once for as long as tasks need it."""

from __future__ import annotations

import ctypes
import hashlib
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np

from fsexchange.connector.connector import FileConnector
from fsexchange.connector.keys import FileKey
from fsexchange.pools.task import evict

_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


class _File:
    """A file that holds a buffer, and how many tasks need it."""

    def __init__(self, connector: FileConnector, buffer: Any, place: tuple[int, int]) -> None:
        self.tasks = 1
        self.place = place
        self.key = connector.put([buffer])
        self._content: Any = None
        if connector.maps(buffer.nbytes):
            data = connector.get(self.key)
            self._content = None if data is None else np.frombuffer(data, np.uint8)
        else:  # to compare it would be read again
            self._digest = _digest(buffer)

    def holds(self, buffer: memoryview, address: int) -> bool:
        """Return whether the buffer is what it was when it was written."""
        if self._content is None:
            return _digest(buffer) == self._digest
        return not _memcmp(address, self._content.ctypes.data, buffer.nbytes)


def _digest(buffer: memoryview) -> bytes:
    return hashlib.sha256(buffer).digest()


class Arguments:
    """The buffers that tasks of one executor need. Threads may share it.

    A buffer that is at the same place as one that is written already is compared with it, which
    takes a quarter of the time to write it. So each task gets what its arguments were when it was
    submitted, and a buffer that has not changed is written once.
    """

    def __init__(self, connector: FileConnector) -> None:
        self._connector = connector
        self._at: dict[tuple[int, int], _File] = {}
        self._files: dict[FileKey, _File] = {}
        self._lock = threading.Lock()  # not held while a file is written or compared

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
                same = known.holds(buffer, address)
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
                unused.append(key)
        evict(self._connector, unused)

"""Cache: copies of objects that were read, up to a number of bytes."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fsexchange.connector.keys import FileKey
    from fsexchange.filesystem.files import BytesLike


class Cache:
    """Keeps up to `limit` bytes of the most recently used objects, and returns copies of them.

    Notes
    -----
    Threads may share it, and signal handlers may use it. Nobody waits for its lock, which is held
    for look-ups only: who finds it taken does without the cache. The one that has it may be in the
    frames below a handler.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._renew()
        _caches.add(self)

    def _renew(self) -> None:
        self._kept: OrderedDict[FileKey, bytes] = OrderedDict()
        self._nbytes: int | None = 0
        self._unwanted: deque[FileKey] = deque()
        self._lock = threading.Lock()

    def get(self, key: FileKey) -> bytearray | None:
        """Return a writable copy of the object under a key, or None if it is not kept."""
        if self._lock.locked():
            return None
        with self._lock:
            self._drop_unwanted()
            kept = self._kept.get(key)
            if kept is None:
                return None
            self._kept.move_to_end(key)
        return bytearray(kept)

    def put(self, key: FileKey, data: BytesLike) -> None:
        """Keep a copy of an object, dropping the least recently used ones to make room.

        Objects larger than the limit are not kept, nor are those whose key has no length: such a
        key is not from `put`, so its object may be set again.
        """
        if key.nbytes < 0 or len(data) > self.limit:
            return
        copy = bytes(data)
        if self._lock.locked():
            return
        with self._lock:
            self._drop_unwanted()
            self._change(key, copy)

    def discard(self, key: FileKey) -> None:
        """Forget an object."""
        self._unwanted.append(key)
        if not self._lock.locked():
            with self._lock:
                self._drop_unwanted()
        # Else the next one that gets the lock drops it, before anything else.

    def _drop_unwanted(self) -> None:
        while self._unwanted:
            self._change(self._unwanted[0], None)
            self._unwanted.popleft()

    def _change(self, key: FileKey, copy: bytes | None) -> None:
        """Keep this copy under a key, or none; the caller has the lock."""
        nbytes = self._nbytes
        self._nbytes = None  # not known, should a signal handler raise before the end
        if nbytes is None:
            nbytes = sum(map(len, self._kept.values()))
        nbytes -= len(self._kept.pop(key, b""))
        if copy is not None:
            self._kept[key] = copy
            nbytes += len(copy)
        while nbytes > self.limit:
            _, dropped = self._kept.popitem(last=False)
            nbytes -= len(dropped)
        self._nbytes = nbytes


# All caches of this process.
_caches: weakref.WeakSet[Cache] = weakref.WeakSet()


def _in_forked_child() -> None:
    """Renew all locks: one that another thread of the parent held would never be released."""
    for cache in tuple(_caches):
        cache._renew()


os.register_at_fork(after_in_child=_in_forked_child)

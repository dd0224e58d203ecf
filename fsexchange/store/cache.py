"""Cache: copies of objects that were read, up to a number of bytes."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fsexchange.connector.keys import FileKey
    from fsexchange.filesystem.files import BytesLike


class Cache:
    """Keeps up to `limit` bytes of the most recently used objects, and returns copies of them.

    Notes
    -----
    Threads may share it. Its lock is held for look-ups, never while objects are copied or read.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._renew()
        _caches.add(self)

    def _renew(self) -> None:
        self._kept: OrderedDict[FileKey, bytes] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()

    def get(self, key: FileKey) -> bytearray | None:
        """Return a writable copy of the object under a key, or None if it is not kept."""
        with self._lock:
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
        with self._lock:
            self._nbytes += len(copy) - len(self._kept.pop(key, b""))
            self._kept[key] = copy
            while self._nbytes > self.limit:
                _, dropped = self._kept.popitem(last=False)
                self._nbytes -= len(dropped)

    def discard(self, key: FileKey) -> None:
        """Forget an object."""
        with self._lock:
            self._nbytes -= len(self._kept.pop(key, b""))


# All caches of this process.
_caches: weakref.WeakSet[Cache] = weakref.WeakSet()


def _in_forked_child() -> None:
    """Renew all locks: one that another thread of the parent held would never be released."""
    for cache in tuple(_caches):
        cache._renew()


os.register_at_fork(after_in_child=_in_forked_child)

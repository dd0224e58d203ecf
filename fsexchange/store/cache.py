"""A cache of what was read, bounded in bytes."""

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
    """The least recently used bytes of up to `limit`, each handed out as a copy of the caller's.

    Notes
    -----
    Threads may share it; the lock is held for look-ups, never for copies or I/O.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._renew()
        # A child forked while another thread held the lock would wait for it for ever.
        this = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _renew(this()))

    def _renew(self) -> None:
        self._kept: OrderedDict[FileKey, bytes] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()

    def get(self, key: FileKey) -> bytearray | None:
        """Return a writable copy of what is kept under the key, or None."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is None:
                return None
            self._kept.move_to_end(key)
        return bytearray(kept)

    def put(self, key: FileKey, data: BytesLike) -> None:
        """Keep a copy, if it fits at all; the least recently used go for it.

        Only objects of `put`, which never change.
        """
        if getattr(key, "nbytes", -1) < 0 or len(data) > self.limit:
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


def _renew(cache: Cache | None) -> None:
    if cache is not None:
        cache._renew()

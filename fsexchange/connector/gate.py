"""The gate of a store: only one process at a time makes, adopts or clears a store in a directory.

It is a lock on the directory itself, held for as long as that takes and free when its holder is
gone, however it ends. Where locks cannot be trusted everybody passes: there a store is made by
link(2), cleared by the process whose rename of the witness succeeds, and never adopted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator

from fsexchange.errors import StoreError
from fsexchange.filesystem.kinds import find_filesystem
from fsexchange.filesystem.locks import Lock

#: Seconds for what another process does in milliseconds, unless it clears a large store.
PATIENCE = 10.0


@contextlib.contextmanager
def gate(path: str, *, seconds: float = PATIENCE) -> Iterator[bool]:
    """Pass the gate of a directory; False if that is not at `path` any more.

    `FileNotFoundError` if there is none. `StoreError` if another process holds the gate for more
    than `seconds`.
    """
    if find_filesystem(path).policy.network:
        yield True
        return
    lock = Lock(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        message = (
            f"another process makes or clears the store at {path}, or has locked its directory, "
            "and does not end; end it (lslocks shows which), or choose another store_dir"
        )
        for _ in patiently(message, seconds):
            if lock.take():
                break
        yield lock.is_at(path)
    finally:
        lock.close()


def patiently(message: str, seconds: float = PATIENCE) -> Iterator[None]:
    """Yield again and again, at growing intervals; raise `StoreError` in the end."""
    deadline = time.monotonic() + seconds
    pause = 0.001
    while True:
        yield
        if time.monotonic() >= deadline:
            raise StoreError(message, errno=errno.ETIMEDOUT)
        time.sleep(pause)
        pause = min(2 * pause, 0.1)

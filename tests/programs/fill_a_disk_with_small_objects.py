"""Fill a disk of 40 MiB with small objects, then evict them: their space comes back."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

from fsexchange import FileConnector, FileKey, StoreError

connector = FileConnector(f"{sys.argv[1]}/store")


def fill(put: Callable[[], list[FileKey]]) -> list[FileKey]:
    keys = []
    try:
        while True:
            keys += put()
    except StoreError as error:
        assert error.errno == errno.ENOSPC, error
        assert "No space left on device; free space" in str(error), error
    return keys


content = b"x" * 1000
puts: list[Callable[[], list[FileKey]]] = [
    lambda: connector.put_batch([content] * 1000),
    lambda: connector.put_batch([content, b"y" * (8 << 20), content]),
]
for put in puts:
    keys = fill(put)
    assert sum(key.nbytes for key in keys) > 30 << 20, len(keys)
    connector.evict(keys[3])
    assert connector.get(keys[3]) is None
    for key in keys[:300]:
        connector.evict(key)
    assert len(keys) < 300 or connector.get(connector.put(b"fits again")) == b"fits again"
    assert connector.get_batch(keys[300:]) == [content] * len(keys[300:])
    connector.evict_batch(keys)

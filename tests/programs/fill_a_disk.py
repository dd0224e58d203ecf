"""Put more than a disk of 40 MiB takes: errors, no files, and small puts still work.

Options of the connector that are to be true follow the directory.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import Any

from fsexchange import FileConnector, StoreError

base, options = sys.argv[1], sys.argv[2:]
flags: dict[str, Any] = dict.fromkeys(options, True)
connector = FileConnector(f"{base}/store", **flags)


def files() -> set[str]:
    return {os.path.join(folder, name) for folder, _, names in os.walk(base) for name in names}


first = connector.put(b"first")
replaced = connector.new_key()
connector.set(replaced, b"before")
before = files()
attempts: list[Callable[[], object]] = [
    lambda: connector.put(bytes(60 << 20)),
    lambda: connector.put([bytes(1 << 20)] * 60),
    lambda: connector.put_batch([bytes(10 << 20)] * 6),
    lambda: connector.set(connector.new_key(), bytes(60 << 20)),
]
for attempt in attempts:
    try:
        attempt()
    except StoreError as error:
        assert error.errno == errno.ENOSPC, error
        assert "(tmpfs): No space left on device; free space" in str(error), error
        assert error.path.startswith(base), error
    else:
        raise AssertionError("no error")
    assert files() == before, files() - before
    connector.evict(key := connector.put(b"the next small put works"))
    assert connector.get(first) == b"first"
big = connector.put(bytes(30 << 20))
assert connector.get(big) == bytes(30 << 20)
assert connector.get(replaced) == b"before"

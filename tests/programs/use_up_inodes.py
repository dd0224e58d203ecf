"""Put until there is no inode left: the object fits, its marker does not."""

from __future__ import annotations

import errno
import os
import sys

from fsexchange import FileConnector, FileKey, StoreError

connector = FileConnector(f"{sys.argv[1]}/store", markers=True)
keys: list[FileKey] = []
try:
    while True:
        keys.append(connector.put(b"x"))
except StoreError as error:
    assert error.errno == errno.ENOSPC, error
assert keys
names = [name for _, _, names in os.walk(connector.store_dir) for name in names if name[0] != "."]
assert len(names) == 2 * len(keys), names
connector.evict(keys.pop())
assert connector.get(connector.put(b"y")) == b"y"

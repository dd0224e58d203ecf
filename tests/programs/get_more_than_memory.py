"""Get an object larger than the memory, and a large one where a writable mapping is refused."""

from __future__ import annotations

import os
import resource
import sys

from fsexchange import FileConnector, FileKey


def hole(connector: FileConnector, nbytes: int) -> FileKey:
    """Return the key of an object that takes no memory, but for its head."""
    key = connector.put(b"head")
    os.truncate(connector.path(key), nbytes)
    return FileKey(key.filename, nbytes)


with FileConnector(sys.argv[1]) as connector:
    tebibyte = hole(connector, 1 << 40)
    data = connector.get(tebibyte)
    assert data is not None
    assert len(data) == 1 << 40
    assert bytes(data[:5]) == b"head\0"
    data[3 << 38] = 7  # type: ignore[index]  # a page of the caller's own
    assert data[3 << 38] == 7
    del data
    gibibyte = hole(connector, 1 << 30)
    resource.setrlimit(resource.RLIMIT_DATA, (256 << 20, 256 << 20))
    data = connector.get(gibibyte)
    assert isinstance(data, memoryview)
    assert data.readonly
    assert bytes(data[:5]) == b"head\0"

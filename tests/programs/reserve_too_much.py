"""Reserve more than a file system has room for, then what it has room for."""

from __future__ import annotations

import sys

from fsexchange import FileConnector, StoreError

with FileConnector(f"{sys.argv[1]}/store") as connector:
    try:
        connector.reserve(b"head", 100 << 20)
    except StoreError as error:
        assert "No space left" in str(error), error
    else:
        raise AssertionError("there is no room for it")
    key = connector.reserve(b"head", 2 << 20)
    data = connector.get(key)
    assert data is not None
    assert bytes(data[:8]) == b"head\0\0\0\0"

"""Get an object larger than the memory, and a large one where a writable mapping is refused."""

from __future__ import annotations

import resource
import sys

from fsexchange import FileConnector

with FileConnector(sys.argv[1]) as connector:
    tebibyte = connector.reserve(b"head", 1 << 40)  # a hole, but for the head
    data = connector.get(tebibyte)
    assert data is not None
    assert len(data) == 1 << 40
    assert bytes(data[:5]) == b"head\0"
    data[3 << 38] = 7  # type: ignore[index]  # a page of the caller's own
    assert data[3 << 38] == 7
    del data
    gibibyte = connector.reserve(b"head", 1 << 30)
    resource.setrlimit(resource.RLIMIT_DATA, (256 << 20, 256 << 20))
    data = connector.get(gibibyte)
    assert isinstance(data, memoryview)
    assert data.readonly
    assert bytes(data[:5]) == b"head\0"

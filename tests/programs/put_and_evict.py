"""Put small objects, evict them all, and end without closing the connector."""

from __future__ import annotations

import sys

from fsexchange import FileConnector

connector = FileConnector(sys.argv[1])
for key in [connector.put(b"content") for _ in range(30)]:
    connector.evict(key)

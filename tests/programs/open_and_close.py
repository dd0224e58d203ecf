"""Open and close one directory for three seconds, while other processes do the same."""

from __future__ import annotations

import sys
import time

from fsexchange import FileConnector, StoreClosedError

end = time.monotonic() + 3
while time.monotonic() < end:
    connector = FileConnector(sys.argv[1])
    mine = connector.owned
    try:
        key = connector.put(b"x")
        assert connector.get(key) == b"x"
        connector.get(connector.new_key())
        connector.close()
    except StoreClosedError:
        assert not mine, "an owner lost its live store"

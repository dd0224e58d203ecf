"""Make and close default stores, one after the other, each of which this process must own."""

from __future__ import annotations

import sys

from fsexchange import FileConnector, Store

for _ in range(int(sys.argv[1])):
    with Store() as store:
        assert isinstance(store.connector, FileConnector)
        assert store.connector.owned, "another process looked whether its owner lives"

"""Set a write-once key twice, and say what each did."""

from __future__ import annotations

import sys

from fsexchange import FileConnector, FsExchangeError

with FileConnector(sys.argv[1], write_once=True) as connector:
    key = connector.new_key()
    for content in b"first", b"second":
        try:
            connector.set(key, content)
            print("set")
        except FsExchangeError as error:
            print(type(error).__name__, error)
    print(connector.get(key))

"""Read an object of a store that another process owns, by its key."""

from __future__ import annotations

import sys

from fsexchange import FileConnector, FileKey

with FileConnector(sys.argv[1]) as connector:
    assert not connector.owned
    assert connector.get(FileKey.parse(sys.argv[2])) == b"content"

"""Make the system calls of opening a store, and no others, between two marks."""

from __future__ import annotations

import os
import sys

from fsexchange import FileConnector

path, kind = sys.argv[1:]
with FileConnector(f"{path}-warm-up") as connector:
    connector.put(b"warm up")
os.access("/fsexchange-begin", 0)
opened = FileConnector(path, clear=kind != "kept")  # one that is dropped warns
os.access("/fsexchange-end", 0)
os._exit(0)

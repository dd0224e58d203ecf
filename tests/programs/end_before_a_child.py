"""Own a store and end without joining a child that still reads from it."""

from __future__ import annotations

import multiprocessing
import sys
import time

from fsexchange import FileConnector, FileKey


def child(connector: FileConnector, key: FileKey) -> None:
    time.sleep(0.5)
    print(bytes(connector.get(key) or b"missing"), flush=True)


connector = FileConnector(sys.argv[1])
key = connector.put(b"still there")
multiprocessing.get_context("fork").Process(target=child, args=(connector, key)).start()

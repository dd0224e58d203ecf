"""A thread puts while the process forks children that put: no file is written by two."""

from __future__ import annotations

import os
import sys
import threading
import warnings

from fsexchange import FileConnector, FileKey

warnings.simplefilter("ignore", DeprecationWarning)  # fork in a thread is the point here
connector = FileConnector(sys.argv[1])
stop = threading.Event()
keys: list[tuple[FileKey, bytes]] = []


def put() -> None:
    while not stop.is_set():
        keys.append((connector.put(b"parent %d" % len(keys)), b"parent %d" % len(keys)))


# A daemon, or a child that fails would leave the program waiting for it.
thread = threading.Thread(target=put, daemon=True)
thread.start()
for _ in range(50):
    if not os.fork():
        key = connector.put(b"child")
        os._exit(connector.get(key) != b"child")
    assert os.wait()[1] == 0
stop.set()
thread.join()
for key, content in keys:
    assert connector.get(key) == content

"""Have a child of a forkserver own a store and end while a child of its own still reads."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time

from fsexchange import FileConnector, FileKey

connector = FileConnector(f"{sys.argv[1]}/{os.getpid()}")  # one for each process that imports this


def read(key: FileKey) -> None:
    time.sleep(0.5)
    print(bytes(connector.get(key) or b"missing"), flush=True)


def work() -> None:
    key = connector.put(b"still there")
    multiprocessing.get_context("fork").Process(target=read, args=(key,)).start()


if __name__ == "__main__":
    child = multiprocessing.get_context("forkserver").Process(target=work)
    child.start()
    child.join()

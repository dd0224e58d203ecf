"""Own a store with one object, print its key, and then live or end in the way that is named."""

from __future__ import annotations

import os
import signal
import sys
import time

from fsexchange import FileConnector

path, way = sys.argv[1:]
connector = FileConnector(path)
print(connector.put(b"left behind"), flush=True)
match way:
    case "live":
        time.sleep(600)
    case "die with a living child":
        if os.fork() == 0:
            print("child", flush=True)
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL)
    case "become another program":
        os.execv("/bin/sleep", ["sleep", "600"])
    case "end by os._exit":
        os._exit(0)
    case _:
        raise ValueError(way)

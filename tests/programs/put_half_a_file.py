"""Put a file into a store, and be killed when more than half of it is written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from fsexchange import Store
from fsexchange.filesystem import transfer

store, path, kind = sys.argv[1:]
transfer._clone = lambda source, target: False  # to share blocks is one step
transfer._STEP = 1 << 20
left = os.stat(path).st_size / 2


def end_at_half(done: int) -> None:
    global left
    left -= done
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)


if kind == "pipe":
    cat = subprocess.Popen(["cat", path], stdout=subprocess.PIPE)
    assert cat.stdout is not None
    print(Store(store).put_file(cat.stdout.fileno(), progress=end_at_half))
else:
    print(Store(store).put_file(path, progress=end_at_half))

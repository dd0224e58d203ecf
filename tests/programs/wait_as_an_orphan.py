"""Own a store and be killed, while a forked child waits; the child writes the error's name."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from fsexchange import Store, StoreClosedError

path = Path(sys.argv[1])
store = Store(path)
future = store.future()
owner = os.getpid()
if os.fork() == 0:
    os.kill(owner, signal.SIGKILL)
    try:
        future.result()
    except StoreClosedError as error:
        (path.parent / "told").write_text(type(error).__name__)
    os._exit(0)
signal.pause()

"""Fork while another thread makes a definition; the child makes one, too."""

from __future__ import annotations

import os
import threading
import time
import warnings

import cloudpickle.cloudpickle

from fsexchange.serialize import deserialize, dumps

warnings.simplefilter("ignore", DeprecationWarning)  # to fork beside a thread is the point here
started = threading.Event()


def hold() -> None:
    with cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_LOCK:
        started.set()
        time.sleep(0.5)


thread = threading.Thread(target=hold)
thread.start()
started.wait()
child = os.fork()
if child == 0:

    class Local:
        x = 7

    os._exit(deserialize(dumps(Local)).x != 7)
assert os.waitpid(child, 0)[1] == 0
thread.join()

"""Fork while another thread imports what pickles by value; the child pickles by value, too."""

from __future__ import annotations

import importlib.abc
import os
import sys
import threading
import time
import types
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec

from fsexchange.serialize import deserialize, dumps

warnings.simplefilter("ignore", DeprecationWarning)  # to fork beside a thread is the point here
started = threading.Event()


class Slow(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "cloudpickle":
            started.set()
            time.sleep(0.5)
        return None


assert "cloudpickle" not in sys.modules
sys.meta_path.insert(0, Slow())
thread = threading.Thread(target=dumps, args=(lambda: 1,))
thread.start()
started.wait()
child = os.fork()
if child == 0:
    os._exit(deserialize(dumps(lambda: 7))() != 7)
assert os.waitpid(child, 0)[1] == 0
thread.join()

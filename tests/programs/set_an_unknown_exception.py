"""Set a future to an exception whose class only this process has."""

from __future__ import annotations

import sys
import types

from fsexchange import FileKey, Future, Store


class TheirError(Exception):
    """Found in a module that no other process can import."""


TheirError.__module__ = "onlythere"
sys.modules["onlythere"] = types.ModuleType("onlythere")
vars(sys.modules["onlythere"])["TheirError"] = TheirError
path, key = sys.argv[1:]
future: Future[None] = Future(Store(path), FileKey.parse(key))
future.set_exception(TheirError("solver diverged at step 9"))

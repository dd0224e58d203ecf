"""Release what the kernel gave, a mapping or a descriptor, once the object that stands for it goes.

`__del__` and `weakref.finalize` run Python code. There a signal handler that raises would leave the
work half done, and its exception would be lost. Here nothing runs but C: the callbacks of weak
references, which CPython calls while the object is freed.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any


class Releases:
    """What will be released, and how much that is. Threads may share it.

    Nothing is released when the interpreter ends: exit handlers may still use it, and the kernel
    takes it back anyway.
    """

    def __init__(self) -> None:
        # They must live for as long as the object, as no callback is called otherwise.
        self._refs: dict[int, tuple[weakref.ref[Any], weakref.ref[Any]]] = {}
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._refs)

    def add(self, obj: object, release: Callable[..., object], *args: object) -> None:
        """Call `release(*args, a weak reference)` when `obj` goes; `release` must be written in C.

        Add it before there is something to release, with ctypes objects as `args`, and give these
        their values by the statement that gets it: then no signal handler comes between.
        """
        number = next(self._numbers)
        released = weakref.ref(obj, partial(self._refs.pop, number))  # the older is called later
        self._refs[number] = weakref.ref(obj, partial(release, *args)), released

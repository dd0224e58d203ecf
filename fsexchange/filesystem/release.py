"""Release what the kernel gave, a mapping or a descriptor, once the object that stands for it goes.

`__del__` and `weakref.finalize` run Python code. There a signal handler that raises would leave the
work half done, and its exception would be lost. Here nothing runs but C: the callbacks of weak
references, which CPython calls while the object is freed.
"""

from __future__ import annotations

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
        self._refs: set[_Ref] = set()

    def __len__(self) -> int:
        return len(self._refs)

    def add(self, obj: object, release: Callable[..., object], *args: object) -> None:
        """Call `release(*args, a weak reference)` when `obj` goes; `release` must be written in C.

        Add it before there is something to release, with ctypes objects as `args`, and give these
        their values by the statement that gets it: then no signal handler comes between.
        """
        ref = _Ref(obj, self._refs.discard)
        ref.releasing = weakref.ref(obj, partial(release, *args))
        self._refs.add(ref)


class _Ref(weakref.ref[Any]):
    __slots__ = ("releasing",)

    releasing: weakref.ref[Any]
    """It must live for as long as the object, as its callback is not called otherwise."""

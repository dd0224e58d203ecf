"""The directories of a store in which only the calling process makes files.

No two processes ever create files in the same directory (GPFS and Lustre serialise that), and no
name is ever guessed, reused, or looked up before it exists.
"""

from __future__ import annotations

import itertools
import os
from collections import OrderedDict

from fsexchange.connector.directory import Directory
from fsexchange.filesystem.locks import Lock


class _Writer:
    """One directory, and the number of the next file in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.numbers = itertools.count()


# The directories that this process used last, by store and purpose. A task that gets a store, puts
# and drops it would else leave a new directory each time.
_MOST_KEPT = 16
_kept: OrderedDict[tuple[str, str, str], _Writer] = OrderedDict()

# A forked child makes its own.
os.register_at_fork(after_in_child=_kept.clear)


class Writers:
    """The directories of one process in one store, made when first needed.

    Objects of `put` have one directory, those of `new_key` another: they are looked for in its
    listing, which must stay short. Threads that race for the first name each get a directory.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._writers: dict[str, _Writer] = {}
        self._lock: Lock | None = None

    def next_name(self) -> str:
        """Return the name of a new object of `put`."""
        writer = self._writers.get("put") or self._take("put")
        return f"{writer.name}/{next(writer.numbers)}"

    def next_key_name(self) -> str:
        """Return the name of an object that any process can set.

        Its directory says which process made it, and that this lives.
        """
        writer = self._writers.get("new_key") or self._take("new_key")
        return f"{writer.name}/{next(writer.numbers)}"

    def renew(self) -> None:
        """Begin anew, with other directories."""
        for purpose in tuple(self._writers):
            del self._writers[purpose]
            _kept.pop((self._directory.path, self._directory.store_id, purpose), None)
        self._lock = None

    def _take(self, purpose: str) -> _Writer:
        """Return the directory that this process used last, or make one."""
        signed = purpose == "new_key"
        kept = (self._directory.path, self._directory.store_id, purpose)
        writer = _kept.pop(kept, None) or _Writer(self._directory.make_writer(signed=signed))
        if signed:
            self._lock = self._directory.lock_writer(writer.name)
        _kept[kept] = self._writers[purpose] = writer
        while len(_kept) > _MOST_KEPT:
            _kept.popitem(last=False)
        return writer

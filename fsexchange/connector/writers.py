"""The directories of a store in which only the calling process makes files.

No two processes ever create files in the same directory (GPFS and Lustre serialise that), and no
name is ever guessed, reused, or looked up before it exists.
"""

from __future__ import annotations

import itertools
import os

from fsexchange.connector import layout
from fsexchange.connector.directory import Directory
from fsexchange.filesystem.locks import Lock

# In the name of a claim that all calls of `set` for one plain name share, in one process.
_SHARED = 16 * "0"


class _Writer:
    """One directory, and the number of the next file in it."""

    def __init__(self, name: str, lock: Lock | None) -> None:
        self.name = name
        self.numbers = itertools.count()
        self.lock = lock


class Writers:
    """The directories of one process in one store, made when first needed.

    Objects of `put` have one directory, those of `new_key` another: they are looked for in its
    listing, which must stay short. Threads that race for the first name each get a directory.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._writers: dict[str, _Writer] = {}

    def next_name(self) -> str:
        """Return the name of a new object of `put`."""
        writer = self._writers.get("put") or self._make("put")
        return f"{writer.name}/{next(writer.numbers)}"

    def next_key_name(self) -> str:
        """Return the name of an object that any process can set, in a signed directory."""
        writer = self._writers.get("new_key") or self._make("new_key", signed=True)
        return f"{writer.name}/{next(writer.numbers)}"

    def claim(self, filename: str, *, private: bool) -> str:
        """Return the path of a claim: a note that the file of this plain name is an object.

        A private one is for one call of `set`, which removes it if it loses a race.
        """
        writer = self._writers.get("set") or self._make("set")
        token = os.urandom(8).hex() if private else _SHARED
        return f"{self._directory.path}/{writer.name}/{layout.CLAIM}{token}-{filename}"

    def has_claims(self) -> bool:
        """Return whether this process has claimed plain names."""
        return "set" in self._writers

    def clear(self) -> None:
        """Begin anew, with other directories."""
        while self._writers:
            _, writer = self._writers.popitem()
            if writer.lock is not None:
                writer.lock.close()

    def _make(self, purpose: str, *, signed: bool = False) -> _Writer:
        writer = self._writers[purpose] = _Writer(*self._directory.make_writer(signed=signed))
        return writer

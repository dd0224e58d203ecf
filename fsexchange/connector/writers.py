"""The directories of a store in which only the calling process makes files.

No two processes ever create files in the same directory (GPFS and Lustre serialise that), and no
name is ever guessed, reused, or looked up before it exists.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import stat
from collections import OrderedDict

from fsexchange.connector import layout
from fsexchange.connector.directory import Directory
from fsexchange.errors import StoreError
from fsexchange.filesystem import files
from fsexchange.filesystem.advice import store_error
from fsexchange.filesystem.locks import Lock
from fsexchange.filesystem.process import Process


class _Writer:
    """One directory, and the number of the next file in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.numbers = itertools.count()


# The directories that this process used last, by store and purpose. A task that gets a store, puts
# and drops it would else leave a new directory each time.
_MOST_KEPT = 16
_kept: OrderedDict[tuple[str, str, str], _Writer] = OrderedDict()

# Purpose of a directory -> what its signature begins with. One of `new_key` stays when it is empty.
_SIGNED = {"put": layout.FOR_PUT, "put with length": layout.FOR_PUT_WITH_LENGTH, "new_key": b""}


class Writers:
    """The directories of one process in one store, made when first needed.

    Objects of `put` have one directory, and another where they tell their length; those of
    `new_key` a third: they are looked for in its listing, which must stay short. Threads that race
    for the first name each get a directory.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._writers: dict[str, _Writer] = {}
        self._locks: list[Lock] = []

    def next_name(self, tells_length: bool = False) -> str:
        """Return the name of a new object of `put`, which may tell its length at its start."""
        purpose = "put with length" if tells_length else "put"
        writer = self._writers.get(purpose) or self._take(purpose)
        return f"{writer.name}/{next(writer.numbers)}"

    def next_key_name(self) -> str:
        """Return the name of an object that any process can set.

        Its directory says which process made it, and that this lives.
        """
        writer = self._writers.get("new_key") or self._take("new_key")
        return f"{writer.name}/{next(writer.numbers)}"

    def renew(self) -> None:
        """Begin anew, with other directories for objects of `put`."""
        for purpose in ("put", "put with length"):
            self._writers.pop(purpose, None)
            _kept.pop((self._directory.path, self._directory.store_id, purpose), None)

    def touch(self) -> None:
        """Make the directories look new to cleaners of old files; make again what one took."""
        for writer in tuple(self._writers.values()):
            if not self._touch(writer):
                with contextlib.suppress(StoreError):  # the next verb that needs it tells
                    self.restore(writer.name)

    def restore(self, name: str) -> bool:
        """Make a directory of `new_key` again, as objects may be set there; False for another's."""
        kept = (self._directory.path, self._directory.store_id, "new_key")
        writer = self._writers.get("new_key") or _kept.get(kept)
        if writer is None or writer.name != name:
            return False
        self.make(name, _SIGNED["new_key"])
        self._lock(name)
        return True

    def make(self, name: str, signed: bytes = layout.FOR_PUT) -> None:
        """Make a directory in the store that only this process puts to; no error if it is there.

        A file in it begins as `signed` says, and tells which process made it. The sticky bit, which
        changes nothing in a directory of one user's, says that it is ours even if a cleaner took
        that file.
        """
        directory = self._directory
        path = f"{directory.path}/{name}"
        signature = f"{path}/{layout.SIGNATURE}"
        text = signed + Process.this().to_json().encode()
        try:
            try:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(path, stat.S_ISVTX | 0o700)
            except OSError as error:
                directory.check()
                raise store_error(error, "make the directory", path) from error
            # The store may have been cleared just before the mkdir, and its owner not look again.
            directory.check()
            try:
                with contextlib.suppress(FileExistsError):
                    files.create(signature, [text], len(text))
            except OSError as error:
                raise directory.error(error, "sign the directory", path) from error
        except BaseException:
            # Each further try would make another, on a full disk with the last inode just freed.
            with contextlib.suppress(OSError):
                files.unlink(signature)
            with contextlib.suppress(OSError):
                os.rmdir(path)
            raise

    def give_up(self) -> None:
        """Give up what belongs to the parent of a forked child."""
        self._writers.clear()
        self._locks.clear()

    def _take(self, purpose: str) -> _Writer:
        """Return the directory that this process used last, or make one."""
        kept = (self._directory.path, self._directory.store_id, purpose)
        writer = _kept.pop(kept, None)
        if writer is None or not self._touch(writer):
            writer = _Writer(os.urandom(8).hex())
            self.make(writer.name, _SIGNED[purpose])
        if purpose == "new_key":
            self._lock(writer.name)
        _kept[kept] = self._writers[purpose] = writer
        while len(_kept) > _MOST_KEPT:
            _kept.popitem(last=False)
        return writer

    def _lock(self, name: str) -> None:
        """Lock the signature of a directory that this process made, to show that it lives.

        Not where locks cannot be trusted.
        """
        if self._directory.policy.network:
            return
        signature = f"{self._directory.path}/{name}/{layout.SIGNATURE}"
        try:
            lock = Lock(signature, os.O_RDWR)
            lock.take()
        except OSError as error:
            raise self._directory.error(error, "lock", signature) from error
        self._locks.append(lock)

    def _touch(self, writer: _Writer) -> bool:
        """Return whether a directory is still there, and make it look new."""
        try:
            os.utime(f"{self._directory.path}/{writer.name}/{layout.SIGNATURE}")
        except OSError:
            return False
        return True


def tidy(folder: str) -> None:
    """Remove a directory in which nothing is left: a kept store would gain one from each process.

    If its process lives after all, its next put makes another. Not one of `new_key`: others may set
    its keys later.
    """
    signature = f"{folder}/{layout.SIGNATURE}"
    with contextlib.suppress(OSError):
        names, text = os.listdir(folder), b""  # none: an interrupt or a kill ended this before
        if names:
            if names != [layout.SIGNATURE]:
                return
            text = bytes(files.read(signature))
            if not text.startswith(layout.FOR_PUT) and text:  # earlier versions wrote none
                return
        files.unlink(signature)
        try:
            os.rmdir(folder)
        except OSError:  # something was put just now
            files.create(signature, [text], len(text))


def _at_exit() -> None:
    for (path, _, _), writer in _kept.items():
        tidy(f"{path}/{writer.name}")


atexit.register(_at_exit)

# A forked child makes its own.
os.register_at_fork(after_in_child=_kept.clear)

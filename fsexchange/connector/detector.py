"""Failure detector: it finds out, for those who wait, whether a store's owner and others live."""

from __future__ import annotations

import contextlib
import errno
import os
import time
import warnings
from collections.abc import Callable

from fsexchange.connector import layout
from fsexchange.connector.directory import Directory
from fsexchange.connector.gate import gate
from fsexchange.connector.life import HEARTBEAT, SILENT_AFTER, is_gone, silence
from fsexchange.connector.owner import Owner, read_record
from fsexchange.errors import StoreClosedError
from fsexchange.filesystem import files
from fsexchange.filesystem.locks import Lock
from fsexchange.filesystem.process import Process

# Seconds between two looks at the owner.
_CHECK_EVERY = 1.0


class FailureDetector:
    """Watches the owner of a store for all who wait without a time-out in one process.

    Threads may share it.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._gone = False
        self._warned = False

    def of_wait(self, look: Callable[[], bool]) -> Callable[[], None]:
        """Return what to call at any time during one wait; once a second it does something.

        It raises `StoreClosedError` when the owner is proven gone, and `look`, then, does not find
        what is waited for. Between hosts nothing is proven: there it warns, once, of an owner that
        has been silent for long.
        """
        # A wait of less than a second costs nothing, unless there is nobody to wait for.
        due = time.monotonic() + (0.0 if self._gone else _CHECK_EVERY)

        def check() -> None:
            nonlocal due
            if time.monotonic() >= due:
                self._check(look)
                network = self._directory.policy.network
                due = time.monotonic() + (HEARTBEAT if network else _CHECK_EVERY)

        return check

    def describe(self, filename: str) -> str:
        """Return what is known of the processes that could set an object, for a time-out."""
        path, found = self._directory.path, []
        with contextlib.suppress(OSError, ValueError):  # a plain name, which nobody made
            signature = f"{path}/{os.path.dirname(filename)}/{layout.SIGNATURE}"
            maker = Process.from_json(bytes(files.read(signature)).decode())
            found.append(f"{maker}, which made the key, {self._state_of_maker(signature)}")
        with contextlib.suppress(OSError):
            owner = read_record(path)
            if owner is not None and owner.clear:
                found.append(f"the store's owner, {owner.process}, {self._state_of(owner)}")
        return "; ".join(found) or "its owner is not known"

    def _state_of_maker(self, signature: str) -> str:
        if self._directory.policy.network:
            return "cannot be seen from here"
        lock = Lock(signature, os.O_RDWR)
        try:
            return "is gone, or uses the store no more" if lock.take() else "is alive"
        finally:
            lock.close()

    def _state_of(self, owner: Owner) -> str:
        path = self._directory.path
        if not owner.locked:
            seconds = silence(path)
            if seconds > SILENT_AFTER:
                return f"has been silent for {seconds:.0f} s"
            return "seems to be alive"
        with gate(path, seconds=0) as same:
            return "is gone" if same and is_gone(path, owner) else "seems to be alive"

    def _check(self, look: Callable[[], bool]) -> None:
        directory, self._gone = self._directory, False
        if directory.owned:
            return
        owner: Owner | None = None
        with contextlib.suppress(OSError):  # the store ends just now, or is out of reach
            owner = read_record(directory.path)
            if owner is None or owner.store_id != directory.store_id or not owner.clear:
                return  # kept by everyone: its owner is not needed
            if not owner.locked:
                self._warn(owner)
                return
            with gate(directory.path, seconds=0) as same:
                self._gone = same and is_gone(directory.path, owner)
        if self._gone and owner is not None and not look():
            raise StoreClosedError(
                f"the owner of the store at {directory.path}, {owner.process}, is gone and has not "
                "closed it, so nobody may come to set what this waits for. Pass a timeout to wait "
                "for processes that are still attached; open the directory to own the store",
                path=directory.path,
                errno=errno.EOWNERDEAD,
            )

    def _warn(self, owner: Owner) -> None:
        if self._warned:
            return
        seconds = silence(self._directory.path)
        if seconds > SILENT_AFTER:
            self._warned = True
            warnings.warn(
                f"the owner of the store at {self._directory.path}, {owner.process}, has been "
                f"silent for {seconds:.0f} s: if it is gone, nobody may come to set what this "
                "waits for",
                stacklevel=2,
            )

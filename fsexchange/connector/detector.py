"""Failure detector: it finds out, while somebody waits, that the owner of a store was killed."""

from __future__ import annotations

import contextlib
import errno
import time
import warnings
from collections.abc import Callable

from fsexchange.connector.directory import Directory
from fsexchange.connector.gate import gate
from fsexchange.connector.owner import (
    HEARTBEAT,
    SILENT_AFTER,
    Owner,
    is_gone,
    read_record,
    silence,
)
from fsexchange.errors import StoreClosedError

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

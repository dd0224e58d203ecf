"""Labels: short texts in a store, each under a name that its user chooses; replaced atomically."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from typing import TypeAlias

from fsexchange.connector.ownfiles import OwnFiles
from fsexchange.errors import StoreError

#: `FileConnector.guard`.
Guard: TypeAlias = Callable[[float | None, Callable[[], bool]], Callable[[], None]]


class Labels:
    """Labels in one directory of a store, a file each; `FileConnector.labels`.

    A label's name is a file name without a leading dot: its user ensures that. All methods raise
    `StoreError` where the file system refuses, `StoreClosedError` if the store is gone.
    """

    def __init__(
        self, own_files: OwnFiles, folder: str, check: Callable[[], None], guard: Guard
    ) -> None:
        self._own_files = own_files
        self._folder = folder
        # Another store in the same place would have the same directory of labels.
        self._check = check
        self._guard = guard

    def get(self, name: str) -> bytes | None:
        """Return the text of a label, or None if there is none."""
        self._check()
        text = self._own_files.read(self.path(name))
        return None if text is None else bytes(text)

    def set(self, name: str, text: bytes) -> None:
        """Make a label, or replace its text: readers see the earlier text or the new one."""
        self._check()
        try:
            self._own_files.publish(self.path(name), [text], len(text), once=False)
        except StoreError as error:
            if error.errno != errno.ENOENT:
                raise
            # A cleaner of old files removed the directory, which had been empty for long.
            with contextlib.suppress(OSError):
                os.mkdir(self._folder, 0o700)
            self._own_files.publish(self.path(name), [text], len(text), once=False)

    def remove(self, name: str) -> bool:
        """Remove a label; False if there is none."""
        self._check()
        return self._own_files.remove(self.path(name))

    def names(self) -> list[str]:
        """Return the names of all labels."""
        self._check()
        # Hidden files are labels that are not yet in place.
        return [name for name in self._own_files.names(self._folder) if not name.startswith(".")]

    def wait(self, name: str, timeout: float | None) -> bool:
        """Return True once there is a label, False after `timeout` seconds; None: wait for ever.

        Raises `StoreClosedError` as `FileConnector.wait` does.
        """
        path = self.path(name)

        def look() -> bool:
            return self._own_files.is_there(path, sure=False)

        self._check()
        check = self._guard(timeout, look)
        return self._own_files.wait(look, self._folder, timeout, check)

    def path(self, name: str) -> str:
        """Return the path of a label's file, for messages."""
        return f"{self._folder}/{name}"

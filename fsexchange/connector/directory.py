"""One process's hold on the directory of a store: whether the store is there, and how it ends.

The witness is a file whose name has the store's id in it. So no client can remember it from an
earlier store in the same place, or remember that it was missing. It is the first file to be removed
when the store is cleared: a process that misses an object afterwards learns why.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import sys
from collections.abc import Callable

from fsexchange.connector import layout, sweep
from fsexchange.connector.owner import Heartbeat, Owner, read_record, write_record
from fsexchange.errors import FsExchangeError, StoreClosedError, StoreError
from fsexchange.filesystem import files
from fsexchange.filesystem.advice import store_error
from fsexchange.filesystem.kinds import Policy, find_filesystem
from fsexchange.filesystem.process import Process

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


class Directory:
    """One process's hold on a store's directory, as its owner or attached to it.

    Made by `open_directory` and `attach_directory`. Threads may share it; a forked child is
    attached, never an owner.
    """

    def __init__(self, path: str, owner: Owner | None, store_id: str, *, markers: bool) -> None:
        self.path = path
        self.store_id = store_id
        self.markers = markers
        self._witness = layout.witness(path, store_id)
        self._policy: Policy | None = None
        self._owner = owner
        self._heartbeat: Heartbeat | None = None
        self._exit_handler: Callable[[], object] | None = None
        if owner is not None and owner.clear:
            if owner.heartbeat:
                self._heartbeat = Heartbeat(layout.record(path))
            self._exit_handler = _call_at_exit(self._at_exit)

    @property
    def owned(self) -> bool:
        """Whether the calling process owns the store; a forked child does not."""
        return self._owner is not None and self._owner.process.pid == os.getpid()

    @property
    def policy(self) -> Policy:
        """What the store's file system can be trusted with; found out when first asked for."""
        # Not a cached_property: before Python 3.12 a child that is forked while another thread
        # holds its lock would wait for it for ever. Threads that race find the same.
        if self._policy is None:
            try:
                self._policy = find_filesystem(self.path).policy
            except OSError as error:
                raise self.error(error, "find the file system of", self.path) from error
        return self._policy

    def check(self) -> None:
        """Raise `StoreClosedError` unless the store is still there."""
        try:
            # Opened, not stat'ed: an open asks the server on NFS, a stat asks the cache (nfs(5)).
            os.close(os.open(self._witness, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            if error.errno in _GONE:
                raise closed_error(self.path, self.store_id) from None
            raise store_error(error, "look into the store at", self._witness) from error

    def error(self, error: OSError, doing: str, path: str) -> FsExchangeError:
        """Return the `StoreError` for an error at `path`; if the store is gone, that it is."""
        if isinstance(error, StoreError):
            return error
        if error.errno in _GONE:
            try:
                self.check()
            except FsExchangeError as closed:
                return closed
        return store_error(error, doing, path)

    def make_writer(self, *, signed: bool) -> str:
        """Make a directory in the store that only this process writes to, and return its name.

        If `signed`, a file in it says which process made it.
        """
        name = os.urandom(8).hex()
        path = f"{self.path}/{name}"
        try:
            os.mkdir(path, 0o700)
        except OSError as error:
            self.check()
            raise store_error(error, "make the directory", path) from error
        try:
            self.check()
        except BaseException:
            # The store was cleared just before the mkdir, and its owner may not look again.
            with contextlib.suppress(OSError):
                os.rmdir(path)
            raise
        text = Process.this().to_json().encode() if signed else b""
        try:
            files.create(f"{path}/{layout.SIGNATURE}", [text] if text else [], len(text))
        except OSError as error:
            raise self.error(error, "sign the directory", path) from error
        return name

    def describe(self, filename: str) -> str:
        """Return what is known of the processes that could set an object, for a time-out."""
        found = []
        try:
            signature = f"{self.path}/{os.path.dirname(filename)}/{layout.SIGNATURE}"
            maker = Process.from_json(bytes(files.read(signature)).decode())
            state = {True: "is gone", False: "is alive", None: "cannot be seen from here"}
            found.append(f"{maker}, which made the key, {state[maker.is_gone()]}")
        except (OSError, ValueError):
            pass  # a plain name, which nobody made
        try:
            owner = read_record(self.path)
            if owner.clear:
                dead = owner.is_dead(layout.record(self.path))
                fate = "is gone" if dead else "seems to be alive"
                found.append(f"the store's owner, {owner.process}, {fate}")
        except (OSError, StoreError):
            found.append("the store's owner is not known")
        return "; ".join(found)

    def keep(self) -> None:
        """End this process's ownership and leave the store to everyone, for good."""
        owner = self._owner
        if owner is not None and owner.clear and self._current(owner) is not None:
            try:
                write_record(self.path, owner._replace(clear=False), replace=True)
            except OSError as error:
                raise store_error(error, "keep the store at", layout.record(self.path)) from error
        self._give_up()

    def clear(self) -> None:
        """Remove every object, and the directory if nothing of others is in it.

        A process that has an object mapped keeps it. Files that fsexchange did not make stay, with
        a warning. If the store is gone, or has another owner by now, nothing is done. After an
        error this can be called again.
        """
        now = self._current(self._owner)
        if now is not None:
            try:
                if not now.clear:
                    # This ends a kept store. If we are killed on the way, the next process that
                    # opens it must know that it was ending, and that nobody clears it any more.
                    ending = now._replace(process=Process.this(), clear=True)
                    write_record(self.path, ending, replace=True)
                files.unlink(self._witness)  # first: then a missing object is a closed store
                sweep.remove_store(self.path)
            except OSError as error:
                if isinstance(error, StoreError):
                    raise
                raise store_error(error, "clear the store at", self._witness) from error
        self._give_up()

    def _current(self, owner: Owner | None) -> Owner | None:
        """Return the store's record if it is still this store's, and `owner`'s; else None.

        Another process may have cleared it and made another store in its place, or have adopted it,
        because this owner gave no sign of life for minutes.
        """
        try:
            now = read_record(self.path)
        except OSError as error:
            if error.errno in _GONE:
                return None
            if isinstance(error, StoreError):
                raise
            raise store_error(error, "look at", layout.record(self.path)) from error
        return now if now.store_id == self.store_id and owner in (None, now) else None

    def _give_up(self) -> None:
        """End this process's ownership, if any."""
        self._owner = None
        if self._exit_handler is not None:
            self._exit_handler()
            self._exit_handler = None
        if self._heartbeat is not None:
            self._heartbeat.stop()
            self._heartbeat = None

    def _at_exit(self) -> None:
        if self.owned:
            self.clear()


def closed_error(path: str, store_id: str) -> StoreClosedError:
    """Return the error to raise for a store that is gone."""
    return StoreClosedError(
        f"the store {store_id} at {path} is gone: its owner has closed it. Keep the owner open "
        "until the last reader is done, or make the store with clear=False",
        path=path,
        errno=errno.ENOENT,
    )


def _call_at_exit(function: Callable[[], None]) -> Callable[[], object]:
    """Have `function` called when this process exits by itself; return a function to undo that."""
    if "multiprocessing.util" in sys.modules:
        # The children of multiprocessing run these, and before Python 3.13 no atexit handlers
        # when forked. A parent runs those of negative priority once its children are joined,
        # which may read from the store until then.
        from multiprocessing.util import Finalize

        return Finalize(None, function, exitpriority=-100).cancel
    atexit.register(function)
    return lambda: atexit.unregister(function)

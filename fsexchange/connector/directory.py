"""One process's hold on the directory of a store: whether the store is there, and how it ends.

The witness is a file whose name has the store's id in it. So no client can remember it from an
earlier store in the same place, or remember that it was missing. It is the first file to be removed
when the store is cleared: a process that misses an object afterwards learns why.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import logging
import os
import sys
import time
from collections.abc import Callable

from fsexchange.connector import layout, sweep
from fsexchange.connector.gate import gate
from fsexchange.connector.life import Life
from fsexchange.connector.owner import Owner, read_record, touch
from fsexchange.connector.owner import keep as keep_store
from fsexchange.errors import FsExchangeError, StoreClosedError, StoreError
from fsexchange.filesystem import files
from fsexchange.filesystem.advice import store_error, store_errors
from fsexchange.filesystem.kinds import Policy, find_filesystem
from fsexchange.filesystem.locks import free
from fsexchange.filesystem.process import UNKNOWN

_log = logging.getLogger("fsexchange")

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)

# Seconds after which a process that uses a store tells cleaners of old files that it is in use.
_TOUCH_EVERY = 3600.0

# Seconds for which a client may remember a file that is gone: 1 on GlusterFS, by default.
_REMEMBERED = 1.5

# The stores that end with this process.
_owned: set[Directory] = set()

# How many forks lead from the first process that imported this to the calling one.
_forks = 0


def _in_forked_child() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_in_forked_child)


class Directory:
    """One process's hold on a store's directory, as its owner or attached to it.

    Made by `open_directory` and `attach_directory`. Threads may share it; a forked child is
    attached, never an owner. `uid` is the user whose files alone are read, see `trusted_uid`.
    """

    def __init__(
        self,
        path: str,
        store_id: str,
        *,
        markers: bool,
        uid: int = -1,
        owner: Owner | None = None,
        life: Life | None = None,
    ) -> None:
        self.path = path
        self.store_id = store_id
        self.markers = markers
        self.uid = uid
        self._witness = layout.witness(path, store_id)
        self._policy: Policy | None = None
        self._ending = False  # whether this process has begun to clear the store
        self._owner = owner
        self._forks = _forks
        self._life = life
        self.touch_due = time.monotonic() + _TOUCH_EVERY
        self._exit_handler: Callable[[], object] | None = None
        if owner is not None and owner.clear:
            self._exit_handler = _call_at_exit(self)
            _owned.add(self)

    @property
    def owned(self) -> bool:
        """Whether the calling process owns the store; a forked child does not."""
        owner = self._owner
        # A child in a new pid namespace may have the pid of its parent.
        return owner is not None and self._forks == _forks and owner.process.pid == os.getpid()

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

    def use(self) -> bool:
        """Show, now and then, that the store is in use, and return whether it was time for that.

        To be called by each verb.
        """
        now = time.monotonic()
        if now <= self.touch_due:
            return False
        self.touch_due = now + _TOUCH_EVERY
        touch(self.path, self.store_id)
        if self._life is not None and self.owned:
            self._life.renew()
        return True

    def check(self) -> None:
        """Raise `StoreClosedError` unless the store is still there."""
        try:
            # Opened, not stat'ed: an open asks the server on NFS, a stat asks the cache (nfs(5)).
            # GlusterFS opens a file only when something is done with it, as `open_regular` does.
            (fd,) = map(files.open_regular, (self._witness,))
            os.close(fd)
        except OSError as error:
            if error.errno in _GONE:
                if self._is_only_out_of_sight():
                    return
                if self._is_lost():
                    raise StoreClosedError(
                        f"the store {self.store_id} at {self.path} has lost the files that say "
                        f"whose it is, {layout.record(self.path)} and {self._witness}, perhaps to "
                        "a cleaner of old files; the objects are there: open it again by its path",
                        path=self.path,
                        errno=errno.ENOENT,
                    ) from None
                raise closed_error(self.path, self.store_id) from None
            raise store_error(error, "look into the store at", self._witness) from error

    def _is_only_out_of_sight(self) -> bool:
        """Return whether the store is there without its witness; then make that again.

        Cleaners of old files remove it. A store that is cleared has none either, but has the one
        that says so until its record is gone. Other hosts may see these two out of order.
        """
        try:
            if find_filesystem(self.path).policy.network:
                return False
            ending = files.is_there(layout.ending(self.path, self.store_id))  # before the record
            record = read_record(self.path)
            if ending or record is None or record.store_id != self.store_id:
                return False
            files.make_empty(self._witness)
        except OSError:
            return False
        return True

    def _is_lost(self) -> bool:
        """Return whether the store was not cleared, and has neither its record nor its witness.

        Whoever clears a store removes the directory of names before the one and the other. Other
        hosts may see these out of order.
        """
        try:
            return (
                not find_filesystem(self.path).policy.network
                and not files.is_there(layout.record(self.path))
                and not any(map(layout.WITNESS.fullmatch, files.listing(self.path)))
                and not files.is_there(layout.ending(self.path, self.store_id))
                and files.is_there(f"{self.path}/{layout.NAMES}")
            )
        except OSError:
            return False

    def error(self, error: OSError, doing: str, path: str) -> FsExchangeError:
        """Return the `StoreError` for an error at `path`; if the store is gone, that it is."""
        if isinstance(error, StoreError):
            return error
        if error.errno in _GONE:
            try:
                self.check()
                if error.errno == errno.ESTALE:
                    time.sleep(_REMEMBERED)
                    self.check()
            except FsExchangeError as closed:
                return closed
        return store_error(error, doing, path)

    def keep(self) -> bool:
        """Leave the store to everyone, for good, whoever owns it, and end this ownership.

        False if the store is gone.
        """
        there = False
        try:
            with contextlib.suppress(FileNotFoundError), gate(self.path) as same:
                there = same and keep_store(self.path, self.store_id)
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise self.error(error, "keep the store at", layout.record(self.path)) from error
        self._give_up()
        return there

    def clear(self, *, kept: bool = False) -> None:
        """Remove every object, and the directory if fsexchange made it and nothing else is in it.

        A process that has an object mapped keeps it. Files that fsexchange did not make stay, with
        a warning. If the store is gone, or has another owner by now, nothing is done; nor if it is
        to be kept, unless one that is `kept` is meant. After an error this can be called again.
        """
        translated = store_errors("clear the store at", self._witness)
        with translated, contextlib.suppress(FileNotFoundError), gate(self.path) as same:
            record = read_record(self.path) if same else None
            if record is not None:
                meant = self._is_mine(record) and (record.clear or kept)
            else:
                # The process that cleared it was killed with the last to do. Or a cleaner of old
                # files took the record, and the witness: this one still knows the store.
                ending = layout.ending(self.path, self.store_id)
                meant = same and (files.is_there(ending) or self._is_lost())
            if meant:
                self.remove()
        self._give_up()

    def remove(self) -> bool:
        """Remove the store, whoever owns it. The caller holds its gate.

        False if another process is at it, where there is no gate.
        """
        # First the witness goes: then a missing object is a closed store.
        ending = layout.ending(self.path, self.store_id)
        try:
            try:
                os.rename(self._witness, ending)
            except FileNotFoundError:
                raise
            except OSError:  # no rename here
                files.make_empty(ending)
                os.unlink(self._witness)
            self._ending = True
        except FileNotFoundError:
            if self.policy.network and not self._ending:
                return False  # the process that got the witness clears
            files.make_empty(ending)  # a cleaner of old files has removed the witness
        sweep.remove_store(self.path, self.store_id)
        _log.info("cleared the store %s at %s", self.store_id, self.path)
        return True

    def _is_mine(self, record: Owner) -> bool:
        """Return whether the record is still this store's, and its owner's if that is this hold.

        Another process may have cleared it and made another store in its place, or have adopted it.
        """
        return record.store_id == self.store_id and (
            self._owner is None or record.process in (self._owner.process, UNKNOWN)
        )

    def _give_up(self) -> None:
        """End this process's ownership, if any."""
        self._owner = None
        _owned.discard(self)
        if self._exit_handler is not None:
            self._exit_handler()
            self._exit_handler = None
        if self._life is not None:
            self._life.end()
            self._life = None

    def _at_exit(self) -> None:
        if self.owned:
            free(self.path)
            self.clear()


def clear_owned() -> None:
    """Clear the stores that end with this process, which is about to end without exit handlers."""
    with contextlib.ExitStack() as all_of_them:  # also after an error
        for hold in _owned:
            all_of_them.callback(hold._at_exit)


def closed_error(path: str, store_id: str) -> StoreClosedError:
    """Return the error to raise for a store that is gone."""
    return StoreClosedError(
        f"the store {store_id} at {path} is gone: its owner has closed it, or something other than "
        "fsexchange removed it. Keep the owner open until the last reader is done, or make the "
        "store with clear=False",
        path=path,
        errno=errno.ENOENT,
    )


def _call_at_exit(hold: Directory) -> Callable[[], object]:
    """Have the store of `hold` cleared when this process exits by itself; return what undoes it."""
    util = sys.modules.get("multiprocessing.util")
    if util is None:
        atexit.register(hold._at_exit)
        return lambda: atexit.unregister(hold._at_exit)
    # The children of multiprocessing run finalizers, and before Python 3.13 no atexit handlers when
    # forked. A parent runs those of negative priority once its children are joined, which may read
    # from the store until then.
    finalizers = []

    def add(hold: Directory) -> None:
        if hold.owned:
            finalizers.append(util.Finalize(None, hold._at_exit, exitpriority=-100))

    add(hold)
    # A child of a forkserver imports the main module, and then forgets all finalizers.
    util.register_after_fork(hold, add)
    return lambda: [finalizer.cancel() for finalizer in finalizers]

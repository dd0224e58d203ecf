"""The directory of one store: who owns it, whether it is still there, and how it ends.

The witness has a name of its own, so that no client can remember it from an earlier store in the
same place, nor its absence from a time before. It goes first when the store is cleared: whoever
misses an object afterwards learns why.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator

from fsexchange.connector import layout, sweep
from fsexchange.connector.owner import Heartbeat, Owner
from fsexchange.errors import (
    FsExchangeError,
    StoreClosedError,
    StoreError,
    UntrustedDirectoryError,
)
from fsexchange.filesystem import files, publish
from fsexchange.filesystem.kinds import explain, find_filesystem
from fsexchange.filesystem.process import Process

# Seconds for what another process does in milliseconds: writing its record, adopting, clearing.
_PATIENCE = 10.0


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

    def check(self) -> None:
        """Raise `StoreClosedError` unless the store is still there."""
        try:
            # Opened, not stat'ed: an open asks the server on NFS, a stat asks the cache (nfs(5)).
            os.close(os.open(self._witness, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
                raise _closed(self.path, self.store_id) from None
            raise explain(error, "look into the store at", self._witness) from error

    def explain(self, error: OSError, doing: str, path: str) -> FsExchangeError:
        """Return what to raise for an error at `path`: a lost store explains what is missing."""
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
            try:
                self.check()
            except FsExchangeError as closed:
                return closed
        return explain(error, doing, path)

    def make_writer(self, *, signed: bool) -> str:
        """Return the name of a new directory inside, which is the caller's alone to write to.

        A signed one says which process made it.
        """
        name = os.urandom(8).hex()
        path = f"{self.path}/{name}"
        try:
            os.mkdir(path, 0o700)
        except OSError as error:
            self.check()
            raise explain(error, "make the directory", path) from error
        try:
            self.check()
        except BaseException:
            # The store was cleared just before the mkdir: its owner may not come by again.
            with contextlib.suppress(OSError):
                os.rmdir(path)
            raise
        text = Process.this().to_json().encode() if signed else b""
        try:
            files.create(f"{path}/{layout.SIGNATURE}", [text] if text else [], len(text))
        except OSError as error:
            raise self.explain(error, "sign the directory", path) from error
        return name

    def describe(self, filename: str) -> str:
        """Return what is known of who could set an object, for the message of a time-out."""
        found = []
        try:
            signature = f"{self.path}/{os.path.dirname(filename)}/{layout.SIGNATURE}"
            maker = Process.from_json(bytes(files.read(signature)).decode())
            state = {True: "is gone", False: "is alive", None: "is not to be seen from here"}
            found.append(f"{maker}, which made the key, {state[maker.is_gone()]}")
        except (OSError, ValueError):
            pass  # a plain name, which nobody made
        try:
            owner = _read_record(self.path)
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
                _write_record(self.path, owner._replace(clear=False), replace=True)
            except OSError as error:
                raise explain(error, "keep the store at", layout.record(self.path)) from error
        self._give_up()

    def clear(self) -> None:
        """Remove every object and the directory, if nothing of others is in it.

        Whoever holds a mapping of an object keeps it. Files that fsexchange did not make stay,
        with a warning. Nothing is done where the store is gone, or has another owner by now. If it
        fails, it can be tried again.
        """
        now = self._current(self._owner)
        if now is not None:
            try:
                if not now.clear:
                    # A kept store, by hand: were we killed on the way, the next to come could not
                    # tell that it is to go, and that nobody is at it any more.
                    ending = now._replace(process=Process.this(), clear=True)
                    _write_record(self.path, ending, replace=True)
                files.unlink(self._witness)  # first: then a missing object is a closed store
                sweep.remove_store(self.path)
            except OSError as error:
                if isinstance(error, StoreError):
                    raise
                raise explain(error, "clear the store at", self._witness) from error
        self._give_up()

    def _current(self, owner: Owner | None) -> Owner | None:
        """Return the store's record if it is still this store's, and `owner`'s; else None.

        Somebody may have cleared it and made another store in its place, or held this owner for
        dead after minutes without a sign of life, and adopted it.
        """
        try:
            now = _read_record(self.path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
                return None
            if isinstance(error, StoreError):
                raise
            raise explain(error, "look at", layout.record(self.path)) from error
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


def _call_at_exit(function: Callable[[], None]) -> Callable[[], object]:
    """Have `function` called when this process exits by itself; return what takes that back."""
    if "multiprocessing.util" in sys.modules:
        # The children of multiprocessing run these, and before Python 3.13 no atexit handlers
        # when forked. A parent runs those of negative priority once its children are joined,
        # which may read from the store until then.
        from multiprocessing.util import Finalize

        return Finalize(None, function, exitpriority=-100).cancel
    atexit.register(function)
    return lambda: atexit.unregister(function)


def open_directory(path: str, *, clear: bool, markers: bool, trust: bool) -> Directory:
    """Own the store at `path` if there is none or its owner is proven dead; else attach to it."""
    try:
        for _ in _patiently(f"whoever opens or clears the store at {path} does not finish"):
            try:
                _make(path)
                check_trust(path, trust=trust)  # each time: another user may have remade it
                hold = _own(path, clear=clear, markers=markers) or _join(path, clear, markers)
            except FileNotFoundError:
                continue  # an owner that was just clearing it has removed it
            if hold is not None:
                return hold
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise explain(error, "open a store in", layout.record(path)) from error
    raise AssertionError("not reached: patience ends with an error")


def attach_directory(path: str, store_id: str, *, markers: bool, trust: bool) -> Directory:
    """Attach to this very store; `StoreClosedError` if it is gone, whatever is there now."""
    try:
        check_trust(path, trust=trust)
    except FileNotFoundError:
        raise _closed(path, store_id) from None
    hold = Directory(path, None, store_id, markers=markers)
    hold.check()
    return hold


def default_directory() -> str:
    """Return a new path in memory, or where that has less than 1 GiB free, for temporary files."""
    base = "/dev/shm"
    try:
        status = os.statvfs(base)
        roomy = status.f_bavail * status.f_frsize >= 1 << 30 and os.access(base, os.W_OK)
    except OSError:
        roomy = False
    if not roomy:
        import tempfile  # 3 ms, and rarely needed

        base = tempfile.gettempdir()
    return f"{base}/fsexchange-{os.urandom(8).hex()}"


def check_trust(path: str, *, trust: bool) -> None:
    """Raise unless `path` is a directory that only the calling user can change.

    `FileNotFoundError` if there is nothing at all.
    """
    try:
        status = os.stat(path, follow_symlinks=trust)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise explain(error, "look at", path) from error
    if stat.S_ISLNK(status.st_mode):
        problem = "is a symbolic link"
    elif not stat.S_ISDIR(status.st_mode):
        raise StoreError(
            f"{path} is not a directory; choose another store_dir", path=path, errno=errno.ENOTDIR
        )
    elif status.st_uid != os.geteuid():
        problem = f"belongs to user {status.st_uid}, and you are {os.geteuid()}"
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        problem = f"is writable by others (mode {stat.S_IMODE(status.st_mode):04o})"
    else:
        return
    if not trust:
        raise UntrustedDirectoryError(
            f"{path} {problem}: whoever can put files there can run code in your processes, as "
            "objects are unpickled; choose another store_dir, `chmod 700` it, or pass "
            "trust_directory=True",
            path=path,
            errno=errno.EACCES,
        )


# ---- opening ------------------------------------------------------------------------------------


def _own(path: str, *, clear: bool, markers: bool) -> Directory | None:
    """Make a store at `path`; None if there is one."""
    if os.path.lexists(layout.record(path)):
        return None
    owner = Owner(
        os.urandom(8).hex(),
        Process.this(),
        clear=clear,
        markers=markers,
        heartbeat=find_filesystem(path).policy.network,
    )
    try:
        _write_record(path, owner)
    except FileExistsError:
        return None  # another process was faster: it owns
    # The rest only under our record, as the owner before us sweeps under its own.
    try:
        # Before anybody can look for it: an early look may hide it from a host, and there is no
        # listing that would show it without one.
        with contextlib.suppress(FileExistsError):
            os.mkdir(f"{path}/{layout.NAMES}", 0o700)
        # Last: others attach only to a store that has its witness.
        files.create(layout.witness(path, owner.store_id), [], 0)
    except BaseException:
        files.unlink(layout.record(path))
        raise
    return Directory(path, owner, owner.store_id, markers=markers)


def _join(path: str, clear: bool, markers: bool) -> Directory | None:
    """Attach to the store at `path`, or adopt it from a dead owner; None if it went meanwhile."""
    owner = _read_record(path)
    if markers and not owner.markers:
        raise StoreError(
            f"the store at {path} was made without markers by {owner.process}; leave out "
            "markers=True, or choose another store_dir",
            path=path,
            errno=errno.EINVAL,
        )
    if owner.clear and owner.is_dead(layout.record(path)):
        return _adopt(path, owner, clear=clear)
    if not os.path.lexists(layout.witness(path, owner.store_id)):
        return None  # its owner is just making or clearing it
    return Directory(path, None, owner.store_id, markers=owner.markers)


def _adopt(path: str, dead: Owner, *, clear: bool) -> Directory | None:
    """Become the owner of a dead owner's store, objects included; None if another was faster."""
    number = _claim(path)
    if number is None:
        return None
    adopted = False
    try:
        # Another process may have adopted it, and ended its claim, since we read the record.
        if _read_record(path) != dead:
            return None
        if not os.path.lexists(layout.witness(path, dead.store_id)):
            # Its owner was killed while clearing: what is left is no store any more.
            sweep.remove_objects(path)
            files.unlink(layout.record(path))
            adopted = True
            return None
        owner = Owner(
            dead.store_id,
            Process.this(),
            clear=clear,
            markers=dead.markers,
            heartbeat=dead.heartbeat,
        )
        _write_record(path, owner, replace=True)
        adopted = True
        return Directory(path, owner, owner.store_id, markers=owner.markers)
    finally:
        # Those of adopters that were killed go when the record has changed, which ends their use.
        for done in range(1 if adopted else number, number + 1):
            files.unlink(layout.adoption(path, done))


def _claim(path: str) -> int | None:
    """Claim the adoption of a store; return the claim's number, None if another has it.

    Who was killed with a claim is passed by the next number, which again one process gets.
    """
    text = Process.this().to_json().encode()
    number = 1
    while True:
        claim = layout.adoption(path, number)
        try:
            files.create(claim, [text], len(text))
            return number
        except FileExistsError:
            try:
                if not Process.from_json(bytes(files.read(claim)).decode()).is_gone():
                    return None
            except (FileNotFoundError, ValueError):
                return None  # just ended, or not yet written
        number += 1


def _make(path: str) -> None:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise explain(error, "make the store's directory", path) from error


def _write_record(path: str, owner: Owner, *, replace: bool = False) -> None:
    data = owner.to_json().encode()
    if not replace:
        try:
            publish.by_link(layout.record(path), [data], len(data))  # never half of it
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                raise
            files.create(layout.record(path), [data], len(data))  # no links here
        return
    temporary = layout.renewal(path, owner.store_id)
    files.unlink(temporary)
    files.create(temporary, [data], len(data))
    os.replace(temporary, layout.record(path))


def _read_record(path: str) -> Owner:
    for _ in _patiently(
        f"the owner's record {layout.record(path)} is unreadable; if no process uses the store, "
        "remove that file"
    ):
        try:
            return Owner.from_json(bytes(files.read(layout.record(path))).decode())
        except ValueError:
            pass  # its writer is between creating it and writing it
    raise AssertionError("not reached: patience ends with an error")


def _patiently(message: str) -> Iterator[None]:
    """Try again and again, at growing intervals; raise `StoreError` in the end."""
    deadline = time.monotonic() + _PATIENCE
    pause = 0.001
    while True:
        yield
        if time.monotonic() > deadline:
            raise StoreError(message, errno=errno.ETIMEDOUT)
        time.sleep(pause)
        pause = min(2 * pause, 0.1)


def _closed(path: str, store_id: str) -> StoreClosedError:
    return StoreClosedError(
        f"the store {store_id} at {path} is gone: its owner has closed it. Keep the owner open "
        "until the last reader is done, or make the store with clear=False",
        path=path,
        errno=errno.ENOENT,
    )

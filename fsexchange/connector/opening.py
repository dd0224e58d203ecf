"""Opening a store: make it, attach to it, or adopt it from an owner that is gone."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import warnings

from fsexchange.connector import layout, sweep
from fsexchange.connector.directory import Directory
from fsexchange.connector.gate import PATIENCE, gate, patiently
from fsexchange.connector.life import SILENT_AFTER, Life, silence
from fsexchange.connector.owner import Owner, keep, make_record, read_record, renew_record, touch
from fsexchange.connector.trust import check_trust, trusted_uid
from fsexchange.errors import StoreClosedError, StoreError
from fsexchange.filesystem import files
from fsexchange.filesystem.advice import store_error, store_errors
from fsexchange.filesystem.kinds import find_filesystem
from fsexchange.filesystem.process import UNKNOWN, Process

_log = logging.getLogger("fsexchange")

# Seconds for which a host may see what another host has removed: MooseFS with caches of 30 s.
_REMEMBERED = 45.0


def open_directory(path: str, *, clear: bool, markers: bool, trust: bool) -> Directory:
    """Own the store at `path` if there is none or its owner is gone; else attach to it."""
    with store_errors("open a store in", layout.record(path)):
        hold = _try_to_open(path, clear=clear, markers=markers, trust=trust)
        if hold is None:
            message = f"other processes make and clear the store at {path} all the time"
            seconds = PATIENCE
            if find_filesystem(path).policy.network:
                message += ", or this host still sees an earlier one there"
                seconds = _REMEMBERED
            message += "; choose another store_dir"
            for _ in patiently(message, seconds):
                hold = _try_to_open(path, clear=clear, markers=markers, trust=trust)
                if hold is not None:
                    break
    assert hold is not None  # patience ends with an error
    if not hold.owned:
        _log.debug("attached to the store %s at %s", hold.store_id, path)
    return hold


def _try_to_open(path: str, *, clear: bool, markers: bool, trust: bool) -> Directory | None:
    """Do so once; None if another process makes or clears the store meanwhile."""
    made = _make(path)
    # An owner that is just clearing the store may remove the directory at any moment.
    try:
        check_trust(path, trust=trust)  # each time: another user may have made it anew
        uid = trusted_uid(path, trust=trust)
        with gate(path) as same:
            return _open(path, clear=clear, markers=markers, uid=uid) if same else None
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESTALE):
            if made:
                with contextlib.suppress(OSError):
                    os.rmdir(path)
            raise
        _look_again(path)
        return None


def attach_directory(
    path: str, store_id: str, *, clear: bool, markers: bool, trust: bool
) -> Directory:
    """Attach to this very store; `StoreClosedError` if it is gone, even if another is there now."""
    try:
        try:
            check_trust(path, trust=trust)
        except FileNotFoundError:
            _look_again(path)
            check_trust(path, trust=trust)
        uid = trusted_uid(path, trust=trust)
    except FileNotFoundError:
        raise StoreClosedError(
            f"there is no {path} on {os.uname().nodename}: the store's owner has closed it, or "
            f"this host does not see that directory (store {store_id})",
            path=path,
            errno=errno.ENOENT,
        ) from None
    hold = Directory(path, store_id, markers=markers, uid=uid)
    hold.check()
    if not clear:
        with gate(path):
            keep(path, store_id)
    _log.debug("attached to the store %s at %s", store_id, path)
    return hold


def _look_again(path: str) -> None:
    """Have this host look again for a directory for which it may have looked too early.

    A listing makes most clients of network file systems forget which names were missing.
    """
    parent = os.path.dirname(path)
    if not os.path.exists(parent):
        _look_again(parent)
    with contextlib.suppress(OSError):  # one in which one may look for names, but not list them
        files.listing(parent)


def _make(path: str) -> bool:
    """Make the directory and its parents, all with mode 0700; False if it is there.

    The sticky bit changes nothing in a directory of one user's: inode(7). It says to whoever clears
    the store that the directory goes as well.
    """
    missing = [path]
    while not os.path.exists(os.path.dirname(missing[-1])):
        missing.append(os.path.dirname(missing[-1]))
    mode = stat.S_ISVTX | 0o700
    made = False
    try:
        for folder in reversed(missing):
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, mode if folder == path else 0o700)
                made = folder == path
    except OSError as error:
        raise store_error(error, "make the store's directory", path) from error
    if made:
        with contextlib.suppress(OSError):  # a process that clears may have removed it again
            if os.stat(path).st_mode & stat.S_ISVTX == 0:
                os.chmod(path, mode)  # bindfs takes the bit here only
    return made


def _open(path: str, *, clear: bool, markers: bool, uid: int) -> Directory | None:
    """Make, adopt or join the store at `path`; None if another process is just at it.

    The caller holds the gate: where that can be trusted, no other process is.
    """
    network = find_filesystem(path).policy.network
    if not network:
        finish_clearing(path)
    record = read_record(path)
    if record is None:
        return _own(path, clear=clear, markers=markers, uid=uid, network=network)
    if markers and not record.markers:
        raise StoreError(
            f"the store at {path} was made without markers by {record.process}; leave out "
            "markers=True, or choose another store_dir",
            path=path,
            errno=errno.EINVAL,
        )
    witness = layout.witness(path, record.store_id)
    if network and not files.is_there(witness):
        return None  # its owner is just making or clearing it
    if not files.is_there(witness):
        files.create(witness, [], 0)  # its maker was killed, or a cleaner of old files took it
    touch(path, record.store_id)
    hold = Directory(path, record.store_id, markers=record.markers, uid=uid)
    if not record.clear:
        return hold
    life = Life(path, record.store_id, network=False) if record.locked and not network else None
    if life is None or not life.begin():
        if not record.locked:
            _warn_of_silence(path, record)
        if not clear:
            keep(path, record.store_id)
        return hold
    heir = record._replace(process=Process.this(), clear=clear, locked=clear)
    try:
        renew_record(path, heir)
    except OSError as error:
        if error.errno == errno.EROFS:  # nobody can end it here
            life.end()
            return hold
        # Else the locks make the owner; the record is for people.
    _log.info("adopted the store %s at %s from %s", heir.store_id, path, record.process)
    return Directory(path, heir.store_id, markers=heir.markers, uid=uid, owner=heir, life=life)


def _own(path: str, *, clear: bool, markers: bool, uid: int, network: bool) -> Directory | None:
    """Make a store at `path`, in which objects may be whose record was lost."""
    lost = lost_id(path)
    store_id = lost or os.urandom(8).hex()
    me = Owner(store_id, Process.this(), clear, markers, locked=clear and not network)
    if not network:
        files.unlink(layout.record(path))  # half of one, of a killed process
    try:
        make_record(path, me)
    except FileExistsError:
        return None  # another process was faster: it owns
    life = None
    # Do the rest only under our record: an owner before us sweeps under its own.
    try:
        # Before anybody can look for it: an early look may hide it from a host, and to list what is
        # in it is a look, too.
        with contextlib.suppress(FileExistsError):
            os.mkdir(f"{path}/{layout.NAMES}", 0o700)
        # Last: where there is no gate, others attach only to a store that has its witness.
        files.make_empty(layout.witness(path, store_id))
        if clear:
            life = Life(path, store_id, network=network)
            if not life.begin():
                # A cleaner of old files took the record of an owner that lives.
                renew_record(path, me._replace(process=UNKNOWN))
                return Directory(path, store_id, markers=markers, uid=uid)
    except BaseException:
        if life is not None:
            life.end()
        if lost is None:  # else a default store stays for good: nobody else knows its name
            with contextlib.suppress(OSError):
                files.unlink(layout.witness(path, store_id))
                os.rmdir(f"{path}/{layout.NAMES}")
        files.unlink(layout.record(path))
        raise
    _log.info("made the store %s at %s", store_id, path)
    return Directory(path, store_id, markers=markers, uid=uid, owner=me, life=life)


def finish_clearing(path: str) -> None:
    """Remove what a process that was killed while it cleared a store has left of it."""
    for name in files.listing(path):
        if layout.ENDING.fullmatch(name):
            sweep.remove_objects(path)
            files.unlink(layout.record(path))
            files.unlink(f"{path}/{name}")
            _log.info("cleared what a killed process had left to clear at %s", path)


def lost_id(path: str) -> str | None:
    """Return the id of a store whose record is lost: cleaners of old files may remove it."""
    found = [match[1] for match in map(layout.WITNESS.fullmatch, files.listing(path)) if match]
    return found[0] if len(found) == 1 else None


def _warn_of_silence(path: str, record: Owner) -> None:
    seconds = 0.0
    with contextlib.suppress(OSError):  # a read-only mount: nobody can tell
        seconds = silence(path)
    if seconds > SILENT_AFTER:
        warnings.warn(
            f"the owner of the store at {path}, {record.process}, has been silent for {seconds:.0f}"
            " s; if it is gone, remove the store by FileConnector(path).close(clear=True)",
            stacklevel=5,
        )

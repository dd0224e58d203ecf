"""Opening a store: make it, attach to it, or adopt it from a dead owner."""

from __future__ import annotations

import contextlib
import errno
import os

from fsexchange.connector import layout, sweep
from fsexchange.connector.directory import Directory, closed_error
from fsexchange.connector.owner import Owner, patiently, read_record, write_record
from fsexchange.connector.place import check_trust
from fsexchange.errors import StoreError
from fsexchange.filesystem import files
from fsexchange.filesystem.advice import store_error
from fsexchange.filesystem.kinds import find_filesystem
from fsexchange.filesystem.process import Process


def open_directory(path: str, *, clear: bool, markers: bool, trust: bool) -> Directory:
    """Own the store at `path` if there is none or its owner is proven dead; else attach to it."""
    try:
        for _ in patiently(f"the process that opens or clears the store at {path} does not finish"):
            try:
                _make(path)
                check_trust(path, trust=trust)  # each time: another user may have made it anew
                hold = _own(path, clear=clear, markers=markers) or _join(path, clear, markers)
            except FileNotFoundError:
                continue  # an owner that was clearing it has just removed it
            if hold is not None:
                return hold
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise store_error(error, "open a store in", layout.record(path)) from error
    raise AssertionError("not reached: patience ends with an error")


def attach_directory(path: str, store_id: str, *, markers: bool, trust: bool) -> Directory:
    """Attach to this very store; `StoreClosedError` if it is gone, even if another is there now."""
    try:
        check_trust(path, trust=trust)
    except FileNotFoundError:
        raise closed_error(path, store_id) from None
    hold = Directory(path, None, store_id, markers=markers)
    hold.check()
    return hold


def _make(path: str) -> None:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise store_error(error, "make the store's directory", path) from error


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
        write_record(path, owner)
    except FileExistsError:
        return None  # another process was faster: it owns
    # Do the rest only under our record: the owner before us sweeps under its own.
    try:
        # Before anybody can look for it: an early look may hide it from a host, and to list what is
        # in it is a look, too.
        with contextlib.suppress(FileExistsError):
            os.mkdir(f"{path}/{layout.NAMES}", 0o700)
        # Last: others attach only to a store that has its witness.
        files.create(layout.witness(path, owner.store_id), [], 0)
    except BaseException:
        files.unlink(layout.record(path))
        raise
    return Directory(path, owner, owner.store_id, markers=markers)


def _join(path: str, clear: bool, markers: bool) -> Directory | None:
    """Attach to the store at `path`, or adopt it from a dead owner; None if it is gone by now."""
    owner = read_record(path)
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
    number = _bid(path)
    if number is None:
        return None
    adopted = False
    try:
        # Another process may have adopted it, and ended its bid, since we read the record.
        if read_record(path) != dead:
            return None
        if not os.path.lexists(layout.witness(path, dead.store_id)):
            # Its owner was killed while clearing: what is left is no store any more.
            sweep.remove_objects(path)
            files.unlink(layout.record(path))
            adopted = True
            return None
        owner = dead._replace(process=Process.this(), clear=clear)
        write_record(path, owner, replace=True)
        adopted = True
        return Directory(path, owner, owner.store_id, markers=owner.markers)
    finally:
        # Bids of killed adopters are removed once the record has changed, which makes them useless.
        for done in range(1 if adopted else number, number + 1):
            files.unlink(layout.adoption(path, done))


def _bid(path: str) -> int | None:
    """Bid for the adoption of a store; return the bid's number, None if another process has it.

    The bid of an adopter that was killed is passed over: the next number is for one process, too.
    """
    text = Process.this().to_json().encode()
    number = 1
    while True:
        bid = layout.adoption(path, number)
        try:
            files.create(bid, [text], len(text))
            return number
        except FileExistsError:
            try:
                if not Process.from_json(bytes(files.read(bid)).decode()).is_gone():
                    return None
            except (FileNotFoundError, ValueError):
                return None  # just ended, or not yet written
        number += 1

"""Verdicts: whether the owner of a store is proven dead, so that any process may remove the store.

Where one kernel decides, a free lock proves it unless the owner is seen to run, and the gate keeps
everybody else out meanwhile.
Where hosts share the file system these prove it: the owner's pid is free, in its own namespace of
its own kernel; its host has booted since, and the store is silent; or its heartbeat has been
silent for longer than a limit. There the rename of the witness decides between several removers.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import time
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

from fsexchange.connector import layout, sweep
from fsexchange.connector.directory import Directory
from fsexchange.connector.gate import gate
from fsexchange.connector.life import SILENT_AFTER, is_gone, silence
from fsexchange.connector.owner import Owner, read_record
from fsexchange.connector.trust import check_trust
from fsexchange.errors import StoreError, UntrustedDirectoryError
from fsexchange.filesystem import files
from fsexchange.filesystem.kinds import find_filesystem
from fsexchange.filesystem.process import Process

_log = logging.getLogger("fsexchange")

State: TypeAlias = Literal["living", "dead", "kept", "foreign", "unknown"]


class Verdict(NamedTuple):
    """What is known of the owner of a store."""

    state: State
    """`dead` is proven, and alone lets others remove the store. `kept` has no owner, `foreign` is
    another user's, `unknown` is none of the others."""
    why: str
    """For people: what shows it."""
    owner: Process | None = None
    removed: bool = False


def judge(path: str, *, older_than: float = math.inf, remove: bool = False) -> Verdict | None:
    """Return whether the owner of the store at `path` lives, and if asked to `remove` a dead one's.

    None if there is no store. An owner that can only be known by its heartbeat counts as dead once
    it has been silent for `older_than` seconds. Raises `OSError` where the file system refuses.
    """
    try:
        return _judge(path, older_than, remove)
    except FileNotFoundError:
        return None
    except UntrustedDirectoryError:
        return Verdict("unknown", "others may write to it, and to what says whose it is")


def _judge(path: str, older_than: float, remove: bool) -> Verdict | None:
    uid = os.lstat(path).st_uid
    if uid != os.geteuid():
        return Verdict("foreign", f"it is user {uid}'s")
    check_trust(path, trust=False)
    network = find_filesystem(path).policy.network
    try:
        with gate(path, seconds=0) as same:
            if not same:
                return None
            verdict, clear = _found(path, older_than, network=network)
            if verdict is None or verdict.state != "dead" or not remove:
                return verdict
            gone = clear()
            if gone:
                _log.info("swept %s, which %s had left", path, verdict.owner or "a killed process")
            return verdict._replace(removed=gone)
    except StoreError as error:
        if error.errno != errno.ETIMEDOUT or error.path:
            raise
        return Verdict("living", "another process makes or clears it just now")


def _found(
    path: str, older_than: float, *, network: bool
) -> tuple[Verdict | None, Callable[[], bool]]:
    """Return the verdict, and what removes the store unless another process does.

    The caller holds the gate.
    """
    names = list(files.listing(path))
    record = read_record(path)
    ending = next(filter(layout.ENDING.fullmatch, names), None)
    if ending is not None and (record is None or not network or record.store_id in ending):
        verdict = _of_leavings("cleared", path, older_than, network=network)
        if record is not None:
            verdict = verdict._replace(owner=record.process)
        return verdict, lambda: _go_on(path, ending, network=network)
    if record is not None:
        verdict = _of_owner(path, record, older_than, network=network)
        return verdict, lambda: _remove(path, record, network=network)
    if all(map(layout.OF_A_MAKER.fullmatch, names)) and sweep.is_made(path):
        verdict = _of_leavings("made", path, older_than, network=network)
        return verdict, lambda: _remove_half_made(path, names)
    if sweep.is_made(path) or any(map(layout.OF_A_STORE.fullmatch, names)):
        why = "its record is lost, so nobody knows whether it is kept"
        return Verdict("unknown", why), lambda: False
    return None, lambda: False


def _of_owner(path: str, record: Owner, older_than: float, *, network: bool) -> Verdict:
    owner = record.process
    if not record.clear:
        return Verdict("kept", f"{owner} made it, or it was opened, with clear=False", owner)
    if record.locked:
        if network:
            return Verdict("unknown", f"only {owner.host} can see whether {owner} locks it", owner)
        if is_gone(path, record):
            if owner.is_running():
                # A daemon closes all descriptors, and has its locks again within the hour.
                why = f"{owner} holds its lock no more, but runs, if as another program"
                return Verdict("unknown", why, owner)
            return Verdict("dead", f"the kernel has freed the lock of {owner}", owner)
        return Verdict("living", f"{owner} holds its lock", owner)
    if owner.is_dead():
        return Verdict("dead", f"there is no {owner} any more", owner)
    witness = layout.witness(path, record.store_id)
    try:
        of_owner = silence(path)
        of_all = silence(path, witness) if files.is_there(witness) else of_owner
    except FileNotFoundError:
        raise  # another process has just removed it
    except OSError as error:  # a read-only mount
        return Verdict("unknown", f"its heartbeat cannot be seen ({error.strerror})", owner)
    why = f"{owner} gave a sign of life {_for_people(of_owner)} ago"
    if of_owner <= SILENT_AFTER:
        return Verdict("living", why, owner)
    why = why.replace("a sign", "the last sign")
    if owner.is_of_an_earlier_boot():
        return Verdict("dead", f"{why}, and {owner.host} has booted since", owner)
    if of_all > older_than:
        return Verdict("dead", why, owner)
    if of_owner - of_all > SILENT_AFTER:
        why += f", and another process used it {_for_people(of_all)} ago"
    return Verdict("unknown", why, owner)


def _for_people(seconds: float) -> str:
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _of_leavings(doing: str, path: str, older_than: float, *, network: bool) -> Verdict:
    """Return the verdict on what no record stands for; the gate tells that nobody is at it."""
    seconds = time.time() - os.stat(path).st_mtime
    if network and seconds <= older_than:
        ago = _for_people(max(0.0, seconds))
        return Verdict("unknown", f"a process {doing} it {ago} ago, or was killed then")
    return Verdict("dead", f"a process was killed while it {doing} it")


def _remove(path: str, record: Owner, *, network: bool) -> bool:
    if network and not files.is_there(layout.witness(path, record.store_id)):
        # Its maker was killed before it made the witness, whose rename decides otherwise.
        store_id = os.urandom(8).hex()
        os.rename(layout.record(path), layout.ending(path, store_id))
        sweep.remove_store(path, store_id)
        return True
    return Directory(path, record.store_id, markers=record.markers).remove()


def _go_on(path: str, ending: str, *, network: bool) -> bool:
    """Remove what a process that was killed while it cleared a store has left of it."""
    store_id = ending.removesuffix("-ending").rpartition("-")[2]
    if network:
        # The process whose rename succeeds goes on: another might sweep the next store here.
        store_id = os.urandom(8).hex()
        os.rename(f"{path}/{ending}", layout.ending(path, store_id))
    sweep.remove_store(path, store_id)
    return True


def _remove_half_made(path: str, names: list[str]) -> bool:
    for name in names:
        files.unlink(f"{path}/{name}")
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(path)
    return True

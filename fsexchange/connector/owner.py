"""The owner of a store: the one process that clears it. The record says who that is, for people.

On a file system of one kernel the owner holds a lock on the record for as long as it lives: the
kernel says so, and whoever gets the lock is the next owner. On others a heartbeat renews the
record, and a long silence is all that can be known.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import threading
import time
from typing import NamedTuple

from fsexchange.connector import layout
from fsexchange.filesystem import files, publish
from fsexchange.filesystem.kinds import find_filesystem
from fsexchange.filesystem.locks import Lock
from fsexchange.filesystem.process import Process

_log = logging.getLogger("fsexchange")

#: Seconds between two signs of life of an owner, where other hosts may see its store.
HEARTBEAT = 30.0

# Bytes of a record, and at most: names of hosts and jobs may be long.
_RECORD_SIZE, _LONGEST_RECORD = 1024, 1 << 16

#: Seconds of silence after which an owner may be gone. A sign of life may be late: a stopped job, a
#: stalled server, mtimes of whole seconds.
SILENT_AFTER = 10 * HEARTBEAT


class Owner(NamedTuple):
    """The record of a store: its id, its owner and what the owner decided for everyone."""

    store_id: str
    process: Process
    clear: bool
    """Whether the store ends with its owner. If not, it is cleared only when somebody asks."""
    markers: bool
    locked: bool
    """Whether the owner holds locks for as long as it lives. Not on a network file system, as the
    owner sees it, even if others see a local one: the server of a mount does, and containers do."""

    @classmethod
    def from_json(cls, text: str) -> Owner:
        """Return the record in `text`; `ValueError` if it is none, or incomplete."""
        try:
            fields = json.loads(text)
            process = Process.from_json(json.dumps(fields["process"]))
            locked = fields.get("locked", False)
            if not layout.WRITER.fullmatch(fields["store_id"]):
                raise ValueError(f"no id of a store: {fields['store_id']!r}")
            return cls(fields["store_id"], process, fields["clear"], fields["markers"], locked)
        except (TypeError, KeyError, RecursionError) as error:
            raise ValueError(str(error)) from None

    def to_json(self) -> str:
        """Return what `from_json` reads; people can read it, too.

        Always of one length: it is overwritten in place by one call, on a full disk as well.
        """
        text = json.dumps({**self._asdict(), "process": self.process._asdict()}, indent=1)
        return text.ljust(_RECORD_SIZE - 1) + "\n"


def read_record(path: str) -> Owner | None:
    """Return the record of the store at `path`; None if there is none, or half of one.

    `OSError` if it cannot be read. It may be a stranger's: what is no regular file, or too long, is
    no record.
    """
    try:
        (fd,) = map(files.open_regular, (layout.record(path),))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL, errno.ELOOP):
            return None
        raise
    try:
        return Owner.from_json(os.pread(fd, _LONGEST_RECORD, 0).decode())
    except ValueError:
        return None
    finally:
        os.closerange(fd, fd + 1)


def make_record(path: str, owner: Owner) -> None:
    """Write the record of a new store; `FileExistsError` if another process was faster."""
    data = owner.to_json().encode()
    try:
        publish.by_link(layout.record(path), [data], len(data))
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        files.create(layout.record(path), [data], len(data))  # no links here


def renew_record(path: str, owner: Owner) -> None:
    """Write what has changed into the record; the file, and so its lock, stays."""
    files.fill(layout.record(path), [(0, owner.to_json().encode())])


def keep(path: str, store_id: str) -> bool:
    """Have the store at `path` kept for good, whoever owns it; False if it is another one.

    The caller holds the gate of the store, so that nobody is clearing it meanwhile.
    """
    record = read_record(path)
    if record is None or record.store_id != store_id:
        return False
    if record.clear:
        renew_record(path, record._replace(clear=False, locked=False))
        _log.info("kept the store %s at %s", store_id, path)
    return True


def touch(path: str, store_id: str) -> None:
    """Make the files that must live look new to cleaners of old files: the store is in use."""
    with contextlib.suppress(OSError):
        os.utime(layout.witness(path, store_id))
        record = layout.record(path)
        # Its mtime is the heartbeat of its owner; the change itself renews the ctime.
        os.utime(record, ns=(time.time_ns(), os.stat(record).st_mtime_ns))


class Life:
    """What shows others that the owner of the store at `path` lives, until it ends.

    Locks on the record and on the witness, as a cleaner of old files may take one of them. On a
    `network` file system it is a thread that renews the record's mtime. Neither survives a fork: a
    child owns nothing.
    """

    def __init__(self, path: str, store_id: str, *, network: bool) -> None:
        self._record = layout.record(path)
        self._ended = threading.Event()
        self._network = network
        names = () if network else (self._record, layout.witness(path, store_id))
        # To lock a file takes no right to write to it: a mount may be read-only.
        self._locks = {name: Lock(name, os.O_RDONLY) for name in names if files.is_there(name)}

    def begin(self) -> bool:
        """Return whether this process is the owner from now on; False if another one lives."""
        if self._network:
            threading.Thread(target=self._beat, name="fsexchange-heartbeat", daemon=True).start()
        elif not all(lock.take() for lock in self._locks.values()):
            self.end()
            return False
        return True

    def renew(self) -> None:
        """Take the locks again that this process has lost: it may have closed all descriptors.

        Daemons do. Another process that opened the store meanwhile owns it, and keeps it.
        """
        for name, lock in self._locks.items():
            with contextlib.suppress(OSError):
                if not lock.is_at(name):
                    new = Lock(name, os.O_RDONLY)
                    if new.take():
                        self._locks[name] = new

    def end(self) -> None:
        """Stop showing it."""
        self._ended.set()
        for lock in self._locks.values():
            lock.close()

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT):
            # If the store is gone or out of reach, the verbs report that better than a thread.
            with contextlib.suppress(OSError):
                os.utime(self._record)  # "now" by the file server's clock, not by ours


def is_gone(path: str, owner: Owner) -> bool:
    """Return whether the owner of the store at `path` is proven gone, by the locks that it holds.

    The caller holds the gate of the store, so that nobody needs the locks meanwhile.
    """
    if not owner.locked or find_filesystem(path).policy.network:
        return False
    life = Life(path, owner.store_id, network=False)
    gone = life.begin()
    life.end()
    return gone


def silence(path: str, *more: str) -> float:
    """Return for how many seconds the owner of the store at `path` has shown no sign of life.

    By the clock of its own file system: a new file tells what time it is there. A change of one of
    the files `more` is a sign, too.
    """
    record = layout.record(path)
    probe = f"{record}-probe-{os.urandom(8).hex()}"
    files.create(probe, [], 0)
    try:
        latest = max(os.stat(name).st_mtime for name in (record, *more))
        return max(0.0, os.stat(probe).st_mtime - latest)
    finally:
        files.unlink(probe)

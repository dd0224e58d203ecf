"""Life of a store's owner: what shows it to others, and what they can know of it.

On a file system of one kernel the owner holds a lock on the record for as long as it lives: the
kernel says so, and whoever gets the lock is the next owner. On others a heartbeat renews the
record, and a long silence is all that can be known.
"""

from __future__ import annotations

import contextlib
import os
import threading

from fsexchange.connector import layout
from fsexchange.connector.owner import Owner
from fsexchange.filesystem import files
from fsexchange.filesystem.kinds import find_filesystem
from fsexchange.filesystem.locks import Lock

#: Seconds between two signs of life of an owner, where other hosts may see its store.
HEARTBEAT = 30.0

#: Seconds of silence after which an owner may be gone. A sign of life may be late: a stopped job, a
#: stalled server, mtimes of whole seconds.
SILENT_AFTER = 10 * HEARTBEAT


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

"""The owner of a store: the one process that clears it. A record says which process that is.

A store whose owner was killed must not stay for ever, and a store whose owner lives must not be
cleared. The record says enough to tell the two apart.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from fsexchange.connector import layout
from fsexchange.errors import StoreError
from fsexchange.filesystem import files, publish
from fsexchange.filesystem.process import Process

#: Seconds between two signs of life of an owner, where other hosts may see its store.
HEARTBEAT = 30.0

# A sign of life may be late: a stopped job, a stalled server, mtimes of whole seconds.
_SILENT_AFTER = 10 * HEARTBEAT

# Seconds to wait for another process to write its record, adopt or clear: it needs milliseconds.
_PATIENCE = 10.0


class Owner(NamedTuple):
    """The record of a store: its id, its owner and what the owner decided for everyone."""

    store_id: str
    process: Process
    clear: bool
    """Whether the store ends with its owner. If not, it is cleared only when somebody asks."""
    markers: bool
    heartbeat: bool
    """Whether the owner renews the record's mtime, for hosts that cannot see its process."""

    @classmethod
    def from_json(cls, text: str) -> Owner:
        """Return the record in `text`; `ValueError` if it is none, or incomplete."""
        try:
            fields = json.loads(text)
            return cls(**{**fields, "process": Process(**fields["process"])})
        except (TypeError, KeyError) as error:
            raise ValueError(str(error)) from None

    def to_json(self) -> str:
        """Return what `from_json` reads; people can read it, too."""
        return json.dumps({**self._asdict(), "process": self.process._asdict()}, indent=1) + "\n"

    def is_dead(self, record: str) -> bool:
        """Return whether the owner is *proven* gone; `record` is the path of this record.

        On the same host the process table proves it. On others a long silence does: the age of the
        record, by the time of a new file beside it, because the clocks of hosts differ. When in
        doubt: False.
        """
        gone = self.process.is_gone()
        if gone is not None:
            return gone
        return self.heartbeat and _age(record) > _SILENT_AFTER


def read_record(path: str) -> Owner:
    """Return the record of the store at `path`; `StoreError` if it stays unreadable."""
    for _ in patiently(
        f"the owner's record {layout.record(path)} is unreadable; if no process uses the store, "
        "remove that file"
    ):
        try:
            return Owner.from_json(bytes(files.read(layout.record(path))).decode())
        except ValueError:
            pass  # its writer is between creating it and writing it
    raise AssertionError("not reached: patience ends with an error")


def write_record(path: str, owner: Owner, *, replace: bool = False) -> None:
    """Write the record of the store at `path`; `FileExistsError` unless `replace`."""
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


def patiently(message: str) -> Iterator[None]:
    """Yield again and again, at growing intervals; raise `StoreError` in the end."""
    deadline = time.monotonic() + _PATIENCE
    pause = 0.001
    while True:
        yield
        if time.monotonic() > deadline:
            raise StoreError(message, errno=errno.ETIMEDOUT)
        time.sleep(pause)
        pause = min(2 * pause, 0.1)


class Heartbeat:
    """A thread that renews a record's mtime until stopped. It does not survive a fork."""

    def __init__(self, record: str) -> None:
        self._record = record
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="fsexchange-heartbeat", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(HEARTBEAT):
            try:
                os.utime(self._record)  # "now" by the file server's clock, not by ours
            except OSError:
                # The store is gone or out of reach. The verbs report that better than a thread.
                pass


def _age(path: str) -> float:
    """Return the seconds since the last change of `path`, by its own file system's clock."""
    probe = f"{path}-probe-{os.urandom(8).hex()}"
    files.create(probe, [], 0)
    try:
        return os.stat(probe).st_mtime - os.stat(path).st_mtime
    finally:
        files.unlink(probe)

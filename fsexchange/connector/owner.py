"""The owner of a store: the one process that clears it, written down so that others can judge.

A store whose owner was killed must not stay for ever, and one whose owner lives must not be
cleared under it: the record says enough to tell the two apart.
"""

from __future__ import annotations

import json
import os
import threading
from typing import NamedTuple

from fsexchange.filesystem import files
from fsexchange.filesystem.process import Process

#: Seconds between two signs of life of an owner that other hosts may see.
HEARTBEAT = 30.0

# A sign of life may be late: a stopped job, a stalled server, mtimes of whole seconds.
_SILENT_AFTER = 10 * HEARTBEAT


class Owner(NamedTuple):
    """The record of a store: its id, its owner and what the owner decided for everyone."""

    store_id: str
    process: Process
    clear: bool
    """Whether the store ends with its owner. A kept one is nobody's to clear unasked."""
    markers: bool
    heartbeat: bool
    """Whether the owner renews the record's mtime, for hosts that cannot see its process."""

    @classmethod
    def from_json(cls, text: str) -> Owner:
        """Return the record in `text`; `ValueError` if it is none or only half of one."""
        try:
            fields = json.loads(text)
            return cls(**{**fields, "process": Process(**fields["process"])})
        except (TypeError, KeyError) as error:
            raise ValueError(str(error)) from None

    def to_json(self) -> str:
        """Return what `from_json` reads, for people, too."""
        return json.dumps({**self._asdict(), "process": self.process._asdict()}, indent=1) + "\n"

    def is_dead(self, record: str) -> bool:
        """Tell whether the owner is *proven* gone; `record` is the path of this record.

        On the same host the process table proves it, elsewhere a long silence: the record's age
        against that of a new file beside it, as clocks of hosts differ. When in doubt: False.
        """
        gone = self.process.is_gone()
        if gone is not None:
            return gone
        return self.heartbeat and _age(record) > _SILENT_AFTER


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
                # The store is gone or out of reach, which the verbs tell better than a thread.
                pass


def _age(path: str) -> float:
    """Return the seconds since the last change of `path`, by its own file system's clock."""
    probe = f"{path}-probe-{os.urandom(8).hex()}"
    files.create(probe, [], 0)
    try:
        return os.stat(probe).st_mtime - os.stat(path).st_mtime
    finally:
        files.unlink(probe)

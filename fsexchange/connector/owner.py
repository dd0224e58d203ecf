"""The owner of a store: the one process that clears it. The record says who that is, for people.

Whether it lives is another question: see `life`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import time
from typing import NamedTuple

from fsexchange.connector import layout
from fsexchange.filesystem import files, publish
from fsexchange.filesystem.process import Process

_log = logging.getLogger("fsexchange")

# Bytes of a record, and at most: names of hosts and jobs may be long.
_RECORD_SIZE, _LONGEST_RECORD = 1024, 1 << 16


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

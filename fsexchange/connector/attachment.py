"""What the connectors of one process to one store share.

Open files, directories to write to, and the copies that a host keeps of objects.

Each handle that arrives in a process brings a connector. If each had files of its own, a thousand
would use up what a process may have open.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING

from fsexchange.connector.directory import Directory
from fsexchange.connector.segments import Segments
from fsexchange.connector.writers import Writers

if TYPE_CHECKING:
    from fsexchange.connector.hostcache import HostCache


class Attachment:
    """What a connector shares with those to the same store; it goes with the last of them."""

    def __init__(self, directory: Directory) -> None:
        self.writers = Writers(directory)
        self.segments = Segments(directory)
        self.copies: HostCache | None = None
        _all.add(self)


_all: weakref.WeakSet[Attachment] = weakref.WeakSet()
_attachments: weakref.WeakValueDictionary[tuple[str, str, int], Attachment] = (
    weakref.WeakValueDictionary()
)


def attachment_to(directory: Directory) -> Attachment:
    """Return what the connectors of this process to the store in `directory` share."""
    store = directory.path, directory.store_id, directory.uid
    return _attachments.setdefault(store, Attachment(directory))


def _in_forked_child() -> None:
    """Give up what belongs to the parent.

    Open files are closed now, while their descriptors are still theirs: the child may close all
    descriptors later, as daemons do. (To compare pids would cost each put a system call.)
    """
    for attachment in tuple(_all):
        attachment.writers.give_up()
        attachment.segments.close()
        attachment.copies = None


os.register_at_fork(after_in_child=_in_forked_child)

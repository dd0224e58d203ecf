"""Which file system a directory is on, and what it can be trusted with.

One table holds every difference the library knows. Its facts come from mount(8) and nfs(5), from
the FUSE clients' documentation, and from measurements with two mounts of one file system.
"""

from __future__ import annotations

import ctypes
import os
import re
from typing import Literal, NamedTuple

from fsexchange.filesystem import files


class Policy(NamedTuple):
    """What one kind of file system can be trusted with."""

    network: bool
    """Whether other hosts may see the directory. Only a heartbeat can tell them that the owner of
    the store lives."""
    mappable: bool
    """Whether a mapping keeps its pages whatever other clients do to the file's name."""
    lookup: Literal["any", "open", "list"]
    """How to look for a name that may not exist yet. One early `open` or `stat` can leave a
    negative entry in the client's cache, which hides the file from the whole host for up to 30 s
    after it was made; a directory listing leaves none, but may be an old one itself."""

    def may_open(self, path: str) -> bool:
        """Return whether to open a name: it exists, or an early look does no harm here."""
        if self.lookup != "list":
            return True
        folder, name = os.path.split(path)
        return name in files.listing(folder)


class FileSystem(NamedTuple):
    """The file system of one directory."""

    kind: str
    """The kernel's name, as in /proc/mounts: `ext4`, `nfs4`, `fuse.sshfs`."""
    policy: Policy


_LOCAL = Policy(network=False, mappable=True, lookup="any")
# Distributed locks keep every client's caches right: nothing is hidden, and an unlinked file
# keeps its data while somebody has it open or mapped.
_COHERENT = Policy(network=True, mappable=True, lookup="any")
_CAREFUL = Policy(network=True, mappable=False, lookup="list")

POLICIES: dict[str, Policy] = {
    **dict.fromkeys(
        ("tmpfs", "ramfs", "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay"),
        _LOCAL,
    ),
    **dict.fromkeys(("lustre", "gpfs", "ceph"), _COHERENT),
    # Directory entries are cached for up to a second; open files outlive their names.
    "beegfs": _COHERENT._replace(lookup="list"),
    # Another client's unlink may turn a mapping into SIGBUS, and copying from one ran at a fifth
    # of the speed of read. acdirmin hides new names for 30 s, nfs(5); a listing revalidates.
    "nfs": _CAREFUL,
    "nfs4": _CAREFUL,
    # SIGBUS, measured: an untouched mapping of a file that another client unlinked.
    "fuse.glusterfs": _CAREFUL,
    "fuse.mfs": _CAREFUL._replace(mappable=True),
    # Its listings are 21 s old, while stat and open ask the server. A file removed while mapped
    # keeps a hidden name, .fuse_hidden*, and with it its directory: fuse(8), hard_remove.
    "fuse.sshfs": _CAREFUL._replace(lookup="open"),
}


def find_filesystem(path: str) -> FileSystem:
    """Return the file system of `path`, or of its nearest parent that exists.

    It is looked up in /proc/self/mountinfo by its device, proc(5); without /proc, as in some
    containers, the commonest are known by statfs(2). An unknown kind gets the most careful policy.
    """
    while True:
        try:
            kind = _mounted_kind(path)
        except OSError:  # also of one that another process is just removing
            parent = os.path.dirname(path)
            if parent == path:
                raise
            path = parent
        else:
            return FileSystem(kind, POLICIES.get(kind, _CAREFUL))


# A space in a mount point is written \040, a # in a source \043: proc(5).
_ESCAPE = re.compile(r"\\([0-7]{3})")


def _mounted_kind(path: str) -> str:
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    real = os.path.realpath(path)
    by_path, longest = "unknown", -1
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                left, _, right = line.partition(" - ")
                fields, (kind, source, *_) = left.split(), right.split()
                if kind == "fuse" and r"\043" in source:
                    kind = "fuse." + source.split(r"\043")[0]  # as libfuse writes it: type#source
                if fields[2] == wanted:
                    return kind
                # btrfs subvolumes show devices that no mount has: there the longest path counts.
                point = _ESCAPE.sub(lambda octal: chr(int(octal[1], 8)), fields[4])
                if os.path.commonpath((real, point)) == point and len(point) > longest:
                    by_path, longest = kind, len(point)
    except (FileNotFoundError, PermissionError):
        return _kind_by_statfs(path)
    return by_path


# linux/magic.h
_MAGIC = {
    0x01021994: "tmpfs",
    0x858458F6: "ramfs",
    0xEF53: "ext4",  # and ext2, ext3
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0xF2F52010: "f2fs",
    0x794C7630: "overlay",
    0x6969: "nfs",
    0x0BD00BD0: "lustre",
    0x47504653: "gpfs",
    0x00C36400: "ceph",
}


def _kind_by_statfs(path: str) -> str:
    status = ctypes.create_string_buffer(256)  # struct statfs, which begins with `long f_type`
    if ctypes.CDLL(None).statfs(os.fsencode(path), status) != 0:
        return "unknown"
    return _MAGIC.get(ctypes.c_long.from_buffer(status).value & 0xFFFFFFFF, "unknown")

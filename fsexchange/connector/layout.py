"""Names in a store's directory.

store_dir/                         0700
    .fsexchange                    the owner's record, which a living owner has locked
    .fsexchange-<id>               the witness: exists as long as the store is open
    .fsexchange-<id>-ending        the witness of a store that is being cleared
    .fsexchange-names/             names for people: for each a file with its key
    <writer>/                      one per writing process, 16 hex digits, mode 01700
        <number>                   an object, whose key is <writer>/<number>
        <number>.<units>           a segment, of many small objects: see geometry.py
        <number>.ready             with markers: the object is whole
        .<random>.tmp              an object that is not yet published
        .process                   marks a writer's directory, too; says who made keys of new_key
    .<writer>.gone/                a writer's directory that is being removed
    <name>                         an object with a plain name, and a stamp: see publish.py
"""

from __future__ import annotations

import os
import re

#: Name of the file that marks a writer's directory, and says which process that is.
SIGNATURE = ".process"

#: Begins the signature of a directory for objects of `put`, which may go once it is empty.
FOR_PUT = b" "

#: The same, for objects that say at their start how long they are: what is shorter is not whole.
FOR_PUT_WITH_LENGTH = FOR_PUT + b" "

#: Name of the directory of names.
NAMES = ".fsexchange-names"

_RECORD = ".fsexchange"
_RANDOM = r"[0-9a-f]{16}"
_TEMPORARY = rf"\.{_RANDOM}\.tmp"

#: A file that is not yet in place.
TEMPORARY = re.compile(_TEMPORARY)

#: A writer's directory.
WRITER = re.compile(_RANDOM)

#: A writer's directory that was renamed, so that its writer cannot find it any more.
LEAVING = re.compile(rf"\.{_RANDOM}\.gone")

#: A segment.
SEGMENT = re.compile(r"[0-9]+\.[1-9][0-9]{0,11}")

#: What fsexchange makes in a writer's directory.
IN_WRITER = re.compile(rf"[0-9]+(\.ready)?|{SEGMENT.pattern}|{_TEMPORARY}|{re.escape(SIGNATURE)}")

#: What fsexchange makes beside the writers' directories, but for the record and plain names.
BESIDE_WRITERS = re.compile(rf"{re.escape(_RECORD)}-({_RANDOM}|probe-{_RANDOM})|{_TEMPORARY}")

#: The witness of a store, and that of one which is being cleared.
WITNESS = re.compile(rf"{re.escape(_RECORD)}-({_RANDOM})")
ENDING = re.compile(rf"{re.escape(_RECORD)}-{_RANDOM}-ending")

#: What is removed only after everything else.
KEPT_TO_THE_END = re.compile(rf"{re.escape(_RECORD)}|{ENDING.pattern}")

#: A writer's directory, also one that is being removed.
OF_WRITERS = re.compile(rf"{WRITER.pattern}|{LEAVING.pattern}")

#: What a directory has that is a store, even one whose record is lost.
OF_A_STORE = re.compile(
    rf"{re.escape(_RECORD)}|{WITNESS.pattern}|{ENDING.pattern}|{re.escape(NAMES)}"
)

#: What a process has made that was killed before it had made a store: half a record, at most.
OF_A_MAKER = re.compile(rf"{re.escape(_RECORD)}(-probe-{_RANDOM})?|{_TEMPORARY}")

#: The directory of a default store.
DEFAULT = re.compile(rf"fsexchange-{_RANDOM}")

#: Prefixes of the names that NFS and FUSE give a removed file until its last user closes it.
IN_USE = (".nfs", ".fuse_hidden")


def record(path: str) -> str:
    """Return the path of the owner's record in the store at `path`."""
    return f"{path}/{_RECORD}"


def witness(path: str, store_id: str) -> str:
    """Return the path of the file that exists as long as the store is open."""
    return f"{path}/{_RECORD}-{store_id}"


def leaving(writer: str) -> str:
    """Return the name that a writer's directory gets to be removed."""
    return f".{writer}.gone"


def ending(path: str, store_id: str) -> str:
    """Return where the witness of a store goes when it is cleared."""
    return f"{path}/{_RECORD}-{store_id}-ending"


def default_name() -> str:
    """Return the name of a new default store's directory."""
    return f"fsexchange-{os.urandom(8).hex()}"

"""The objects of a store as they are listed: by their names, sizes and heads, never unpickled."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import unquote

from fsexchange.cli import output
from fsexchange.connector import FileKey, inventory
from fsexchange.connector.geometry import UNIT, units_for
from fsexchange.errors import InvalidKeyError
from fsexchange.filesystem import files
from fsexchange.filesystem.process import Process
from fsexchange.serialize.description import HEAD, Description, describe, total_length
from fsexchange.store.names import check_name

# Bytes of an object to look at: the head of nearly every array, the beginning of every pickle.
_LOOK = 4096

# A key that its user chose.
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)

#: Names of each file name and offset.
Names: TypeAlias = dict[tuple[str, int], list[str]]


class Listed(NamedTuple):
    """One object; or the part of a segment of whose objects nothing can be told."""

    key: FileKey
    nbytes: int
    modified: float
    """Of an object in a segment, that of the segment: when it was written, or one was evicted."""
    writer: Process | None
    names: list[str]
    described: Description
    told: bool = True

    @property
    def packed(self) -> bool:
        """Whether it shares a file, a segment, with others."""
        return self.key.offset > 0 or not self.told

    @property
    def type(self) -> str:
        """What it is, for people."""
        told = self.described
        if not self.told:
            return "objects put as bytes"
        text = f"{told.type} of {told.of}" if told.of else told.type
        if told.shape is not None:
            text += f" {told.dtype} {told.shape}"
        return text if told.whole else f"incomplete {text}"

    def document(self) -> dict[str, Any]:
        """Return it for JSON; docs/cli.md says what the fields are."""
        told = self.described
        return {
            "key": str(self.key) if self.told else None,
            "file": self.key.filename,
            "names": self.names,
            "bytes": self.nbytes,
            "modified": output.moment(self.modified),
            "writer": output.process_document(self.writer),
            "packed": self.packed,
            "type": told.type,
            "of": told.of or None,
            "dtype": told.dtype or None,
            "shape": None if told.shape is None else list(told.shape),
            "order": told.order or None,
            "whole": told.whole,
            "crc32": None if told.crc is None else f"{told.crc:08x}",
            "guarded": told.guarded,
        }


def listed(path: str, *, markers: bool) -> Iterator[Listed]:
    """Yield the objects in the store at `path`."""
    names = _names_of_keys(path)
    for item in inventory.items(path, markers=markers):
        if item.kind == "object":
            yield _own(path, item, names)
        elif item.kind == "segment":
            yield from _packed(path, item, names)


def find(path: str, what: str, *, is_key: bool, markers: bool) -> Listed | None:
    """Return the object in the store at `path` that has this key or name; None if none has."""
    key = None if is_key else names_in(path).get(what)
    if key is None:
        key = FileKey.parse(what) if is_key or _PLAIN.fullmatch(what) else None
    if key is None:
        return None
    names = _names_of_keys(path)
    for item in inventory.items_of_object(path, key.filename, markers=markers):
        found = [_own(path, item, names)] if not key.offset else _packed(path, item, names)
        for each in found:
            if each.told and each.key.offset == key.offset:
                return each
    return None


def _names_of_keys(path: str) -> Names:
    names: Names = {}
    for name, key in names_in(path).items():
        if key is not None:
            names.setdefault((key.filename, key.offset), []).append(name)
    return names


def _own(path: str, item: inventory.Item, names: Names) -> Listed:
    folder, slash, _ = item.filename.partition("/")
    writer, may_be_set = inventory.writer_of(path, folder) if slash else (None, True)
    # Objects that may be set again are found by a key without a length.
    key = FileKey(item.filename, -1 if may_be_set else item.nbytes)
    told = described_at(path, key, item.nbytes)
    found = sorted(names.get((key.filename, 0), ()))
    return Listed(key, item.nbytes, item.modified, writer, found, told)


def _packed(path: str, item: inventory.Item, names: Names) -> Iterator[Listed]:
    """Yield the objects of a segment."""
    told = 0
    writer, _ = inventory.writer_of(path, item.filename.partition("/")[0])
    for key in inventory.objects_in(path, item.filename, total_length, HEAD):
        if key is not None:
            told += UNIT * units_for(key.nbytes)
            found = sorted(names.get((key.filename, key.offset), ()))
            described = described_at(path, key, key.nbytes)
            yield Listed(key, key.nbytes, item.modified, writer, found, described)
        else:
            nbytes = inventory.live_bytes(path, item.filename) - told
            rest = FileKey(item.filename, nbytes)
            unknown = Description("unknown")
            yield Listed(rest, nbytes, item.modified, writer, [], unknown, told=False)


def described_at(path: str, key: FileKey, nbytes: int) -> Description:
    """Return what an object is, by its first bytes."""
    try:
        fd = files.open_regular(f"{path}/{key.filename}")
    except OSError:  # it goes just now, or may not be read
        return Description("unknown")
    try:
        return describe(os.pread(fd, min(_LOOK, nbytes), key.offset), nbytes)
    finally:
        os.close(fd)


def names_in(path: str) -> dict[str, FileKey | None]:
    """Return the names in the store at `path`, each with its key, None if that is damaged."""
    found = {}
    for item in inventory.items_of_names(path):
        name = unquote(item.filename.rpartition("/")[2])
        try:
            written = check_name(name)
        except InvalidKeyError:
            continue
        if item.filename.endswith(f"/{written}"):  # else fsexchange did not make it
            found[name] = inventory.key_of_name(path, item.filename)
    return found

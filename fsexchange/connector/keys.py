"""Keys: the small names of objects, which travel by MPI, pipe or shell variable."""

from __future__ import annotations

import re
import struct
from functools import lru_cache
from operator import index
from typing import Any, NamedTuple

from fsexchange.connector import layout
from fsexchange.errors import InvalidKeyError

#: Bytes of the longest file name in a key. With length and offset it fills one record.
MAX_FILENAME = 48

_RECORD = struct.Struct(f"<{MAX_FILENAME}sqq")

#: Bytes of the binary form of a key: a cache line.
RECORD_SIZE = _RECORD.size

# Either what fsexchange makes itself, or one plain name: no slash, no leading dot or dash, no
# NUL, no non-ASCII. Sixteen hex digits alone would be a writer's directory, and `.ready` would be
# the marker of another key.
_OWN = r"[0-9a-f]{16}/[0-9]{1,20}"
_PLAIN = r"(?![0-9a-f]{16}\Z)(?!.*\.ready\Z)[A-Za-z0-9_][A-Za-z0-9_.-]*"
_FILENAME = re.compile(rf"(?:{_OWN}|{_PLAIN})\Z", re.ASCII)
_SEGMENT = re.compile(rf"[0-9a-f]{{16}}/{layout.SEGMENT.pattern}\Z", re.ASCII)
_TEXT = re.compile(r"(?P<filename>[^:]*)(?::(?P<nbytes>[0-9]{1,19})(?:@(?P<offset>[0-9]{1,19}))?)?")


class FileKey(NamedTuple):
    """Name of an object in a store.

    A key from `put` knows the length of its object; one from `new_key` cannot, as the object is
    yet to be set. `str(key)` is one line that any shell takes unquoted, `FileKey.parse` its
    inverse; `pack` and `unpack` do the same in `RECORD_SIZE` bytes.

    >>> key = FileKey("00c0ffee00c0ffee/7", nbytes=1024)
    >>> str(key)
    '00c0ffee00c0ffee/7:1024'
    >>> FileKey.parse(str(key)) == key == FileKey.unpack(key.pack())
    True
    """

    filename: str
    nbytes: int = -1
    """Length of the object in bytes, or -1: not known when the key was made."""
    offset: int = 0
    """Where the object begins in its file, in bytes."""

    def __str__(self) -> str:
        if self.nbytes < 0:
            return self.filename
        return f"{self.filename}:{self.nbytes}" + (f"@{self.offset}" if self.offset else "")

    @classmethod
    def parse(cls, text: str) -> FileKey:
        """Return the key that `str` wrote as `text`; `InvalidKeyError` for anything else."""
        found = _TEXT.fullmatch(text.strip())
        if found is None:
            raise InvalidKeyError(f"not the text of a key: {text[:80]!r}", filename=text)
        filename, nbytes, offset = found.groups()
        key = cls(filename, -1 if nbytes is None else int(nbytes), int(offset or 0))
        check_key(key)
        return key

    def pack(self) -> bytes:
        """Return the key as `RECORD_SIZE` bytes, little-endian, the same on every host."""
        check_key(self)
        nbytes = getattr(self, "nbytes", -1)  # ProxyStore's own keys have none
        return _RECORD.pack(self.filename.encode("ascii"), nbytes, getattr(self, "offset", 0))

    @classmethod
    def unpack(cls, record: bytes | bytearray | memoryview) -> FileKey:
        """Return the key that `pack` wrote; `InvalidKeyError` for anything else."""
        if len(record) != RECORD_SIZE:
            raise InvalidKeyError(
                f"a key record has {RECORD_SIZE} bytes, not {len(record)}", filename=None
            )
        name, nbytes, offset = _RECORD.unpack(record)
        key = cls(name.rstrip(b"\0").decode("latin-1"), nbytes, offset)
        check_key(key)
        return key


def check_key(key: Any) -> str:
    """Return the file name of `key`, proven to stay inside the store's directory.

    Any object with a `filename` will do, ProxyStore's own FileKey too.
    """
    try:
        filename = key.filename
        nbytes, offset = index(getattr(key, "nbytes", -1)), index(getattr(key, "offset", 0))
        if offset != 0:
            start, end = segment_bounds(filename)
            if layout.fits(start, end, offset, nbytes):
                return filename  # type: ignore[no-any-return]
            reason = "there is no such part of a file of small objects"
        elif len(filename) <= MAX_FILENAME and _FILENAME.match(filename) is not None:
            if -1 <= nbytes < 1 << 63:
                return filename  # type: ignore[no-any-return]
            reason = "no object has so many bytes"
        else:
            reason = (
                f"a key's file name is <writer>/<number> or one plain name of at most "
                f"{MAX_FILENAME} letters, digits and '_.-', neither hidden nor ending in '.ready'"
            )
    except (AttributeError, TypeError):
        filename, reason = None, "not a key: it has no file name, or no length in bytes"
    shown = repr(key)
    if len(shown) > 120:
        shown = shown[:100] + "..."
    raise InvalidKeyError(f"{shown}: {reason}", filename=filename)


@lru_cache(256)
def segment_bounds(filename: str) -> tuple[int, int]:
    """Return where the objects of a segment begin and end, in bytes; 1 and 0 if it is none."""
    if len(filename) > MAX_FILENAME or _SEGMENT.match(filename) is None:
        return 1, 0
    units = layout.segment_units(filename)
    start = layout.segment_start(units)
    return start, start + layout.UNIT * units

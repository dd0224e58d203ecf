"""Keys: the small names of objects, which travel by MPI, pipe or shell variable."""

from __future__ import annotations

import re
import struct
from functools import lru_cache
from operator import index
from typing import Any, NamedTuple

from fsexchange.connector import layout
from fsexchange.connector.geometry import Geometry, geometry_of
from fsexchange.errors import InvalidKeyError

#: Bytes of the longest file name in a key. With length and offset, a key fills a cache line.
MAX_FILENAME = 48

_BINARY = struct.Struct(f"<{MAX_FILENAME}sqq")

#: Bytes of the binary form of a key.
KEY_SIZE = _BINARY.size

# A file name in a key is one that fsexchange makes, or one plain name: no slash, no leading dot or
# dash, no NUL, no non-ASCII. Sixteen hex digits alone would be a writer's directory; a name
# that ends in `.ready` would be the marker of another key.
_OWN = r"[0-9a-f]{16}/[0-9]{1,20}"
_PLAIN = rf"(?![0-9a-f]{{16}}\Z)(?!.*\.ready\Z)[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{MAX_FILENAME - 1}}}"
_is_filename = re.compile(rf"(?:{_OWN}|{_PLAIN})\Z", re.ASCII).match
_SEGMENT = re.compile(rf"[0-9a-f]{{16}}/{layout.SEGMENT.pattern}\Z", re.ASCII)
_TEXT = re.compile(r"(?P<filename>[^:]*)(?::(?P<nbytes>[0-9]{1,19})(?:@(?P<offset>[0-9]{1,19}))?)?")


class FileKey(NamedTuple):
    """Name of an object in a store.

    A key from `put` has the length of its object; a key from `new_key` cannot, because its object
    is not yet set. `str(key)` is one line that any shell takes unquoted, and `FileKey.parse` is its
    inverse; `pack` and `unpack` do the same in 64 bytes.

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
    """Where the object starts in its segment, in bytes; 0 for an object with its own file."""

    def __str__(self) -> str:
        if self.nbytes < 0:
            return self.filename
        return f"{self.filename}:{self.nbytes}" + (f"@{self.offset}" if self.offset else "")

    @classmethod
    def parse(cls, text: str) -> FileKey:
        """Return the key that `str` wrote as `text`; `InvalidKeyError` for anything else."""
        found = _TEXT.fullmatch(text.strip()) if isinstance(text, str) else None
        if found is None:
            raise InvalidKeyError(f"not the text of a key: {_shown(text)}", filename=None)
        filename, nbytes, offset = found.groups()
        return checked(cls(filename, -1 if nbytes is None else int(nbytes), int(offset or 0)))

    def pack(self) -> bytes:
        """Return the key's binary form: 64 bytes, little-endian, the same on every host."""
        filename, nbytes, offset = checked(self)
        return _BINARY.pack(filename.encode("ascii"), nbytes, offset)

    @classmethod
    def unpack(cls, binary: bytes | bytearray | memoryview) -> FileKey:
        """Return the key that `pack` wrote; `InvalidKeyError` for anything else."""
        try:
            name, nbytes, offset = _BINARY.unpack(binary)
        except (TypeError, struct.error):
            raise InvalidKeyError(
                f"not the binary form of a key, which has {KEY_SIZE} bytes: {_shown(binary)}",
                filename=None,
            ) from None
        return checked(cls(name.rstrip(b"\0").decode("latin-1"), nbytes, offset))


def checked(key: Any) -> FileKey:
    """Return `key` as a FileKey whose file is proven to be inside the store's directory.

    Every key is checked by this where it enters. Any object with a `filename` will do: ProxyStore's
    own keys have neither length nor offset. Raises `InvalidKeyError`.
    """
    try:
        if type(key) is not FileKey:
            key = FileKey(key.filename, getattr(key, "nbytes", -1), getattr(key, "offset", 0))
        proven: FileKey = key
        filename, nbytes, offset = proven
        if type(nbytes) is not int or type(offset) is not int or type(filename) is not str:
            # Not by str(): the text of an enum's member is its name in the program.
            proven = FileKey(str.__str__(filename), index(nbytes), index(offset))
            filename, nbytes, offset = proven
        if offset:
            geometry = segment_geometry(filename)
            if geometry is not None and geometry.holds(offset, nbytes):
                return proven
            reason = "there is no such part of a segment"
        elif _is_filename(filename):
            if -1 <= nbytes < 1 << 63:
                return proven
            reason = "no object has so many bytes"
        else:
            reason = (
                f"a key's file name is <writer>/<number> or one plain name of at most "
                f"{MAX_FILENAME} letters, digits and '_.-', neither hidden nor ending in '.ready'"
            )
    except (AttributeError, TypeError):
        filename, reason = None, "not a key: it has no file name, or no length in bytes"
    raise InvalidKeyError(f"{_shown(key)}: {reason}", filename=filename)


def _shown(obj: object) -> str:
    """Return the start of an object's `repr`."""
    try:
        text = repr(obj)
    except Exception:  # of another's class, or an int of thousands of digits
        return f"a {type(obj).__name__}"
    return text if len(text) <= 120 else text[:100] + "..."


@lru_cache(256)
def segment_geometry(filename: str) -> Geometry | None:
    """Return the geometry of the segment in a key's file name; None if it is not a segment's."""
    if len(filename) > MAX_FILENAME or _SEGMENT.match(filename) is None:
        return None
    return geometry_of(filename)

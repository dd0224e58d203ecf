"""Pickles of protocol 5 whose arrays are out-of-band buffers, never copies."""

from __future__ import annotations

import copyreg
import pickle
import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from fsexchange.serialize import script
from fsexchange.serialize.crc import crc32
from fsexchange.serialize.format import framed, frames_of_pieces, small_frame, small_frames
from fsexchange.serialize.instances import INSTANCES, Plain, pickle_of_plain
from fsexchange.serialize.kinds import Asking
from fsexchange.serialize.reasons import PASSED_ON, is_of_handler, loading_error, pickling_error

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from fsexchange.serialize.format import Frames

#: A pickle in pieces, the buffers that it leaves out, and the functions and classes of the script
#: that it names.
Made: TypeAlias = "tuple[list[Any], Sequence[memoryview], Sequence[Any]]"

_B = TypeVar("_B", bytes, bytearray)

# A buffer of fewer bytes stays in the pickle. Outside it would cost more: an entry in the table,
# padding, and one more piece for writev.
_OUT_OF_BAND_FROM = 4096

# From this length on pickle passes bytes and text to `write` as they are, behind their header.
_LONG_FROM = 1 << 16

# To guard all of a pickle of fewer bytes takes less time than to tell its values apart.
_GUARDED_BELOW = 1 << 17

# To look for a name in Python in a longer pickle takes longer than to load that by `Foreign`.
_SEARCHED_UP_TO = 1 << 12

# Bytes of so many bytes are copied to memory for which the kernel is asked before: 1 to 64 MiB in
# 0.5 to 0.9 of the time. For fewer malloc often has memory that is not new.
_NEW_FROM = 1 << 20

# In a pickle, if so many bytes are in such values, and this part of it: the rest is copied, too.
_APART_FROM, _APART_PART = 1 << 22, 7 / 8

# By the bytes of the length that follows: the opcodes of bytes and text; and which are for bytes.
_OPCODES = {
    4: (pickle.BINBYTES, pickle.BINUNICODE),
    8: (pickle.BINBYTES8, pickle.BINUNICODE8, pickle.BYTEARRAY8),
}
_OF_BYTES = (pickle.BINBYTES, pickle.BINBYTES8, pickle.BYTEARRAY8)

# More pieces would take more than one writev.
_MOST_PIECES = 500

# Buffers of fewer bytes are copied out of an object in which the others are so many times larger.
_COPIED_BELOW = 1 << 16
_TIMES_LARGER = 16

#: Bytes and text of fewer bytes are pickled, which takes less time and space; and a simple object
#: with what is around these in its pickle.
PICKLED_UP_TO = 4096
SIMPLE_UP_TO = PICKLED_UP_TO + 44

# A pickle of up to this many bytes is small.
_SMALL_UP_TO = 1 << 14

# A longer one may have made the memo grow. To clear a memo takes as long as it has ever been large,
# so the next pickle that is shorter makes it anew. After one that is not small it is made anew at
# once.
_MEMO_UP_TO = 512


try:
    from fsexchange.serialize._native import copied_to_new, dump_small, dumper, keeper, may_name
except ImportError:

    def copied_to_new(kind: type[_B], data: memoryview, /) -> _B:
        """Return `kind(data)`."""
        return kind(data)

    def keeper(into: list[Any], least: int, /) -> Callable[[pickle.PickleBuffer], bool]:
        """Return what leaves buffers of `least` bytes out of a pickle, and appends them to a list.

        It does not hold the pickler, which would make a cycle with all that was pickled.
        """

        def keep(buffer: pickle.PickleBuffer) -> bool:
            data = buffer.raw()
            if data.nbytes < least:
                return True  # in the pickle
            into.append(data)
            return False

        return keep

    def dump_small(taken: list[Any], obj: Any, small: int, memo: int, /) -> bytes | Made | None:
        """Return the pickle of an object by a pickler that was taken, which is then as good as new.

        None for one of more than `small` bytes or one piece, for one with buffers or that names
        what is of the script, or for which the memo, which holds what has `memo` bytes without
        growing, is to be made anew; then the pickler has it.
        """
        _, dump, clear_memo, pieces, more, grown = taken
        dump(obj)
        if more or len(pieces) > 1:
            return None
        size = len(pieces[0])
        if size > small or (grown and size <= memo):
            return None
        body: bytes = pieces.pop()
        taken[-1] = size > memo
        clear_memo()
        return body

    def dumper(
        idle: list[Any],
        instances: dict[type, Plain],
        crc32: Callable[..., int],
        most: int,
        small: int,
        memo: int,
        /,
    ) -> Callable[[Any], Any]:
        """Return a function that returns None: `small_or_made` does as much."""
        return lambda obj: None

    def may_name(body: Buffer, name: bytes, /) -> bool:
        """Return whether a pickle may have a name in it."""
        view = memoryview(body)
        return view.nbytes > _SEARCHED_UP_TO or name in bytes(view)


#: Of `copyreg.add_extension`: by their numbers pickles name classes without a text.
EXTENSIONS: dict[int, Any] = getattr(copyreg, "_inverted_registry")  # noqa: B009  (not typed)


class Pickler(Asking):  # type: ignore[misc]
    """Plain pickle, with the reducers of `kinds`; it asks every object for its state once."""

    def __init__(self) -> None:
        self.pieces: list[Any] = []
        self.more: list[Any] = []
        """Out-of-band buffers, which are memoryviews; the functions and classes of the script that
        the pickle names; and the reducer below."""
        self.reducer: Any = None
        keep = keeper(self.more, _OUT_OF_BAND_FROM)
        file: Any = SimpleNamespace(write=self.pieces.append)
        super().__init__(file, 5, buffer_callback=keep)

    @property
    def by_value(self) -> Any:
        """What reduces functions and classes by value, all those of one pickle."""
        if self.reducer is None:
            self.reducer = script.by_value().reducer()
            self.more.append(self.reducer)
        return self.reducer


# To make a pickler takes longer than to pickle a small object. A thread takes one out, and puts it
# back without what it pickled: the pickler, what is used of it, and whether its memo has grown.
_idle: list[list[Any]] = []


def _new() -> list[Any]:
    """Return a pickler as there are in `_idle`."""
    pickler = Pickler()
    return [pickler, pickler.dump, pickler.clear_memo, pickler.pieces, pickler.more, False]


def _put_back(taken: list[Any], size: int) -> None:
    """Have a pickler, which made a pickle of `size` bytes, used again."""
    pickler, _, clear_memo, pieces, more, had_grown = taken
    if pickler.reducer is not None:
        return
    pieces.clear()
    more.clear()
    grown = taken[-1] = _MEMO_UP_TO < size <= _SMALL_UP_TO
    if grown or (not had_grown and size <= _MEMO_UP_TO):
        clear_memo()
    else:
        pickler.memo = {}
    _idle.append(taken)


_dump = dumper(_idle, INSTANCES, crc32, SIMPLE_UP_TO, _SMALL_UP_TO, _MEMO_UP_TO)


def framed_or_made(obj: Any) -> bytes | Made | None:
    """Return the frame of an object that is small; None for one that `small_or_made` must pickle.

    Raises `SerializationError` if it cannot be pickled.
    """
    try:
        made = _dump(obj)
    except Exception as error:
        if isinstance(error, MemoryError) or is_of_handler(error):
            raise
        raise pickling_error(obj, error) from error
    if type(made) is list:
        return _made_by(made)
    found: bytes | Made | None = made
    return found


def small_or_made(obj: Any) -> bytes | Made:
    """Return the pickle of an object: itself if it is small, one piece and names no script.

    Raises `SerializationError` if it cannot be pickled.
    """
    try:
        kind = type(obj)
        plain = INSTANCES.get(kind)
        if plain is not None:
            body = pickle_of_plain(obj, plain)
            if body is not None:
                return ([body], (), (kind,)) if plain.is_of_script else body
        try:
            taken = _idle.pop()
        except IndexError:
            taken = _new()
        small = dump_small(taken, obj, _SMALL_UP_TO, _MEMO_UP_TO)
    except Exception as error:  # a class's own __reduce__ may raise anything
        if isinstance(error, MemoryError) or is_of_handler(error):
            raise
        raise pickling_error(obj, error) from error
    if small is None:
        return _made_by(taken)
    _idle.append(taken)
    return small


def pickled(obj: Any) -> Made:
    """Return the same, also if it is small, in pieces."""
    made = small_or_made(obj)
    return ([made], (), ()) if isinstance(made, bytes) else made


def _made_by(taken: list[Any]) -> Made:
    """Return what a pickler made, and have the pickler used again."""
    pickler, _, _, pieces, more, _ = taken
    made = pieces.copy()
    buffers = [each for each in more if type(each) is memoryview]
    named = [each for each in more if type(each) is not memoryview and each is not pickler.reducer]
    _put_back(taken, sum(map(len, made)))
    return made, buffers, named


def frames_of(made: Made, checksum: bool) -> Frames:
    """Return the frames of an object that was pickled."""
    pieces, buffers, named = made
    section = script.section(named) if named else b""
    if len(pieces) == 1 and type(pieces[0]) is bytes:  # most often, and so in less time
        if not buffers and len(pieces[0]) <= _SMALL_UP_TO:
            return [small_frame(pieces[0], crc32, section)]
        if buffers and not (section or checksum):
            return framed(pieces[0], [*buffers], crc32)
    size = sum(map(len, pieces))
    if not buffers and size < _GUARDED_BELOW:
        return small_frames(pieces, section, crc32)
    long: list[int] = []
    if len(pieces) > 1 and size >= _GUARDED_BELOW:
        for n in range(1, len(pieces)):
            # What ends a value is the user's, and may look like an opcode.
            if _is_long(pieces[n - 1], pieces[n]) and long[-1:] != [n - 1]:
                long.append(n)
        if len(pieces) > _MOST_PIECES:
            pieces, long = _joined(pieces, set(long))
    return frames_of_pieces(pieces, long, buffers, section, checksum)


def _is_long(before: Any, piece: Any) -> bool:
    """Return whether a piece is a long value: the piece before it ends as `_opcode` says.

    Other pieces consist of opcodes.
    """
    return len(piece) >= _LONG_FROM and bool(_opcode(before, len(piece)))


def _opcode(before: Any, nbytes: int) -> bytes:
    """Return the opcode of a value of so many bytes, if it and the length are before the value."""
    said = nbytes.to_bytes(8, "little")
    for width, opcodes in _OPCODES.items():
        opcode = bytes(before[-1 - width : -width])
        if opcode in opcodes and before[-width:] == said[:width] and not any(said[width:]):
            return opcode
    return b""


def _joined(pieces: list[Any], long: set[int]) -> tuple[list[Any], list[int]]:
    """Return fewer and longer pieces, and the numbers of the long values among them."""
    joined: list[Any] = []
    numbers: list[int] = []
    opcodes: list[Any] = []
    for n, piece in enumerate(pieces):
        pieces[n] = None  # so that no more than a group is in memory twice
        if n in long:
            joined.append(b"".join(opcodes))
            opcodes.clear()
            numbers.append(len(joined))
            joined.append(piece)
        else:
            opcodes.append(piece)
            if len(opcodes) == _MOST_PIECES // 8:
                joined.append(b"".join(opcodes))
                opcodes.clear()
    return [*joined, b"".join(opcodes)], numbers


def unpinned(buffers: Sequence[memoryview]) -> Sequence[memoryview]:
    """Return the buffers of one object, with copies of those that are small beside the others.

    They share a mapping, or a message. One small array that is kept would keep all of it, and in
    /dev/shm its memory even after the object was evicted.
    """
    if len(buffers) == 1:
        return buffers
    sizes = [buffer.nbytes for buffer in buffers]
    small = sum([size for size in sizes if size < _COPIED_BELOW])
    if not 0 < small <= sum(sizes) // _TIMES_LARGER:
        return buffers
    return [buffer if buffer.nbytes >= _COPIED_BELOW else _copy(buffer) for buffer in buffers]


def _copy(buffer: memoryview) -> memoryview:
    copy = memoryview(bytearray(buffer))
    return copy.toreadonly() if buffer.readonly else copy


def load(
    body: bytes | bytearray | memoryview,
    buffers: Sequence[memoryview] = (),
    section: bytes | memoryview = b"",
    long: Sequence[int] = (),
) -> Any:
    """Return the object of a pickle; a documented error if it cannot be made here.

    `long` tells where in it long values are, see `format.Parsed`.
    """
    apart: list[Any] = []
    try:
        # Both are taken in the order in which the pickle has them.
        values = _long_bytes(body, long) if long and not buffers else []
        if values:
            body, buffers = _without(body, values, apart), apart
        if section and not script.is_mine(section):
            return script.Foreign(_File(body), buffers, section).load()
        if may_name_this(body) and script.this_script().module not in sys.modules:
            return script.Foreign(_File(body), buffers, section).load()
        return pickle.loads(body, buffers=buffers)
    except Exception as error:
        if isinstance(error, PASSED_ON) or is_of_handler(error):
            raise
        raise loading_error(error) from error
    finally:
        apart.clear()  # else a traceback would keep them


def may_name_this(body: Any) -> bool:
    """Return whether a pickle may name the script as what `python -m` was told to run."""
    if not script.this_script().module:
        return False
    return bool(EXTENSIONS) or may_name(body, script.importable)


def copied(kind: type[_B], data: memoryview) -> _B:
    """Return `kind(data)`, of bytes or bytearray."""
    return kind(data) if len(data) < _NEW_FROM else copied_to_new(kind, data)


class _Value(NamedTuple):
    """Where in a pickle a value is: its opcode, and its data."""

    opcode: int
    start: int
    end: int


def _long_bytes(body: Any, long: Sequence[int]) -> list[_Value]:
    """Return the bytes in a pickle that are copied apart, none if it is not worth it."""
    values: list[_Value] = []
    end = size = 0
    for start, nbytes in zip(long[1::2], long[2::2], strict=True):
        # Of what is not in the value before: that is the user's, and may look like an opcode.
        opcode = _opcode(bytes(body[max(end, start - 9) : start]), nbytes)
        if opcode and start + nbytes <= len(body):
            end = start + nbytes
            if opcode in _OF_BYTES and nbytes >= _NEW_FROM:
                size += nbytes
                values.append(_Value(start - (5 if opcode in _OPCODES[4] else 9), start, end))
    return values if size >= _APART_FROM and size >= len(body) * _APART_PART else []


def _without(body: Any, values: list[_Value], apart: list[Any]) -> bytes:
    """Return a pickle without values, which are appended to `apart`.

    In place of each is the opcode by which pickle takes a buffer, whatever that is. Pickle would
    copy the value as well, but to memory of which the kernel gives it one page at a time.
    """
    view = memoryview(body)
    rest: list[bytes | memoryview] = []
    at = 0
    for opcode, start, end in values:
        rest += (view[at:opcode], pickle.NEXT_BUFFER)
        data = view[start:end]
        if view[opcode] == pickle.BYTEARRAY8[0]:
            apart.append(copied_to_new(bytearray, data))
        else:
            apart.append(copied_to_new(bytes, data))
        at = end
    return b"".join((*rest, view[at:]))


class _File:
    """The bytes of a pickle for an Unpickler, which takes no buffers."""

    def __init__(self, body: Any) -> None:
        self._rest = memoryview(body)

    def peek(self, size: int) -> memoryview:
        return self._rest[:size]

    def read(self, size: int) -> memoryview:
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def readinto(self, buffer: Any) -> int:
        size = len(buffer)
        data, self._rest = self._rest[:size], self._rest[size:]
        buffer[: len(data)] = data
        return len(data)

    def readline(self) -> memoryview:
        return self.read(bytes(self._rest).find(b"\n") + 1)

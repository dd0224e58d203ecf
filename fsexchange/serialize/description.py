"""What an object is, from its first bytes alone: nothing is unpickled, so no code of its runs."""

from __future__ import annotations

import contextlib
import math
import pickletools
import struct
import warnings
from typing import NamedTuple

import numpy as np

from fsexchange.serialize.crc import crc32
from fsexchange.serialize.format import (
    ALIGNMENT,
    BYTEARRAY,
    BYTES,
    CHECKSUM,
    MAGIC,
    MEMORYVIEW,
    NDARRAY,
    PICKLE,
    SMALL,
    SMALL_HEAD,
    SMALL_START,
    STR,
)
from fsexchange.serialize.npy import NPY_HEAD, NPY_MAGIC, npy_layout

#: So many bytes of an object tell all that can be told.
ENOUGH = NPY_HEAD

#: So many bytes tell its length.
HEAD = 32

_KINDS = {
    PICKLE: "pickle",
    SMALL: "pickle",
    BYTES: "bytes",
    BYTEARRAY: "bytearray",
    STR: "str",
    NDARRAY: "ndarray",
    MEMORYVIEW: "memoryview",
}
_HEAD = struct.Struct("<4sBBHQQII")


class Description(NamedTuple):
    """What the first bytes of an object tell."""

    type: str
    """`ndarray`, `npy` (an array in a `.npy` file), `bytes`, `bytearray`, `str`, `memoryview`,
    `pickle`, or `unknown`: not written by `serialize`."""
    of: str = ""
    """What a pickle is of, as far as its first instructions say."""
    whole: bool = True
    """Whether the object is as long as it says."""
    dtype: str = ""
    shape: tuple[int, ...] | None = None
    order: str = ""
    """`C` or `F`."""
    start: int = 0
    """Where the elements, bytes or text start, if the object consists of nothing else."""
    crc: int | None = None
    guarded: str = "nothing"
    """What the CRC-32 covers: `all`, `head` (all but the elements, bytes or text), or `nothing`."""


def total_length(head: bytes) -> int | None:
    """Return the length of an object by its first `HEAD` bytes; None if they do not tell."""
    if head.startswith(SMALL_START) and len(head) >= SMALL_HEAD:
        return SMALL_HEAD + int.from_bytes(head[16:20], "little")
    if head.startswith(MAGIC) and len(head) >= 16 and head[4] <= 2:
        return int.from_bytes(head[8:16], "little")
    return None


def describe(start: bytes, nbytes: int) -> Description:
    """Return what an object of `nbytes` bytes is that starts with `start`, its `ENOUGH` first."""
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is in a stranger's object
        if start.startswith(NPY_MAGIC):
            return _npy(start, nbytes)
        if start.startswith(SMALL_START) and nbytes >= SMALL_HEAD:
            body = start[SMALL_HEAD : SMALL_HEAD + int.from_bytes(start[12:16], "little")]
            crc = int.from_bytes(start[8:12], "little")
            whole = total_length(start) == nbytes
            return Description("pickle", _pickled(body), whole, crc=crc, guarded="all")
        if start.startswith(MAGIC) and nbytes >= HEAD and start[4] <= 2 and start[5] in _KINDS:
            return _frames(start, nbytes)
    return Description("unknown")  # damaged, or of another program, whatever numpy says of it


def _npy(start: bytes, nbytes: int) -> Description:
    shape, order, dtype, elements = npy_layout(memoryview(start))
    whole = elements + dtype.itemsize * math.prod(shape) == nbytes
    return Description("npy", "", whole, str(dtype), shape, order, elements)


def _frames(start: bytes, nbytes: int) -> Description:
    _, version, kind, flags, total, body_size, count, crc = _HEAD.unpack_from(start)
    at = HEAD + 8 * count
    if kind != PICKLE and not flags & CHECKSUM:  # nobody else verifies it: elements are copied
        _check_crc(start, at + body_size, crc)
    if version == 2:
        at += 8 * (2 + 2 * int.from_bytes(start[at : at + 8], "little"))
    body = start[at : at + body_size]
    everything = flags & CHECKSUM or (kind == PICKLE and not count and version == 1)
    told = Description(
        _KINDS[kind],
        whole=total == nbytes,
        crc=crc,
        guarded="all" if everything else "head",
    )
    if kind == PICKLE:
        return told._replace(of=_pickled(body))
    first = -(-(at + body_size) // ALIGNMENT) * ALIGNMENT
    if kind not in (NDARRAY, MEMORYVIEW):
        return told._replace(start=first)
    ndim = body[1]
    shape = struct.unpack_from(f"<{ndim}Q", body, 2)
    dtype = str(np.dtype(str(body[2 + 8 * ndim :], "ascii")))
    return told._replace(dtype=dtype, shape=shape, order=chr(body[0]), start=first)


def _check_crc(start: bytes, end: int, crc: int) -> None:
    if crc32(start[HEAD:end], crc32(start[: HEAD - 4])) != crc:
        raise ValueError("the head was changed")


def _pickled(body: bytes) -> str:
    """Return what a pickle makes, without making it: the name of a class, a function, or a type.

    Its instructions are followed with names in the place of objects. Of a pickle that goes on
    behind what was read, only what it began with is known.
    """
    stack: list[str] = []
    memo: list[str] = []
    with contextlib.suppress(ValueError, IndexError):  # it goes on, or is damaged
        for opcode, value, _ in pickletools.genops(body):
            name = opcode.name
            if name == "STOP":
                return _shown(stack[-1])
            if name == "MEMOIZE":
                memo.append(stack[-1])
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[int(str(value))])
            elif name == "STACK_GLOBAL":
                # Cut, as each of them could double a name.
                stack[-2:] = [".".join(part.removeprefix(_TEXT) for part in stack[-2:])[:_LONGEST]]
            elif "UNICODE" in name:
                stack.append(f"{_TEXT}{value}")
            else:
                _follow(opcode, stack)
    return _shown(stack[0]).replace(_MARK, "tuple") if stack else ""


def _follow(opcode: pickletools.OpcodeInfo, stack: list[str]) -> None:
    """Do to a stack of names what an instruction does to that of objects."""
    before = [item.name for item in opcode.stack_before]
    if "mark" in before:
        mark = len(stack) - 1 - stack[::-1].index(_MARK)
        first = mark - before.index("mark")
    else:
        first = len(stack) - len(before)
    taken = stack[first:]
    del stack[first:]
    for item in opcode.stack_after:
        made = item.name
        if opcode.name == "MARK":
            made = _MARK
        elif taken and opcode.name in _AS_FIRST:  # a call, or more for the object below
            made = taken[0]
        stack.append(made)


_TEXT, _MARK = "str ", "("

# Characters of a name.
_LONGEST = 80

_AS_FIRST = (
    *("REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD"),
    *("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "READONLY_BUFFER"),
)


def _shown(name: str) -> str:
    """Return a name from an untrusted pickle, fit for a terminal."""
    if name.startswith(_TEXT):
        return "str"
    return "".join(char if char.isprintable() else "?" for char in name[:_LONGEST])

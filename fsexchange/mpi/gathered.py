"""Gathered: several buffers as they lie in one memory, each aligned. This module needs no MPI."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate

from fsexchange.mpi.codec import Memory
from fsexchange.mpi.message import Pieces, joined
from fsexchange.serialize.format import ALIGNMENT


def starts_of(sizes: Sequence[int]) -> list[int]:
    """Return where in one memory the buffers start, and its length."""
    if len(sizes) == 1:
        return [0, sizes[0]]
    return [0, *accumulate([size + -size % ALIGNMENT for size in sizes])]


def rest(buffers: Sequence[Memory], starts: Sequence[int], at: int) -> Pieces:
    """Return the memory from a place in it on, in pieces."""
    pieces: Pieces = []
    for buffer, start, end in zip(buffers, starts, starts[1:], strict=False):
        if end > at:
            pieces.append(memoryview(buffer)[max(0, at - start) :])
            pieces.append(bytes(end - max(at, start + len(buffer))))
    return pieces


def copy(buffers: Sequence[Memory], starts: Sequence[int], into: memoryview) -> None:
    """Copy all buffers to where they start in a memory."""
    for buffer, start in zip(buffers, starts, strict=False):
        into[start : start + len(buffer)] = buffer


def cut(memory: memoryview, sizes: Sequence[int]) -> list[memoryview]:
    """Return the buffers that lie in a memory."""
    return [
        memory[start : start + size] for start, size in zip(starts_of(sizes), sizes, strict=False)
    ]


def packed(buffers: Sequence[Memory]) -> Memory:
    """Return one memory that says itself which buffers lie in it."""
    sizes = [len(each) for each in buffers]
    head = struct.pack(f"<{1 + len(sizes)}Q", len(sizes), *sizes)
    return joined([head, bytes(-len(head) % ALIGNMENT), *rest(buffers, starts_of(sizes), 0)])


def unpacked(memory: memoryview) -> list[memoryview]:
    """Return the buffers that `packed` has got."""
    (count,) = struct.unpack_from("<Q", memory)
    sizes = struct.unpack_from(f"<{count}Q", memory, 8)
    start = 8 + 8 * count
    return cut(memory[start + -start % ALIGNMENT :], sizes)

"""Batches of plain arrays of one shape and type, handled together, not one by one."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fsexchange.serialize.arrays import (
    ARRAY_OF,
    HEAD_OF,
    PLAIN_ARRAY,
    array_frames,
    is_plain,
    load_plain,
)
from fsexchange.serialize.format import ALIGNMENT, parse

if TYPE_CHECKING:
    import numpy.typing as npt

#: Where objects start, or how long they are, in bytes.
Ints: TypeAlias = "npt.NDArray[np.int64]"

_SHAPE = attrgetter("shape")
_CONTIGUOUS = attrgetter("flags.c_contiguous")


def common_head(objs: Sequence[Any]) -> bytes | None:
    """Return the head that `serialize` gives to each of several arrays, if all have the same one.

    Only the elements follow it. None if the heads differ, or if some object is not a plain array.
    """
    if set(map(type, objs)) != {np.ndarray}:
        return None
    dtype, shape = objs[0].dtype, objs[0].shape
    if dtype.isbuiltin != 1 or not all(
        [obj.dtype is dtype for obj in objs]  # noqa: C419  (a generator takes longer)
    ):
        return None
    if set(map(_SHAPE, objs)) != {shape}:
        return None
    if not all(map(_CONTIGUOUS, objs)):
        return None
    if (dtype, shape) not in HEAD_OF and is_plain(dtype):
        array_frames(objs[0], checksum=False)
    return HEAD_OF.get((dtype, shape))


def copies(memory: memoryview, begins: Ints, sizes: Ints) -> list[npt.NDArray[Any]] | None:
    """Return copies of arrays that lie at equal distances in memory, if all have the same head.

    None if they do not: there are objects of other kinds, or some were evicted.
    """
    steps = np.diff(begins)
    if not len(steps) or (steps != steps[0]).any() or (sizes != sizes[0]).any():
        return None
    begin, step = int(begins[0]), int(steps[0])
    head = bytes(memory[begin : begin + ALIGNMENT])
    if sizes[0] < ALIGNMENT or not head.startswith(PLAIN_ARRAY):
        return None
    if head not in ARRAY_OF:
        first = memory[begin : begin + int(sizes[0])]
        _, body, buffers, _, _ = parse(first)
        load_plain(first, body, buffers[0])
    known = ARRAY_OF.get(head)
    heads: npt.NDArray[np.uint8] = np.ndarray(
        (len(begins), ALIGNMENT), np.uint8, memory, begin, (step, 1)
    )
    if known is None or known[0] != sizes[0] or (heads != np.frombuffer(head, np.uint8)).any():
        return None
    one: npt.NDArray[Any] = np.ndarray(known[1], known[2], memory, begin + ALIGNMENT)
    if not one.ndim:
        return None
    strides = (step, *one.strides)
    every: npt.NDArray[Any] = np.ndarray(
        (len(begins), *one.shape), one.dtype, memory, begin + ALIGNMENT, strides
    )
    return list(map(np.ndarray.copy, every))

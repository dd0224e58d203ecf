"""Runs: the bytes of a part of an array that lie side by side in the file of the array."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

# Values that are to be copied, or have many runs, are taken in pieces of so many bytes.
_PIECE = 1 << 22

# In place of True and False, which are masks, and integers too.
_MASK: Any = None


def contiguous(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Return the strides of an array in C order."""
    return tuple(math.prod(shape[axis + 1 :]) * itemsize for axis in range(len(shape)))


class Part(NamedTuple):
    """Where the elements of a part lie among those of the whole, in bytes."""

    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, shape: tuple[int, ...], itemsize: int, index: Any) -> Part:
        """Return the part of an array in C order that an index means, of integers and slices.

        `IndexError` as numpy raises it, `TypeError` for an index of another kind.
        """
        given = list(index) if isinstance(index, tuple) else [index]
        dots = [n for n, each in enumerate(given) if each is Ellipsis]
        missing = len(shape) - len(given) + len(dots)
        if missing < 0 or len(dots) > 1:
            raise IndexError(f"{index!r} has more than the {len(shape)} axes of the array")
        at = dots[0] if dots else len(given)
        given[at : at + 1] = [slice(None)] * missing
        start, lengths, steps = 0, [], []
        for axis, (n, each, stride) in enumerate(
            zip(shape, given, contiguous(shape, itemsize), strict=True)
        ):
            if isinstance(each, slice):
                places = range(n)[each]
                start += places.start * stride if places else 0
                lengths.append(len(places))
                steps.append(places.step * stride)
                continue
            try:
                place = operator.index(_MASK if isinstance(each, bool) else each)
            except TypeError:
                raise TypeError(
                    f"an index of {type(each).__name__}: a part is given by integers, slices and "
                    "`...`; write what is given otherwise part by part"
                ) from None
            if not -n <= place < n:
                raise IndexError(f"index {place} is out of bounds for axis {axis} with size {n}")
            start += place % n * stride
        return cls(start, tuple(lengths), tuple(steps))

    def runs(
        self, values: npt.NDArray[Any], dtype: np.dtype[Any]
    ) -> Iterator[tuple[int, memoryview]]:
        """Yield the offset and the bytes of each run, if the part has these values.

        They have its shape, and are copied only if they are not contiguous, or of another dtype.
        """
        nbytes = values.size * dtype.itemsize
        if not nbytes:
            return
        start, shape, strides = self
        backwards = [axis for axis, stride in enumerate(strides) if stride < 0]
        if backwards:
            start += sum(strides[axis] * (shape[axis] - 1) for axis in backwards)
            strides = tuple(map(abs, strides))
            values = np.flip(values, tuple(backwards))
        run, length = len(shape), dtype.itemsize
        while run and (strides[run - 1] == length or shape[run - 1] == 1):
            run -= 1
            length *= shape[run]
        whole = run == 0 and values.dtype == dtype and values.flags.c_contiguous
        if nbytes > _PIECE and not whole:
            rows = _PIECE * shape[0] // nbytes
            for n in range(0, shape[0], rows or 1):
                piece = values[n : n + rows] if rows else values[n]
                of_piece = strides if rows else strides[1:]
                part = Part(start + n * strides[0], piece.shape, of_piece)
                yield from part.runs(piece, dtype)
            return
        data = np.ascontiguousarray(values, dtype).reshape(-1).view(np.uint8).data
        along = [np.arange(shape[axis]) * strides[axis] for axis in range(run)]
        offsets: Any = reduce(np.add.outer, along, np.array(start))
        for n, offset in enumerate(offsets.ravel().tolist()):
            yield offset, data[n * length : (n + 1) * length]

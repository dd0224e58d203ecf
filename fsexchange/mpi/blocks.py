"""Blocks: where the block of each rank lies in the file of one array, and how it gets there.

The file is a `.npy` (numpy.lib.format). Every rank makes the same plan from the same descriptions,
so blocks that do not fit together raise the same error everywhere. This module needs no MPI.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from fsexchange.connector.keys import FileKey
from fsexchange.serialize.npy import check_dtype, check_numbers, npy_header
from fsexchange.serialize.runs import Part, contiguous

if TYPE_CHECKING:
    from fsexchange.connector.connector import FileConnector

# Blocks whose runs have fewer bytes are first sent to ranks that write long runs: a system call for
# each short run would cost more.
_SHORT_RUN = 4096


class Block(NamedTuple):
    """The description of one rank's block, which the other ranks get."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    orders: tuple[bool, bool]
    """Whether its elements are in C order, and whether in Fortran order; some are in both."""
    axis: int
    offset: tuple[int, ...] | None
    whole: tuple[int, ...] | None


class Plan(NamedTuple):
    """The whole array, and where in it the block of each rank starts."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    offsets: list[tuple[int, ...]]
    blocks: list[tuple[int, ...]]
    """The shape of each rank's block."""

    @property
    def header(self) -> bytes:
        """The header of the `.npy` file."""
        return npy_header(self.dtype, self.shape, fortran=self.fortran)

    @property
    def nbytes(self) -> int:
        """Length of the elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    def block_nbytes(self, rank: int) -> int:
        """Length of a rank's block."""
        return math.prod(self.blocks[rank]) * self.dtype.itemsize

    def run(self, rank: int) -> tuple[int, int]:
        """Return the first axis of the runs of a rank's block, and the bytes of one run."""
        block, shape = self.in_file_order(self.blocks[rank]), self.in_file_order(self.shape)
        axis = len(shape) - 1
        while axis > 0 and block[axis] == shape[axis]:
            axis -= 1
        return axis, math.prod(block[axis:]) * self.dtype.itemsize

    def array_in(self, memory: Any) -> npt.NDArray[Any]:
        """Return the whole array, whose elements are in some memory."""
        order: Any = "F" if self.fortran else "C"
        return np.ndarray(self.shape, self.dtype, memory, order=order)

    def part_of(self, array: npt.NDArray[Any], rank: int) -> npt.NDArray[Any]:
        """Return the block of a rank in the whole array."""
        ends = zip(self.offsets[rank], self.blocks[rank], strict=True)
        part: npt.NDArray[Any] = array[tuple(slice(start, start + n) for start, n in ends)]
        return part

    def in_file_order(self, lengths: tuple[int, ...]) -> tuple[int, ...]:
        """Return the lengths of the axes, from the slowest to the fastest in the file."""
        return lengths[::-1] if self.fortran else lengths


def describe(
    block: npt.ArrayLike, axis: int, offset: Sequence[int] | None, shape: Sequence[int] | None
) -> Block:
    """Return the description of a block; `TypeError` or `ValueError` if it cannot be one."""
    check_numbers(block, "block")
    array = np.asarray(block)
    dtype = array.dtype
    check_dtype(dtype, "block", "use allgather, or another dtype")
    if array.ndim == 0:
        raise ValueError("a block without axes: make it block[np.newaxis]")
    if (offset is None) != (shape is None):
        raise ValueError("offset and shape come together: where the block is, and in what")
    orders = array.flags.c_contiguous, array.flags.f_contiguous
    if offset is None or shape is None:
        (along,) = _integers("axis", axis, [axis])
        if not -array.ndim <= along < array.ndim:
            raise ValueError(f"axis is {axis}, and the block has {array.ndim}")
        return Block(dtype, array.shape, orders, along % array.ndim, None, None)
    place, whole = _integers("offset", offset, offset), _integers("shape", shape, shape)
    if not len(place) == len(whole) == array.ndim:
        raise ValueError(
            f"the block has {array.ndim} axes, its offset {len(place)}, the shape {len(whole)}"
        )
    for start, length, end in zip(place, array.shape, whole, strict=True):
        if start < 0 or start + length > end:
            raise ValueError(f"a block of {array.shape} at {place} is not inside of {whole}")
    return Block(dtype, array.shape, orders, 0, place, whole)


def _integers(name: str, given: object, items: Sequence[int]) -> tuple[int, ...]:
    """Return the items as integers; `TypeError` for 0.9, which `int` would take."""
    try:
        return tuple(map(operator.index, items))
    except TypeError:
        raise TypeError(f"{name} is {given!r}, and takes integers") from None


def plan(blocks: Sequence[Block]) -> Plan:
    """Return how the blocks of all ranks lie in one array; `ValueError` if they do not fit."""
    first = blocks[0]
    for rank, block in enumerate(blocks):
        for what, one, other in (
            ("dtype", first.dtype, block.dtype),
            ("number of axes", len(first.shape), len(block.shape)),
            ("axis", first.axis, block.axis),
            ("shape of the whole", first.whole, block.whole),
        ):
            if one != other:
                raise ValueError(
                    f"the blocks differ in {what}: {one} on rank 0, {other} on rank {rank}"
                )
    shapes = [block.shape for block in blocks]
    if first.whole is None:
        whole, offsets = _along(first.axis, shapes)
    else:
        whole = first.whole
        offsets = [block.offset or () for block in blocks]
        _check_filled(whole, offsets, shapes)
    orders = [block.orders for block in blocks if math.prod(block.shape)]
    fortran = all(f for _, f in orders) and not all(c for c, _ in orders)
    return Plan(first.dtype, whole, fortran, offsets, shapes)


def _along(
    axis: int, shapes: list[tuple[int, ...]]
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    first = shapes[0]
    offsets = []
    end = 0
    for rank, shape in enumerate(shapes):
        if shape[:axis] != first[:axis] or shape[axis + 1 :] != first[axis + 1 :]:
            raise ValueError(
                f"the blocks differ in more than axis {axis}: {first} on rank 0, {shape} on rank "
                f"{rank}"
            )
        offsets.append((0,) * axis + (end,) + (0,) * (len(shape) - axis - 1))
        end += shape[axis]
    return (*first[:axis], end, *first[axis + 1 :]), offsets


def _check_filled(
    whole: tuple[int, ...], offsets: list[tuple[int, ...]], shapes: list[tuple[int, ...]]
) -> None:
    """Raise `ValueError` unless the blocks, all inside the whole, fill it without overlap."""
    starts = np.array(offsets)
    ends = starts + np.array(shapes)
    for rank in range(len(shapes) - 1):
        both = np.minimum(ends[rank], ends[rank + 1 :]) - np.maximum(
            starts[rank], starts[rank + 1 :]
        )
        overlapping = np.flatnonzero((both > 0).all(axis=1))
        if len(overlapping):
            other = rank + 1 + int(overlapping[0])
            raise ValueError(
                f"the blocks of ranks {rank} and {other} overlap: {shapes[rank]} at "
                f"{offsets[rank]}, {shapes[other]} at {offsets[other]}"
            )
    filled, needed = sum(map(math.prod, shapes)), math.prod(whole)
    if filled != needed:
        raise ValueError(f"the blocks fill {filled} of the {needed} elements of {whole}")


def slabs(plan: Plan) -> Plan | None:
    """Return a plan with slabs as blocks, which have longer runs; None if `plan` needs none.

    The ranks first exchange their blocks for slabs, by `cut` and `merge`: two-phase I/O, as in
    MPI-IO (Thakur, Gropp, Lusk 1999, "Data sieving and collective I/O in ROMIO").
    """
    ranks = range(len(plan.blocks))
    if not any(plan.run(rank)[1] < _SHORT_RUN <= plan.block_nbytes(rank) for rank in ranks):
        return None
    axes = range(len(plan.shape))
    long = [n for n in plan.in_file_order(tuple(axes)) if plan.shape[n] >= len(ranks)]
    if not long:
        return None  # otherwise a few ranks would have to hold the whole array
    slowest = long[0]
    cuts = [plan.shape[slowest] * rank // len(ranks) for rank in range(len(ranks) + 1)]
    offsets, blocks = [], []
    for start, end in pairwise(cuts):
        offsets.append(tuple(start if n == slowest else 0 for n in axes))
        blocks.append(tuple(end - start if n == slowest else plan.shape[n] for n in axes))
    made = plan._replace(offsets=offsets, blocks=blocks)
    longer = min(made.run(rank)[1] for rank in ranks) > min(plan.run(rank)[1] for rank in ranks)
    return made if longer else None


def cut(block: npt.ArrayLike, rank: int, plan: Plan, slabs: Plan) -> list[npt.NDArray[Any] | None]:
    """Return the piece of a rank's block that each rank writes, None if it writes none of it."""
    array = np.asarray(block)
    common = [_common(plan, rank, slabs, other) for other in range(len(slabs.blocks))]
    return [None if place is None else array[place[0]] for place in common]


def merge(
    pieces: Sequence[npt.NDArray[Any] | None], rank: int, plan: Plan, slabs: Plan
) -> npt.NDArray[Any]:
    """Return the slab of a rank, made from the pieces that all ranks have cut for it."""
    order: Any = "F" if plan.fortran else "C"
    slab: npt.NDArray[Any] = np.empty(slabs.blocks[rank], plan.dtype, order=order)
    for other, piece in enumerate(pieces):
        place = _common(plan, other, slabs, rank)
        if place is not None:
            slab[place[1]] = piece
    return slab


_Slices: TypeAlias = "tuple[slice, ...]"


def _common(one: Plan, rank: int, other: Plan, its_rank: int) -> tuple[_Slices, _Slices] | None:
    """Return the part that two blocks have in common, as slices of each; None if it is empty."""
    of_one, of_other = [], []
    for start, length, its_start, its_length in zip(
        one.offsets[rank],
        one.blocks[rank],
        other.offsets[its_rank],
        other.blocks[its_rank],
        strict=True,
    ):
        first = max(start, its_start)
        last = min(start + length, its_start + its_length)
        if first >= last:
            return None
        of_one.append(slice(first - start, last - start))
        of_other.append(slice(first - its_start, last - its_start))
    return tuple(of_one), tuple(of_other)


def create(connector: FileConnector, plan: Plan) -> FileKey:
    """Create the file of the whole array, with all elements zero, and return its key."""
    return connector.reserve(plan.header, len(plan.header) + plan.nbytes)


def runs(plan: Plan, rank: int, block: npt.ArrayLike, at: int) -> Iterator[tuple[int, memoryview]]:
    """Yield where the runs of a rank's block are, if the array starts at `at`, and their bytes."""
    array = np.asarray(block)
    if array.nbytes:
        shape, offset = plan.in_file_order(plan.shape), plan.in_file_order(plan.offsets[rank])
        strides = contiguous(shape, plan.dtype.itemsize)
        first = sum(n * stride for n, stride in zip(offset, strides, strict=True))
        part = Part(first + at, plan.in_file_order(array.shape), strides)
        yield from part.runs(array.T if plan.fortran else array, plan.dtype)

"""One array of many ranks' blocks: where each block lies, and how it comes into the file.

The file is a `.npy` (numpy.lib.format). Plans are made by every rank alike from the same
descriptions, so whatever does not fit together is the same error everywhere.
"""

from __future__ import annotations

import io
import math
import mmap
import os
from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fsexchange.keys import FileKey

if TYPE_CHECKING:
    from fsexchange.connector import FileConnector

# Pieces of a row shorter than this, in bytes, are stored through a mapping where the file system
# has a page cache of its own: a system call each would cost more than the copy.
_SHORT_RUN = 4096

_npy: Any = np.lib.format  # not typed before numpy 2.3


class Block(NamedTuple):
    """What one rank tells the others of its block."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    orders: tuple[bool, bool]
    """Whether its elements are in C order, and whether in Fortran order; some are in both."""
    axis: int
    offset: tuple[int, ...] | None
    whole: tuple[int, ...] | None


class Plan(NamedTuple):
    """The whole array, and where in it the block of each rank begins."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    offsets: list[tuple[int, ...]]
    blocks: list[tuple[int, ...]]
    """The shape of each rank's block."""

    @property
    def header(self) -> bytes:
        """The begin of the `.npy` file; a multiple of 64 bytes."""
        file = io.BytesIO()
        fields = {
            "descr": _npy.dtype_to_descr(self.dtype),
            "fortran_order": self.fortran,
            "shape": self.shape,
        }
        try:
            _npy.write_array_header_1_0(file, fields)
        except ValueError:  # longer than 64 KiB
            file = io.BytesIO()
            _npy.write_array_header_2_0(file, fields)
        return file.getvalue()

    @property
    def nbytes(self) -> int:
        """Length of the elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    def run(self, rank: int) -> tuple[int, int]:
        """Return from which axis on a rank's block is contiguous in the file, and its bytes."""
        block, shape = self.in_file_order(self.blocks[rank]), self.in_file_order(self.shape)
        axis = len(shape) - 1
        while axis > 0 and block[axis] == shape[axis]:
            axis -= 1
        return axis, math.prod(block[axis:]) * self.dtype.itemsize

    def in_file_order(self, lengths: tuple[int, ...]) -> tuple[int, ...]:
        """Return the axes from the slowest to the fastest in the file."""
        return lengths[::-1] if self.fortran else lengths


def describe(
    block: npt.ArrayLike, axis: int, offset: Sequence[int] | None, shape: Sequence[int] | None
) -> Block:
    """Return what the others need to know of a block; `TypeError`, `ValueError` if it is none."""
    if isinstance(block, np.ma.MaskedArray):
        raise TypeError("a block with a mask: a .npy file has none; fill it first: block.filled()")
    array = np.asarray(block)
    dtype = array.dtype
    if dtype.hasobject:
        raise TypeError(f"a block of Python objects ({dtype}): use allgather, or another dtype")
    if _npy.descr_to_dtype(_npy.dtype_to_descr(dtype)) != dtype:
        raise TypeError(f"a block of dtype {dtype}, which a .npy file cannot say")
    if array.ndim == 0:
        raise ValueError("a block without axes: make it block[np.newaxis]")
    if (offset is None) != (shape is None):
        raise ValueError("offset and shape come together: where the block is, and in what")
    orders = array.flags.c_contiguous, array.flags.f_contiguous
    if offset is None or shape is None:
        if not -array.ndim <= axis < array.ndim:
            raise ValueError(f"axis is {axis}, and the block has {array.ndim}")
        return Block(dtype, array.shape, orders, axis % array.ndim, None, None)
    place, whole = tuple(map(int, offset)), tuple(map(int, shape))
    if not len(place) == len(whole) == array.ndim:
        raise ValueError(
            f"the block has {array.ndim} axes, its offset {len(place)}, the shape {len(whole)}"
        )
    for begin, length, end in zip(place, array.shape, whole, strict=True):
        if begin < 0 or begin + length > end:
            raise ValueError(f"a block of {array.shape} at {place} is not inside of {whole}")
    return Block(dtype, array.shape, orders, 0, place, whole)


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
    """Raise `ValueError` unless the blocks, which are inside of the whole, fill it once."""
    begins = np.array(offsets)
    ends = begins + np.array(shapes)
    for rank in range(len(shapes) - 1):
        both = np.minimum(ends[rank], ends[rank + 1 :]) - np.maximum(
            begins[rank], begins[rank + 1 :]
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


def create(connector: FileConnector, plan: Plan) -> FileKey:
    """Make the file of the whole array, its elements still zero, and return its key."""
    header = plan.header
    key = connector.put(header)
    path = connector.path(key)
    end = len(header) + plan.nbytes
    try:
        if _any_short(plan) and not connector.policy.network:
            # The room must be there before it is stored to through a mapping: SIGBUS else.
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.posix_fallocate(fd, 0, end)
            finally:
                os.close(fd)
        else:
            os.truncate(path, end)
    except OSError as error:
        connector.evict(key)
        raise connector.directory.explain(error, "write", path) from error
    return FileKey(key.filename, end)


def write(
    connector: FileConnector, key: FileKey, plan: Plan, rank: int, block: npt.ArrayLike
) -> None:
    """Write the block of a rank into its place; other ranks may write theirs at the same time."""
    array = np.asarray(block)
    if array.nbytes == 0:
        return
    path = connector.path(key)
    short = _any_short(plan) and not connector.policy.network
    # Mapped memory that is shared must be readable, too: mmap(2).
    fd = -1
    try:
        fd = os.open(path, (os.O_RDWR if short else os.O_WRONLY) | os.O_CLOEXEC)
        try:
            if short:
                _store(fd, key.nbytes, plan, rank, array)
            else:
                _write(fd, key.nbytes - plan.nbytes, plan, rank, array)
        finally:
            os.close(fd)  # checked: where NFS and quotas report what was not written
    except OSError as error:
        raise connector.directory.explain(error, "write", path) from error


def _any_short(plan: Plan) -> bool:
    return any(
        plan.run(rank)[1] < _SHORT_RUN and math.prod(block) * plan.dtype.itemsize >= _SHORT_RUN
        for rank, block in enumerate(plan.blocks)
    )


def _store(fd: int, end: int, plan: Plan, rank: int, array: npt.NDArray[Any]) -> None:
    """Store a block through a shared mapping of the file."""
    with mmap.mmap(fd, end) as mapping:
        order: Any = "F" if plan.fortran else "C"
        whole: npt.NDArray[Any] = np.ndarray(
            plan.shape, plan.dtype, buffer=mapping, offset=end - plan.nbytes, order=order
        )
        place = zip(plan.offsets[rank], array.shape, strict=True)
        whole[tuple(slice(begin, begin + length) for begin, length in place)] = array
        del whole


def _write(fd: int, begin: int, plan: Plan, rank: int, array: npt.NDArray[Any]) -> None:
    """Write a block, run by run; strided ones are copied once."""
    axis, nbytes = plan.run(rank)
    array = np.ascontiguousarray(array.T if plan.fortran else array)
    data = array.reshape(-1).view(np.uint8).data
    shape, offset = plan.in_file_order(plan.shape), plan.in_file_order(plan.offsets[rank])
    strides = [math.prod(shape[n + 1 :]) * plan.dtype.itemsize for n in range(len(shape))]
    first = begin + sum(n * stride for n, stride in zip(offset, strides, strict=True))
    runs = [np.arange(array.shape[n]) * strides[n] for n in range(axis)]
    positions: Any = reduce(np.add.outer, runs, np.array(first))
    for n, position in enumerate(positions.ravel().tolist()):
        rest = data[n * nbytes : (n + 1) * nbytes]
        while rest:
            written = os.pwrite(fd, rest, position)  # at most 0x7ffff000 bytes a call: write(2)
            rest = rest[written:]
            position += written

"""Batches of keys, checked and grouped by the file that their objects are in."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import repeat
from typing import NamedTuple

import numpy as np

from fsexchange.connector.geometry import UNIT, Geometry, Ints, all_units_for
from fsexchange.connector.keys import FileKey, checked, segment_geometry


class Group(NamedTuple):
    """Objects of one segment: their numbers in a batch, where they start, and how long they are."""

    filename: str
    numbers: Ints
    offsets: Ints
    sizes: Ints


class Batch(NamedTuple):
    """The keys of a batch, every one of them checked."""

    own: list[tuple[int, FileKey]]
    """The numbers and keys of the objects that have their own files."""
    groups: list[Group]


def keys_in_segment(name: str, sizes: Sequence[int]) -> list[FileKey]:
    """Return the keys of objects of `sizes` bytes in a new segment, whose name starts with `name`.

    They lie in it one after the other, with `padding` after each.
    """
    units = all_units_for(np.array(sizes))
    ends = np.cumsum(units)
    geometry = Geometry(int(ends[-1]))
    starts = (geometry.start + UNIT * (ends - units)).tolist()
    rows = zip(repeat(f"{name}.{geometry.units}"), sizes, starts)
    return list(map(partial(tuple.__new__, FileKey), rows))


def grouped(keys: Sequence[FileKey]) -> Batch:
    """Return the keys of a batch; those of one segment are checked all at once.

    `InvalidKeyError` for the first that is not a valid key.
    """
    if not keys:
        return Batch([], [])
    columns = _columns(keys)
    if columns is None:  # find the one that is wrong, or convert ints of other types
        keys = [checked(key) for key in keys]
        columns = _columns(keys)
        assert columns is not None
    by_name, offsets, sizes = columns
    batch = Batch([], [])
    for filename, numbers in by_name.items():
        if keys[numbers[0]].offset:
            geometry = segment_geometry(filename)
            group = Group(filename, np.array(numbers), offsets[numbers], sizes[numbers])
            if geometry is not None and geometry.holds_all(group.offsets, group.sizes):
                batch.groups.append(group)
                continue
        batch.own.extend((n, checked(keys[n])) for n in numbers)
    return batch


def _columns(keys: Sequence[FileKey]) -> tuple[dict[str, list[int]], Ints, Ints] | None:
    """Return the numbers of the keys by file name, and their offsets and sizes.

    None unless all keys, and all their fields, have the types that they should have.
    """
    if set(map(type, keys)) != {FileKey}:
        return None
    names, nbytes, starts = zip(*keys, strict=True)
    if set(map(type, names)) != {str}:
        return None
    try:
        offsets, sizes = np.array(starts), np.array(nbytes)
    except ValueError:  # lists of several lengths
        return None
    if not (offsets.dtype == sizes.dtype == np.int64 and offsets.ndim == sizes.ndim == 1):
        return None
    by_name: dict[str, list[int]] = {}
    if len(set(names)) == 1:
        by_name[names[0]] = list(range(len(keys)))
    else:
        for n, name in enumerate(names):
            by_name.setdefault(name, []).append(n)
    return by_name, offsets, sizes

"""Blocks of many ranks make one array: where they go, how they get there, and who may read it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fsexchange import FileConnector
from fsexchange.mpi.blocks import create, cut, describe, merge, plan, runs, slabs
from fsexchange.serialize import deserialize

from .jobs import all_pass, needs_mpi, passes
from .processes import needs_room


@needs_mpi
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_on_every_rank(n: int, shm_dir: Path) -> None:
    bodies = [
        "like_concatenate",
        "decompositions",
        "mismatches",
        "of_many_pages",
        "pages_that_are_read",
    ]
    all_pass(n, "blocks", bodies, shm_dir)


@needs_mpi
def test_written_by_four_and_read_by_three(tmp_path: Path) -> None:
    passes(4, "blocks", "put_for_later", tmp_path)
    passes(3, "blocks", "read_later", tmp_path)


@needs_mpi
@pytest.mark.wide
def test_a_host_holds_one_copy(shm_dir: Path) -> None:
    needs_room(shm_dir, 2)
    out = passes(4, "blocks", "memory_of_a_host", shm_dir)
    print(out)
    ours = re.findall(r"fsexchange \w+: ([0-9.]+) copies", out)
    theirs = re.findall(r"mpi4py allgather: ([0-9.]+) copies", out)
    assert len(ours) == 2
    assert all(float(copies) < 1.1 for copies in ours)
    assert float(theirs[0]) > 3.5


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("rows", [1, 5_000])
def test_blocks_in_one_process(order: Any, rows: int, base_dir: Path) -> None:
    """On every file system to be tested; thin columns are first put together to long rows."""
    whole = np.arange(rows * 30.0).reshape(rows, 30)
    parts = [np.array(part, order=order) for part in np.array_split(whole, 4, axis=1)]
    with FileConnector(base_dir / "store") as connector:
        made = plan([describe(part, 1, None, None) for part in parts])
        long = slabs(made)
        assert (long is None) == (rows == 1 or order == "F")
        if long is not None:
            sent = [cut(part, n, made, long) for n, part in enumerate(parts)]
            parts = [merge([row[n] for row in sent], n, made, long) for n in range(4)]
            made = long
        key = create(connector, made)
        for n, part in reversed(list(enumerate(parts))):
            connector.fill(key, runs(made, n, part, key.nbytes - made.nbytes))
        data = connector.get(key)
        assert data is not None
        assert np.array_equal(deserialize(data), whole)
        assert np.array_equal(np.load(connector.path(key)), whole)


class Metres(np.ndarray[Any, Any]):
    """As astropy's and unyt's arrays are."""


class Quantity:
    """As pint's is."""

    units = "metre"

    def __array__(self, dtype: Any = None, copy: Any = None) -> npt.NDArray[Any]:
        return np.ones(3)


@pytest.mark.parametrize(
    "block",
    [
        np.ma.masked_equal([1.0, 2.0], 2.0),
        np.ones(3).view(Metres),
        np.ones(3).view(np.recarray),
        Quantity(),
    ],
    ids=lambda block: type(block).__name__,
)
def test_units_and_masks_are_not_dropped(block: Any) -> None:
    with pytest.raises(TypeError, match=type(block).__name__):
        describe(block, 0, None, None)


def test_blocks_that_are_their_numbers(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(3))
    zero: Any = np.int64(0)
    place: Any = np.array([2])
    for block in ([1.0, 2.0, 3.0], range(3), np.load(tmp_path / "a.npy", mmap_mode="r")):
        assert describe(block, zero, None, None).shape == (3,)
        assert describe(block, 0, place, (5,)).offset == (2,)


@pytest.mark.parametrize(
    ("axis", "offset", "shape", "what"),
    [
        (0.5, None, None, "axis is 0.5"),
        (0, [0.9], [3], r"offset is \[0.9\]"),
        (0, [0], [3.5], r"shape is \[3.5\]"),
        (0, 0, 3, "offset is 0"),
        (0, ["0"], [3], "offset is"),
    ],
)
def test_places_are_integers(axis: Any, offset: Any, shape: Any, what: str) -> None:
    with pytest.raises(TypeError, match=what):
        describe(np.ones(3), axis, offset, shape)

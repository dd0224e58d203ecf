"""Blocks of many ranks make one array: where they go, how they get there, and who may read it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fsexchange import FileConnector
from fsexchange.mpi.blocks import create, cut, describe, merge, plan, slabs, write
from fsexchange.serialize import deserialize

from .jobs import needs_mpi, passes
from .processes import needs_room


@needs_mpi
@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "body",
    [
        "like_concatenate",
        "decompositions",
        "mismatches",
        "of_many_pages",
        "pages_that_are_read",
    ],
)
def test_on_every_rank(body: str, n: int, shm_dir: Path) -> None:
    passes(n, "blocks", body, shm_dir)


@needs_mpi
def test_written_by_four_and_read_by_three(tmp_path: Path) -> None:
    passes(4, "blocks", "put_for_later", tmp_path)
    passes(3, "blocks", "read_later", tmp_path)


@needs_mpi
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
            write(connector, key, made, n, part)
        data = connector.get(key)
        assert data is not None
        assert np.array_equal(deserialize(data), whole)
        assert np.array_equal(np.load(connector.path(key)), whole)

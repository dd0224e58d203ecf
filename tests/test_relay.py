"""What the first ranks of hosts pass on at a time."""

from __future__ import annotations

import numpy as np
import pytest

from fsexchange.mpi.relay import _PIECE, _cut


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(8, 400, 600), (1, 900, 900), (2, 2, 700_000), (2, 3, 4)])
def test_a_part_is_cut_into_pieces_of_no_more_than_so_many_bytes(
    shape: tuple[int, int, int], axis: int
) -> None:
    """Copies of some pieces are held at a time, and MPI takes no more than 2 GiB."""
    whole = np.zeros(shape, "f4")
    part = np.split(whole, [shape[axis] // 2], axis)[1]
    pieces = [*_cut(part)]
    assert max(piece.nbytes for piece in pieces) <= _PIECE
    assert sum(piece.nbytes for piece in pieces) == part.nbytes
    for piece in pieces:
        piece.fill(1)
    assert np.count_nonzero(part) == np.count_nonzero(whole) == part.size

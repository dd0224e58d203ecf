"""Damaged bytes are a documented error, at no cost; a million mutations were tried by hand."""

from __future__ import annotations

import collections
import io
import random
import tracemalloc
from typing import Any

import numpy as np
import pytest

from fsexchange import CorruptObjectError, SerializationError
from fsexchange.serialize import deserialize, dumps


def npy(array: Any, version: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=version)
    return file.getvalue()


OBJECTS: list[Any] = [
    np.arange(100.0),
    np.arange(12.0).reshape(3, 4).T,
    np.zeros((3, 4), "M8[ns]"),
    b"x" * 3000,
    bytearray(2000),
    "naïve" * 600,
    None,
    {"a": [1, 2, 3], "b": "c" * 300},
    collections.OrderedDict(a=1),
    [np.arange(1000.0), np.arange(50)],
    [bytes(70_000), "x" * 70_000],
    np.arange(10.0).data,
    np.ma.MaskedArray(np.arange(200.0), mask=np.arange(200) % 3 == 0),
    lambda: 1,
]
WHOLE = [dumps(obj, checksum=checksum) for obj in OBJECTS for checksum in (False, True)]
WHOLE += [npy(np.arange(12).reshape(3, 4), (1, 0)), npy(np.zeros(3, "i4,f8"), (2, 0))]


def damage(rng: random.Random, data: bytearray) -> None:
    if not data:
        return
    place = rng.randrange(len(data) if rng.random() < 0.3 else min(len(data), 160))
    part = rng.randrange(1, 40)
    other = rng.choice(WHOLE)
    change = rng.randrange(5)
    if change == 0:
        data[place] ^= 1 << rng.randrange(8)
    elif change == 1:
        data[place] = rng.choice((0, 1, 127, 128, 255))
    elif change == 2:
        del data[place : place + part]
    elif change == 3:
        data[place:place] = rng.randbytes(part)
    else:
        data[place : place + part] = other[place % len(other) :][:part]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("seed", range(5))
def test_mutated_objects_are_documented_errors(seed: int) -> None:
    rng = random.Random(seed)
    tracemalloc.start()
    try:
        for _ in range(200):
            data = bytearray(rng.choice(WHOLE))
            for _ in range(rng.choice((1, 1, 2, 5))):
                damage(rng, data)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                deserialize(data)
            except (CorruptObjectError, SerializationError):
                pass
            assert tracemalloc.get_traced_memory()[1] - before < 3 * len(data) + 500_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("place", "byte"), [(11, 0x28), (14, 0x0A), (60, 0x22), (8, 0xFF)])
def test_damaged_header_of_npy(place: int, byte: int) -> None:
    data = bytearray(npy(np.arange(12), (1, 0)))
    data[place] = byte
    with pytest.raises((CorruptObjectError, SerializationError)):
        deserialize(data)


def test_text_that_is_no_text() -> None:
    data = bytearray(dumps("x" * 5000))
    data[-7] = 0xFF
    with pytest.raises(CorruptObjectError, match="the text was changed"):
        deserialize(data)

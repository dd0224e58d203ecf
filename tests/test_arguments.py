"""Arguments of tasks: a file is given again only for what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fsexchange.connector.connector import FileConnector
from fsexchange.connector.keys import FileKey
from fsexchange.pools.arguments import Arguments


class Unmapped(FileConnector):
    """As on a file system whose files cannot be mapped."""

    def maps(self, nbytes: int) -> bool:
        return False


class Beset(FileConnector):
    """Another thread writes to what is put as soon as that is in the file."""

    def put(self, obj: Any, **options: Any) -> FileKey:
        key = super().put(obj, **options)
        np.frombuffer(obj[0], np.uint8)[:] += 1
        return key


class UnmappedBeset(Unmapped, Beset):
    pass


class Cramped(FileConnector):
    """No memory is left to compare with."""

    def get(self, key: Any, default: Any = None, /) -> Any:
        raise MemoryError


@pytest.fixture(params=[1 << 20, 1 << 23])  # the kernel is asked about the second
def array(request: pytest.FixtureRequest) -> Any:
    return np.ones(request.param, np.uint8)


@pytest.mark.parametrize("kind", [FileConnector, Unmapped])
def test_what_is_the_same_is_written_once(
    kind: type[FileConnector], array: Any, shm_dir: Path
) -> None:
    with kind(shm_dir / "store") as connector:
        arguments = Arguments(connector)
        keys = {arguments.add(array.data) for _ in range(4)}
        assert len(keys) == 1
        array[-1] = 2
        keys |= {arguments.add(array.data) for _ in range(4)}
        assert len(keys) == 2
        arguments.release([key for key in keys for _ in range(4)])
        assert not any(map(connector.exists, keys))
        arguments.close()


@pytest.mark.parametrize("kind", [Beset, UnmappedBeset])
def test_a_write_during_the_first_submit_is_seen_by_the_second(
    kind: type[FileConnector], array: Any, shm_dir: Path
) -> None:
    with kind(shm_dir / "store") as connector:
        arguments = Arguments(connector)
        for _ in range(4):
            now = array.tobytes()
            got = connector.get(arguments.add(array.data))
            assert got is not None
            assert bytes(got) == now
        arguments.close()


def test_without_memory_it_is_written_again(array: Any, shm_dir: Path) -> None:
    with Cramped(shm_dir / "store") as connector:
        arguments = Arguments(connector)
        keys = [arguments.add(array.data) for _ in range(3)]
        assert len(set(keys)) == 3
        arguments.release(keys)
        assert not any(map(connector.exists, keys))
        arguments.close()

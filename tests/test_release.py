"""What the kernel gave goes back with the object that stands for it, however that goes."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path

import pytest

from fsexchange.filesystem.release import Releases

_close = ctypes.CDLL(None, use_errno=True).close
_close.argtypes = [ctypes.c_int, ctypes.py_object]


class Owner:
    """What may own something."""


def opened(releases: Releases, path: Path) -> tuple[Owner, int]:
    owner, fd = Owner(), ctypes.c_int(-1)
    releases.add(owner, _close, fd)
    (fd.value,) = map(os.open, (path,), (os.O_RDONLY,))
    return owner, fd.value


def is_open(fd: int) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


@pytest.mark.parametrize("cyclic", [False, True], ids=["dropped", "in a cycle"])
def test_released_with_its_object(cyclic: bool, tmp_path: Path) -> None:
    releases = Releases()
    owner, fd = opened(releases, tmp_path)
    other, kept = opened(releases, tmp_path)
    if cyclic:
        owner.me = owner  # type: ignore[attr-defined]
    assert len(releases) == 2
    assert is_open(fd)
    del owner
    gc.collect()
    assert len(releases) == 1
    assert not is_open(fd)
    assert is_open(kept)
    del other
    assert len(releases) == 0
    assert not is_open(kept)


def test_what_was_never_got_is_not_released(tmp_path: Path) -> None:
    releases = Releases()
    with pytest.raises(FileNotFoundError):
        opened(releases, tmp_path / "missing")
    gc.collect()
    assert len(releases) == 0

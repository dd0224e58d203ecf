"""Whole files from buffers of any kind and number, and back."""

from __future__ import annotations

import os
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fsexchange import CorruptObjectError
from fsexchange.filesystem import files

from .processes import lacking, needs_room, python, strace

STRIDED = memoryview(bytes(range(100)))[::3]
SQUARE = np.arange(12, dtype="<i4").reshape(3, 4)


def write(path: Path, obj: Any) -> int:
    pieces, nbytes = files.flatten(obj)
    files.create(str(path), pieces, nbytes)
    return nbytes


@pytest.mark.parametrize(
    ("obj", "content"),
    [
        (b"", b""),
        (b"bytes", b"bytes"),
        (bytearray(b"bytearray"), b"bytearray"),
        (memoryview(b"read-only"), b"read-only"),
        (STRIDED, STRIDED.tobytes()),
        (memoryview(b"")[::2], b""),
        (array("d", [1.5, 2.5]), array("d", [1.5, 2.5]).tobytes()),
        (SQUARE, SQUARE.tobytes()),
        (SQUARE.T, SQUARE.T.tobytes()),  # Fortran order
        (SQUARE[:, ::2], SQUARE[:, ::2].tobytes()),
        (np.zeros((0, 3)), b""),
        (np.float64(1.5), np.float64(1.5).tobytes()),
        (np.zeros(2, "i4,f8").data, bytes(24)),
        ([], b""),
        ([b"", b""], b""),
        ([b"a", bytearray(b"b"), memoryview(b"xcx")[1:2]], b"abc"),
        ((b"tu", b"ple"), b"tuple"),
        ([STRIDED, SQUARE.T, b"end"], STRIDED.tobytes() + SQUARE.T.tobytes() + b"end"),
        ([b"%d," % i for i in range(5000)], b"".join(b"%d," % i for i in range(5000))),
    ],
)
def test_file_holds_the_bytes_of_any_buffers(obj: Any, content: bytes, tmp_path: Path) -> None:
    assert write(tmp_path / "x", obj) == len(content)
    assert (tmp_path / "x").read_bytes() == content
    assert files.read(str(tmp_path / "x")) == content
    assert files.read(str(tmp_path / "x"), len(content)) == content
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("obj", ["text", 7, None, ["text"], [b"x", None], np.array(["2020"], "M8")])
def test_what_has_no_bytes_is_a_type_error(obj: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="serialize"):
        write(tmp_path / "x", obj)
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_more_than_two_gib_in_one_buffer_and_in_many(shm_dir: Path) -> None:
    """One writev moves 0x7ffff000 bytes at the most: writev(2)."""
    needs_room(shm_dir, 6)
    python("write_beyond_two_gib", shm_dir / "x")


def test_file_is_not_created_over_another(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        write(tmp_path / "x", b"other")
    assert (tmp_path / "x").read_bytes() == b"mine"


def test_write_stopped_by_the_file_size_limit_leaves_no_file(tmp_path: Path) -> None:
    """EFBIG comes after a short write, as ENOSPC does."""
    python("write_beyond_a_limit", tmp_path / "x")


@pytest.mark.parametrize(
    ("faults", "outcome"),
    [
        (["pwritev,pwritev2:error=ENOSPC"], "ENOSPC False"),
        (["pwritev,pwritev2:error=ENOSPC", "unlink:error=EIO"], "ENOSPC True"),
        (
            ["pwritev,pwritev2:error=ENOSPC", "close:error=EIO", "close_range:error=EIO"],
            "ENOSPC False",
        ),
        (["close:error=EDQUOT:when=1"], "EDQUOT False"),
        (["close:error=EDQUOT:when=1", "unlink:error=EIO"], "EDQUOT True"),
        (["close:error=EIO:when=2+"], "created\nb'content' b'on'"),
        (["readv:error=ESTALE", "close:error=EIO:when=2+"], "created\nESTALE"),
    ],
)
def test_first_error_wins_and_none_of_cleaning_up_counts(
    faults: list[str], outcome: str, tmp_path: Path
) -> None:
    options = [word for fault in faults for word in ("-e", f"inject={fault}")]
    tracer = strace("-qq", "-o", "/dev/null", "-P", str(tmp_path / "x"), *options)
    assert python("create_and_read", tmp_path / "x", before=tracer).stdout.strip() == outcome


def test_interrupted_write_leaves_no_file(shm_dir: Path) -> None:
    """Ctrl-C while the kernel copies half a gigabyte."""
    python("interrupt_a_write", shm_dir / "x")


@pytest.mark.parametrize("size", [0, 1, 1000, (1 << 16) - 1, 1 << 16, 1 << 20, (1 << 20) + 1])
@pytest.mark.parametrize("mappable", [True, False])
def test_read_gives_a_writable_buffer_of_ones_own(
    size: int, mappable: bool, tmp_path: Path
) -> None:
    content = os.urandom(size)
    write(tmp_path / "x", content)
    got = files.read(str(tmp_path / "x"), size, mappable=mappable)
    assert got == content
    memoryview(got)[:] = bytes(size)
    assert (tmp_path / "x").read_bytes() == content
    assert files.read(str(tmp_path / "x"), mappable=mappable) == content


@pytest.mark.parametrize("size", [10, 70_000, 2 << 20])
@pytest.mark.parametrize("delta", [-1, 1])
def test_another_length_than_expected_is_an_error(size: int, delta: int, tmp_path: Path) -> None:
    write(tmp_path / "x", bytes(size))
    with pytest.raises(CorruptObjectError) as caught:
        files.read(str(tmp_path / "x"), size + delta)
    assert (caught.value.expected, caught.value.actual) == (size + delta, size)
    assert caught.value.path == str(tmp_path / "x")


def test_mapping_holds_no_file_descriptor_and_ends_with_its_last_view(tmp_path: Path) -> None:
    write(tmp_path / "x", bytes(1 << 20))
    before = len(os.listdir("/proc/self/fd"))
    views = [files.read(str(tmp_path / "x")) for _ in range(50)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert Path("/proc/self/maps").read_text().count(str(tmp_path / "x")) == 50
    array_of_one = np.frombuffer(views[0], np.uint8)[5:10]
    views.clear()
    assert Path("/proc/self/maps").read_text().count(str(tmp_path / "x")) == 1
    assert array_of_one.sum() == 0
    del array_of_one
    assert str(tmp_path / "x") not in Path("/proc/self/maps").read_text()


def test_a_kernel_that_maps_no_more_makes_it_read(shm_dir: Path) -> None:
    """vm.max_map_count is 65530 by default; without maps a process gets no memory at all."""
    limit = int(Path("/proc/sys/vm/max_map_count").read_text())
    if limit > 200_000:
        lacking("a vm.max_map_count small enough to be reached")
    write(shm_dir / "x", b"\x01" * (1 << 20))
    python("use_up_mappings", shm_dir / "x", str(limit))


def test_larger_than_memory_is_mapped(shm_dir: Path) -> None:
    python("get_more_than_memory", shm_dir / "store")

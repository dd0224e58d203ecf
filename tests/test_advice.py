"""What an error says and advises is true of the situation in which it is raised."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fsexchange import (
    CorruptObjectError,
    FileConnector,
    FileKey,
    MissingObjectError,
    StoreClosedError,
    StoreError,
)

from .processes import python, strace, unprivileged


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("/proc/no-such", "No such file or directory; this path, or one that it leads through"),
        ("to-nowhere/store", "No such file or directory; this path, or one that it leads through"),
        ("circle/store", "choose a path without them"),
        ("x" * 300, "choose a shorter path"),
        ("file/store", "a part of the path is a file"),
    ],
    ids=["no place for it", "link to nowhere", "circle of links", "long name", "in a file"],
)
def test_directory_that_cannot_be_made(path: str, advice: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "to-nowhere").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(StoreError, match="cannot make the store's directory") as caught:
        FileConnector(tmp_path / path)
    assert advice in str(caught.value)
    assert caught.value.path == str(tmp_path / path)


@pytest.mark.parametrize(
    ("verb", "advice"),
    [
        (lambda c: c.set(FileKey("00c0ffee00c0ffee/0"), b"x"), "its key belongs to another store"),
        (lambda c: c.fill(FileKey("00c0ffee00c0ffee/0"), [(0, b"x")]), "another store"),
        (lambda c: c.fill(c.reserve(b"x", 2), [(0, b"x"), (1, b"gone")]), "no place for 4 bytes"),
        (lambda c: c.set(FileKey("folder"), b"x"), "Is a directory; choose another name"),
        (lambda c: c.get(FileKey("folder")), "Is a directory; choose another name"),
    ],
    ids=["set of another's", "fill of another's", "fill behind the end", "set", "get"],
)
def test_object_that_cannot_be_there(
    verb: Callable[[FileConnector], object], advice: str, base_dir: Path
) -> None:
    with FileConnector(base_dir / "store") as connector:
        (base_dir / "store" / "folder").mkdir()
        with pytest.raises((StoreError, ValueError), match=advice):
            verb(connector)
        (base_dir / "store" / "folder").rmdir()


def test_object_that_was_evicted_cannot_be_filled(base_dir: Path) -> None:
    with FileConnector(base_dir / "store") as connector:
        key = connector.reserve(b"", 10)
        connector.evict(key)
        with pytest.raises(StoreError, match="it was evicted"):
            connector.fill(key, [(0, b"x")])


@pytest.mark.parametrize("offset", [-1, -(1 << 63), 10, 1 << 63, 1 << 70])
def test_pieces_stay_inside_their_object(offset: int, base_dir: Path) -> None:
    with FileConnector(base_dir / "store") as connector:
        key = connector.reserve(b"head", 10)
        for sure in (key, FileKey(key.filename)):
            if sure == key or not 0 <= offset < 1 << 63:
                with pytest.raises(ValueError, match="no place for 1 bytes"):
                    connector.fill(sure, [(offset, b"x")])
        assert connector.get(key) == b"head" + bytes(6)


def test_store_that_something_else_removed(base_dir: Path) -> None:
    with FileConnector(base_dir / "store") as connector:
        key = connector.put(b"x")
        shutil.rmtree(base_dir / "store")
        for verb in (lambda: connector.get(key), lambda: connector.put(b"y")):
            with pytest.raises(StoreClosedError, match="or something other than fsexchange"):
                verb()


def test_object_that_is_waited_for_in_another_store(base_dir: Path) -> None:
    with FileConnector(base_dir / "one") as one, FileConnector(base_dir / "other") as other:
        key = one.put(b"x")
        with pytest.raises(MissingObjectError, match="evicted, or its key belongs to another"):
            other.wait(key)


def test_segment_with_other_flags_is_not_called_too_short(base_dir: Path) -> None:
    with FileConnector(base_dir / "store") as connector:
        keys = connector.put_batch([b"one", b"two"])
        with open(connector.path(keys[0]), "r+b") as file:
            file.write(b"\7" * 100)
        with pytest.raises(CorruptObjectError, match="no whole object .* or overwritten"):
            connector.get(keys[0])


def test_second_set_where_links_are_refused(shm_dir: Path) -> None:
    """sshfs says no more than EPERM to the loser of a race; file systems without links to all."""
    for when, outcomes in (("3", ["set", "KeyExists"]), ("2+", ["StoreError", "StoreError"])):
        fault = f"inject=link,linkat:error=EPERM:when={when}"  # the first makes the store's record
        tracer = strace("-qq", "-o", "/dev/null", "-e", fault)
        *lines, got = python("set_twice", shm_dir / when, before=tracer).stdout.splitlines()
        assert [line.startswith(one) for line, one in zip(lines, outcomes, strict=True)]
        assert got == ("bytearray(b'first')" if when == "3" else "None")
        if when == "2+":
            assert all(
                "without hard links, try a store made with markers" in line for line in lines
            )


def test_limit_of_file_sizes_is_named(shm_dir: Path) -> None:
    assert "ulimit -f" in python("put_beyond_a_limit", shm_dir / "store").stdout


def test_environment_without_permission(shm_dir: Path) -> None:
    """A place for stores need not be readable, and a store that is not says so."""
    uid = unprivileged()
    shm_dir.chmod(0o755)
    for name in ("place", "store"):
        (shm_dir / name).mkdir()
        if uid is not None:
            os.chown(shm_dir / name, uid, uid)
    python("use_an_unreadable_environment", shm_dir, uid=uid)

"""Sweeping: all that fsexchange made goes, what others made stays and is named."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fsexchange.connector import sweep
from fsexchange.connector.geometry import Geometry
from fsexchange.connector.sweep import remove_objects, remove_store

WRITER, OTHER = "0123456789abcdef", "fedcba9876543210"
RANDOM = "00c0ffee00c0ffee"

# Names that fsexchange makes, "/" behind those of directories.
RECORD = [".fsexchange", ".fsexchange-00c0ffee00c0ffee-ending"]
BESIDE = [
    f".fsexchange-{RANDOM}",
    f".fsexchange-probe-{RANDOM}",
    f".{RANDOM}.tmp",
]
IN_NAMES = [
    ".fsexchange-names/mesh",
    ".fsexchange-names/mesh.ready",
    f".fsexchange-names/.{RANDOM}.tmp",
]
IN_WRITER = [
    ".process",
    "0",
    "18446744073709551615",
    "1.ready",
    "3.16",
    f".{RANDOM}.tmp",
]
# An object with a plain name, as each way to publish it leaves it.
PLAIN = ["plain", "marked", "marked.ready"]
STAMPS = {"marked.ready": b"00c0ffee00c0ffee set"}
STORE = [*RECORD, *BESIDE, *IN_NAMES, *PLAIN, *(f"{WRITER}/{name}" for name in IN_WRITER)]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.mkdir(0o1700)  # as fsexchange makes it
    return path


def make(store: Path, *names: str) -> None:
    for name in names:
        path = store / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
        else:
            path.write_bytes(STAMPS.get(name, b"content"))
        if name == "plain":
            path.chmod(0o1600)


def found(store: Path) -> list[str]:
    """Return the files in it and the directories that are empty."""
    paths = [path for path in store.rglob("*") if not path.is_dir() or not any(path.iterdir())]
    return sorted(str(path.relative_to(store)) for path in paths)


# ---- what fsexchange made ------------------------------------------------------------------------


def test_all_that_fsexchange_makes_goes_without_a_warning(store: Path) -> None:
    make(store, *STORE)
    remove_store(str(store), RANDOM)
    assert not store.exists()


@pytest.mark.parametrize("name", [*BESIDE, *IN_NAMES, *(f"{WRITER}/{name}" for name in IN_WRITER)])
def test_each_name_goes(name: str, store: Path) -> None:
    make(store, f"{WRITER}/.process", name)
    assert remove_objects(str(store)) == ([], [])
    assert found(store) == []


def test_record_and_ending_witness_stay_until_all_else_is_gone(store: Path) -> None:
    make(store, *STORE)
    assert remove_objects(str(store)) == ([], [])
    assert found(store) == sorted(RECORD)


def test_a_store_that_is_gone_is_no_error(store: Path) -> None:
    store.rmdir()
    assert remove_objects(str(store)) == ([], [])
    remove_store(str(store), RANDOM)


@pytest.mark.parametrize(
    "names",
    [
        [f"{WRITER}/"],  # made, and killed before it was signed
        [f".{WRITER}.gone/"],  # emptied, and killed before it was removed
        [f".{WRITER}.gone/.process"],
        [f".{WRITER}.gone/.process", f".{WRITER}.gone/7", f".{WRITER}.gone/8.16"],
        [f".{WRITER}.gone/7"],
        # The writer, unaware of its end, made its directory again.
        [f".{WRITER}.gone/.process", f".{WRITER}.gone/7", f"{WRITER}/.process", f"{WRITER}/8"],
        [f".{WRITER}.gone/", f"{WRITER}/.process", f"{WRITER}/8"],
        [f".{WRITER}.gone/.process", f"{OTHER}/.process", f"{OTHER}/1"],
    ],
    ids=" ".join,
)
def test_what_a_killed_process_left_of_a_writer_goes(names: list[str], store: Path) -> None:
    make(store, *names)
    remove_store(str(store), RANDOM)
    assert not store.exists()


def test_objects_with_plain_names_go_and_users_files_stay(store: Path) -> None:
    mine = ["other", "other.ready", "plain.csv", "plain.ready"]
    make(store, *PLAIN, *mine)
    (store / "marked.csv").mkdir(0o1700)  # means what it means for directories
    foreign, busy = remove_objects(str(store))
    assert (sorted(foreign), busy) == (sorted([*mine, "marked.csv"]), [])
    assert found(store) == sorted([*mine, "marked.csv"])


@pytest.mark.parametrize("left", [["marked.ready"], ["plain"], ["marked", "marked.ready"]])
def test_what_a_killed_sweeper_left_of_plain_names_goes(left: list[str], store: Path) -> None:
    make(store, *left)
    remove_store(str(store), RANDOM)
    assert not store.exists()


@pytest.mark.parametrize(
    "name", [f".fsexchange-{RANDOM}", ".fsexchange-names/mesh", f"{WRITER}/7", f"{WRITER}/3.16"]
)
def test_a_directory_under_a_name_of_a_file_of_ours_stays(name: str, store: Path) -> None:
    make(store, *RECORD, f"{WRITER}/.process", f"{name}/mine")
    now = name.replace(WRITER, f".{WRITER}.gone")
    assert remove_objects(str(store)) == ([now], [])
    with pytest.warns(UserWarning, match="not removed"):
        remove_store(str(store), RANDOM)
    assert found(store) == [f"{now}/mine"]


@pytest.mark.parametrize("call", ["lstat", "listdir", "rmdir", "unlink"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_what_cannot_be_looked_at_is_not_given_up(
    call: str, number: int, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file server fails for a moment: the store stays one that is ending, objects and all."""
    make(store, *STORE)
    monkeypatch.setattr(os, call, _failing(getattr(os, call), number))
    with pytest.raises(OSError, match=os.strerror(number)):
        remove_store(str(store), RANDOM)
    monkeypatch.undo()
    assert set(RECORD) <= set(found(store))
    remove_store(str(store), RANDOM)
    assert not store.exists()


@pytest.mark.parametrize("call", ["lstat", "listdir", "rmdir", "unlink"])
def test_what_is_stale_for_a_moment_is_looked_at_again(
    call: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As GlusterFS answers the second of two processes that clear a store."""
    make(store, *STORE)
    real, failing = getattr(os, call), _failing(getattr(os, call), errno.ESTALE)
    times = iter([failing] * 8)
    monkeypatch.setattr(os, call, lambda *args, **options: next(times, real)(*args, **options))
    remove_store(str(store), RANDOM)
    monkeypatch.undo()
    assert not store.exists()


def _failing(real: Callable[..., Any], number: int) -> Callable[..., Any]:
    def call(path: str, *rest: Any, **options: Any) -> Any:
        if WRITER in path:
            raise OSError(number, os.strerror(number), path)
        return real(path, *rest, **options)

    return call


@pytest.mark.parametrize("kind", ["directory", "fifo", "socket", "loop", "long", "set"])
def test_users_files_beside_objects_are_not_opened(kind: str, store: Path) -> None:
    """Some of them cannot be, or to open them waits for somebody."""
    make(store, *STORE)
    path = store / ("x" * 255 if kind == "long" else "x.ready")
    match kind:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as server, pytest.MonkeyPatch.context() as patch:
                patch.chdir(store)
                server.bind(path.name)
        case "loop":
            path.symlink_to(path.name)
        case "long":
            path.touch()
        case "set":
            path.write_text("all set")
            (store / "x").write_text("mine")
    with pytest.warns(UserWarning, match="not removed"):
        remove_store(str(store), RANDOM)
    assert path.name in os.listdir(store)
    assert set(os.listdir(store)) <= {path.name, "x"}


def test_a_directory_that_was_there_stays_when_a_file_of_others_goes_just_then(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.chmod(0o700)
    make(store, *RECORD, "lock")
    real = sweep.remove_objects

    def remove(path: str) -> sweep.Rest:
        rest = real(path)
        (store / "lock").unlink(missing_ok=True)
        return rest

    monkeypatch.setattr(sweep, "remove_objects", remove)
    with pytest.warns(UserWarning, match="not removed"):
        remove_store(str(store), RANDOM)
    assert os.listdir(store) == []


@pytest.mark.parametrize("mode", [0o1700, 0o700, 0o1755, 0o1777, 0o1770])
def test_a_directory_that_was_there_before_stays(mode: int, store: Path) -> None:
    made = mode == 0o1700
    store.chmod(mode)
    make(store, *STORE)
    remove_store(str(store), RANDOM)
    assert store.exists() is not made
    assert found(store.parent) == [] if made else ["store"]


def test_a_segment_is_emptied_for_whoever_has_it_open(store: Path) -> None:
    """Which keeps no space on the disk, and sees none of the objects."""
    make(store, f"{WRITER}/.process")
    geometry = Geometry(16)
    with open(store / WRITER / "3.16", "w+b", buffering=0) as segment:
        segment.write(bytes(geometry.end))
        remove_store(str(store), RANDOM)
        assert os.fstat(segment.fileno()).st_size == geometry.start
        assert os.pread(segment.fileno(), 16, geometry.flag(0)) == b"\1" * 16
    assert not store.exists()


# ---- what others made ----------------------------------------------------------------------------

FOREIGN = [
    "results.csv",
    ".hidden",
    "a.ready",
    "7",
    "sub/deep/er.txt",
    "empty/",
    ".fsexchange-other",
    ".fsexchange-adopt-x",
    ".fsexchange-names",
    f".fsexchange-{RANDOM}-other",
    f".fsexchange-names-{RANDOM}",
    f"{WRITER}.txt",
    f"{WRITER}0/7",
    f"{WRITER.upper()}/7",
    f".{WRITER}.gone.txt",
    f".{WRITER}.tmp.txt",
    # Looks like a writer's directory, which is known by its signature.
    WRITER,
    f"{WRITER}/7",
    f"{WRITER}/sub/",
    f".{WRITER}.gone",
]


@pytest.mark.parametrize("name", FOREIGN)
def test_what_others_made_stays_and_is_named(name: str, store: Path) -> None:
    own = [] if name == ".fsexchange-names" else IN_NAMES
    make(store, *RECORD, *BESIDE, *own, f"{OTHER}/.process", f"{OTHER}/0", name)
    top = name.partition("/")[0]
    assert remove_objects(str(store)) == ([top], [])
    with pytest.warns(UserWarning, match="not removed.*fsexchange did not make") as caught:
        remove_store(str(store), RANDOM)
    assert len(caught) == 1
    assert f"({top})" in str(caught[0].message)
    assert str(store) in str(caught[0].message)
    assert found(store) == [name.rstrip("/")]


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "0.txt", "sub/", "sub/7", "3.0"])
@pytest.mark.parametrize("folder", [WRITER, f".{WRITER}.gone"])
def test_what_others_made_in_a_writers_directory_stays(name: str, folder: str, store: Path) -> None:
    """The directory becomes theirs."""
    make(store, f"{folder}/{name}", *RECORD, *(f"{folder}/{own}" for own in IN_WRITER), *PLAIN)
    kept = f"{folder}/{name.rstrip('/')}"
    top = f"{folder}/{name.partition('/')[0]}"
    assert remove_objects(str(store)) == ([top], [])
    assert found(store) == sorted([*RECORD, f"{folder}/.process", kept])
    with pytest.warns(UserWarning, match="not removed") as caught:
        remove_store(str(store), RANDOM)
    assert f"({top})" in str(caught[0].message)
    assert found(store) == [kept]


def test_a_directory_among_the_names_stays(store: Path) -> None:
    make(store, *RECORD, *IN_NAMES, ".fsexchange-names/sub/mine")
    with pytest.warns(UserWarning, match=r"not removed.*\(\.fsexchange-names/sub\)"):
        remove_store(str(store), RANDOM)
    assert found(store) == [".fsexchange-names/sub/mine"]


def test_links_are_not_followed(store: Path) -> None:
    elsewhere = store.parent / "elsewhere"
    make(elsewhere, ".process", "1", "2")
    (store / WRITER).symlink_to(elsewhere)
    (store / f".{OTHER}.gone").symlink_to(elsewhere)
    (store / OTHER).symlink_to("nowhere")
    with pytest.warns(UserWarning, match="not removed"):
        remove_store(str(store), RANDOM)
    assert found(elsewhere) == [".process", "1", "2"]
    assert sorted(os.listdir(store)) == sorted([WRITER, OTHER, f".{OTHER}.gone"])


def test_the_warning_names_three_at_the_most(store: Path) -> None:
    make(store, *"dbeca")
    with pytest.warns(UserWarning, match=r"\(a, b, c, \.\.\.\)"):
        remove_store(str(store), RANDOM)
    make(store, ".fsexchange")
    for name in "de":
        (store / name).unlink()
    with pytest.warns(UserWarning, match=r"\(a, b, c\)"):
        remove_store(str(store), RANDOM)


def test_sweeping_again_spares_the_same(store: Path) -> None:
    make(store, "results.csv", f"{WRITER}/.process", f"{WRITER}/0", f"{WRITER}/notes.txt")
    for _ in range(2):
        with pytest.warns(UserWarning, match="not removed"):
            remove_store(str(store), RANDOM)
        assert found(store) == [f"{WRITER}/notes.txt", "results.csv"]


# ---- what is in use ------------------------------------------------------------------------------

IN_USE = [".nfs000000000000002a00000001", ".fuse_hidden0000000a00000001"]


@pytest.mark.parametrize("name", IN_USE)
@pytest.mark.parametrize("folder", ["", f"{WRITER}/", f".{WRITER}.gone/"])
def test_a_removed_file_that_is_still_open_is_waited_for(
    name: str, folder: str, store: Path
) -> None:
    make(store, *RECORD, f"{WRITER}/.process", f"{WRITER}/0", f"{folder}{name}")
    foreign, busy = remove_objects(str(store))
    assert foreign == []
    assert [path.rpartition("/")[2] for path in busy] == [name]
    (path,) = store.rglob(name)
    timer = threading.Timer(0.2, path.unlink)  # its last user closes it
    timer.start()
    start = time.monotonic()
    remove_store(str(store), RANDOM)
    assert 0.1 < time.monotonic() - start < sweep._PATIENCE
    assert not store.exists()
    timer.join()


@pytest.mark.parametrize("name", IN_USE)
@pytest.mark.parametrize("folder", ["", f"{WRITER}/"])
def test_a_file_that_stays_open_is_named_in_the_end(
    name: str, folder: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_PATIENCE", 0.1)
    make(store, *RECORD, f"{WRITER}/.process", f"{WRITER}/0", f"{folder}{name}")
    with pytest.warns(UserWarning, match=rf"not removed.*{name}\)"):
        remove_store(str(store), RANDOM)
    assert [Path(left).name for left in found(store) if not left.endswith(".process")] == [name]


def test_a_file_made_while_its_directory_is_removed_is_swept_the_next_time(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that does not know of the end yet: its directory is still known by its signature."""
    make(store, f"{WRITER}/.process", f"{WRITER}/0")
    real = os.rmdir
    late = [f".{WRITER}.gone/1"]

    def rmdir(path: str) -> None:
        if late and path == str(store / f".{WRITER}.gone"):
            make(store, late.pop())
        real(path)

    monkeypatch.setattr("os.rmdir", rmdir)
    foreign, busy = remove_objects(str(store))
    assert not late
    assert foreign == []
    assert len(busy) == 1
    assert found(store) == [f".{WRITER}.gone/.process", f".{WRITER}.gone/1"]
    remove_store(str(store), RANDOM)
    assert not store.exists()


def test_a_writers_directory_that_cannot_be_renamed_is_emptied_where_it_is(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on object stores behind FUSE."""

    def rename(*_: str) -> None:
        raise OSError(errno.EXDEV, "no rename of directories")

    monkeypatch.setattr("os.rename", rename)
    make(store, *STORE)
    remove_store(str(store), RANDOM)
    assert not store.exists()


def test_a_store_opened_in_this_place_meanwhile_is_spared(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the record is gone, before the directory is."""
    make(store, *STORE)
    real = os.rmdir
    fresh = [".fsexchange", f".fsexchange-{RANDOM}", f"{OTHER}/.process", f"{OTHER}/0"]

    def rmdir(path: str) -> None:
        if path == str(store):
            assert not (store / ".fsexchange").exists()
            make(store, *fresh)
        real(path)

    monkeypatch.setattr("os.rmdir", rmdir)
    remove_store(str(store), RANDOM)
    assert found(store) == sorted(fresh)


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EACCES, errno.EROFS])
def test_a_directory_that_cannot_go_is_left_empty_without_a_warning(
    code: int, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount point, or a parent directory of another user."""
    make(store, *STORE)
    real = os.rmdir

    def rmdir(path: str) -> None:
        if path == str(store):
            raise OSError(code, os.strerror(code))
        real(path)

    monkeypatch.setattr("os.rmdir", rmdir)
    remove_store(str(store), RANDOM)
    assert found(store) == []

"""Both ways to publish a file keep one contract: readers see a whole file or none."""

from __future__ import annotations

import errno
import os
import resource
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fsexchange import CorruptObjectError, FileConnector, FileKey, StoreError
from fsexchange.connector.ownfiles import OwnFiles
from fsexchange.filesystem import files, markers, publish
from fsexchange.filesystem.markers import MARKERS, READY
from fsexchange.filesystem.publish import RENAMING, Publication, Renaming, by_link

from .clients import remember_missing_names

both = pytest.mark.parametrize("way", [RENAMING, MARKERS], ids=["rename", "markers"])


def put(way: Publication, path: Path, content: bytes, *, once: bool = False) -> None:
    way.publish(str(path), [content], len(content), once=once)


def get(way: Publication, path: Path) -> bytes:
    return bytes(way.read(str(path), mappable=False))


@both
def test_published_is_read_whole_and_in_part(way: Publication, base_dir: Path) -> None:
    path = base_dir / "file"
    put(way, path, b"0123456789")
    assert get(way, path) == b"0123456789"
    assert bytes(way.read(str(path), 10, mappable=True)) == b"0123456789"
    assert bytes(way.read_part(str(path), 3, 4, mappable=True)) == b"3456"
    with pytest.raises(CorruptObjectError):
        way.read(str(path), 11, mappable=True)
    with pytest.raises(CorruptObjectError):
        way.read_part(str(path), 8, 4, mappable=True)


@both
def test_created_is_published(way: Publication, base_dir: Path) -> None:
    way.create(str(base_dir / "file"), [b"con", b"tent"], 7)
    assert get(way, base_dir / "file") == b"content"
    with pytest.raises(FileExistsError):
        way.create(str(base_dir / "file"), [b"else"], 4)
    assert get(way, base_dir / "file") == b"content"


@both
def test_missing_is_file_not_found(way: Publication, base_dir: Path) -> None:
    path = str(base_dir / "file")
    for verb in (
        lambda: way.read(path, mappable=False),
        lambda: way.read_part(path, 0, 1, mappable=False),
        lambda: way.remove(path),
    ):
        with pytest.raises(FileNotFoundError):
            verb()
    assert not os.path.exists(way.sign(path))


@both
def test_the_last_replaces_and_with_once_the_first_stays(way: Publication, base_dir: Path) -> None:
    path = base_dir / "file"
    put(way, path, b"first", once=True)
    with pytest.raises(FileExistsError):
        put(way, path, b"second", once=True)
    assert get(way, path) == b"first"
    put(way, path, b"another")
    assert get(way, path) == b"another"
    way.remove(str(path))
    assert os.listdir(base_dir) == []


@both
def test_one_of_racing_writers_wins(way: Publication, base_dir: Path) -> None:
    path = base_dir / "file"
    won, lost = [], []
    start = threading.Barrier(8)

    def write(n: int) -> None:
        start.wait(30)
        try:
            put(way, path, b"%d" % n * 5000, once=True)
            won.append(n)
        except FileExistsError:
            lost.append(n)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(won) == 1
    assert len(lost) == 7
    assert get(way, path) == b"%d" % won[0] * 5000


@both
def test_readers_of_a_name_that_is_replaced_see_one_whole_file(
    way: Publication, base_dir: Path
) -> None:
    """Parts too: a part of two files would have two numbers."""
    path = base_dir / "file"
    put(way, path, b"0" * 100_000)
    done = threading.Event()
    mixed: list[bytes] = []
    seen = 0

    def replace() -> None:
        for n in range(300):
            put(way, path, b"%d" % (n % 10) * 100_000)
        done.set()

    writer = threading.Thread(target=replace)
    writer.start()
    while not done.is_set():
        try:
            whole = get(way, path)
            part = bytes(way.read_part(str(path), 50_000, 50_000, mappable=False))
        except FileNotFoundError:
            assert way is MARKERS  # has a moment without a file
            continue
        seen += 1
        mixed += [data[:1] for data in (whole, part) if data != data[:1] * len(data)]
    writer.join()
    assert not mixed
    assert seen


@pytest.mark.parametrize("done", [False, True], ids=["half written", "written"])
def test_the_next_file_is_not_a_damaged_one(
    done: bool, base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader finds the marker of a file, then opens the next one while that is written."""
    path = base_dir / "file"
    put(MARKERS, path, b"0" * 10)
    read = files.read
    reads: list[str] = []

    def read_the_next(name: str, nbytes: int, *options: Any) -> files.BytesLike:
        if not reads:
            MARKERS.remove(name)
            files.create(name, [b"1" * 5], 5)
        reads.append(name)
        try:
            return read(name, nbytes, *options)
        finally:
            if done and len(reads) == 1:
                MARKERS.remove(name)
                put(MARKERS, path, b"1" * 10)

    monkeypatch.setattr(files, "read", read_the_next)
    if done:
        assert MARKERS.read(str(path), 10, mappable=False) == b"1" * 10
    else:
        with pytest.raises(FileNotFoundError):
            MARKERS.read(str(path), 10, mappable=False)


def test_a_file_without_its_marker_is_not_published(base_dir: Path) -> None:
    files.create(str(base_dir / "file"), [b"half an obj"], 11)
    for verb in (
        lambda: MARKERS.read(str(base_dir / "file"), mappable=False),
        lambda: MARKERS.read_part(str(base_dir / "file"), 0, 4, mappable=False),
    ):
        with pytest.raises(FileNotFoundError):
            verb()


@pytest.mark.parametrize("way", [RENAMING, MARKERS], ids=["rename", "markers"])
def test_names_in_a_listing(way: Publication, base_dir: Path) -> None:
    for name in "ab":
        put(way, base_dir / name, b"x")
    files.create(str(base_dir / "c.part"), [], 0)
    found = way.published(os.listdir(base_dir))
    assert sorted(found) == (["a", "b"] if way is MARKERS else ["a", "b", "c.part"])


@both
@pytest.mark.parametrize("call", ["rename", "link", "write"])
def test_what_fails_leaves_the_earlier_file_or_none(
    way: Publication, call: str, base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, by any call; for `write` a limit on the length of files."""
    path = base_dir / "file"
    once = call == "link"
    if not once:
        put(way, path, b"earlier")
    before = sorted(os.listdir(base_dir))

    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if call == "write":
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(b"cont"), limits[1]))
    else:
        monkeypatch.setattr(os, call, refuse)
    try:
        if call == "link" and way is MARKERS:
            put(way, path, b"content", once=once)  # needs no links
            assert get(way, path) == b"content"
            return
        with pytest.raises(OSError, match=r"No space|File too large"):
            put(way, path, b"content", once=once)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        monkeypatch.undo()
    if call == "rename" and way is MARKERS:
        before.remove("file.ready")  # too late for a marker; but a full disk does not get there
    else:
        assert not before or get(way, path) == b"earlier"
    assert sorted(os.listdir(base_dir)) == before


def _answers(errors: list[int], then: bytes) -> Callable[..., bytes]:
    left = list(errors)

    def read(*_: object, **__: object) -> bytes:
        if left:
            raise OSError(left.pop(), "stale")
        return then

    return read


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EREMOTEIO])
def test_what_was_replaced_under_its_reader_is_opened_again(
    number: int, base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS answers now and then; but not for ever."""
    with FileConnector(base_dir / "store") as connector:

        def get(name: str, errors: list[int]) -> files.BytesLike | None:
            monkeypatch.setattr(Renaming, name, staticmethod(_answers(errors, b"content")))
            own = OwnFiles(connector.directory, RENAMING)
            if name == "read":
                return own.read("/path", 7)
            return own.read_part("/path", 0, 7, sure=True)

        for name in "read", "read_part":
            assert get(name, [number] * 5) == b"content"
            assert get(name, [number] * 14) == b"content"  # GlusterFS, for 1 s
            for errors in [number] * 1000, [errno.EIO]:
                with pytest.raises(StoreError, match="stale"):
                    get(name, errors)


def test_a_name_without_a_file_while_it_is_replaced(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As GlusterFS answers for a moment; what was evicted is not waited for, but where it shows."""
    path = base_dir / "store" / "name"
    with FileConnector(base_dir / "store") as connector:
        careful = connector.directory.policy._replace(network=True, lookup="list")
        connector.directory._policy = careful

        def get(name: str, nbytes: int, missed: int) -> files.BytesLike | None:
            answers = _answers([errno.ENOENT] * missed, b"content")
            monkeypatch.setattr(Renaming, name, staticmethod(answers))
            one = OwnFiles(connector.directory, RENAMING)
            if name == "read":
                return one.read(str(path), nbytes)
            return one.read_part(str(path), 0, 7, sure=nbytes > 0)

        for name, nbytes in (("read", 7), ("read", -1), ("read_part", 7), ("read_part", -1)):
            assert get(name, nbytes, 1) is None
            path.touch()
            assert get(name, nbytes, 3) == b"content"
            assert get(name, nbytes, 10_000) is None
            path.unlink()
        connector.directory._policy = careful._replace(lookup="open")
        path.touch()
        assert get("read", 7, 1) is None  # sshfs: it shows for 20 s yet
        path.unlink()


def test_a_link_whose_answer_was_lost_is_no_error(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS: the server made the link, and its client asked again: link(2), BUGS."""
    real = os.link

    def twice(source: str, target: str) -> None:
        real(source, target)
        real(source, target)

    monkeypatch.setattr(os, "link", twice)
    by_link(str(base_dir / "file"), [b"content"], 7)
    assert (base_dir / "file").read_bytes() == b"content"


def test_the_loser_of_a_race_on_sshfs_is_told_so(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server says EPERM for a name that is there; without the name it means what it says."""

    def refuse(source: str, target: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(PermissionError):
        by_link(str(base_dir / "file"), [b"content"], 7)
    (base_dir / "file").write_bytes(b"the winner's")
    with pytest.raises(FileExistsError):
        by_link(str(base_dir / "file"), [b"content"], 7)
    assert os.listdir(base_dir) == ["file"]


def test_the_loser_of_a_race_on_sshfs_is_told_so_with_markers(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(MARKERS, base_dir / "file", b"the winner's")
    real = files.create

    def create(path: str, *rest: Any) -> None:
        try:
            real(path, *rest)
        except FileExistsError:
            raise PermissionError(errno.EPERM, "Operation not permitted") from None

    monkeypatch.setattr(files, "create", create)
    with pytest.raises(FileExistsError):
        put(MARKERS, base_dir / "file", b"mine", once=True)
    assert get(MARKERS, base_dir / "file") == b"the winner's"
    put(MARKERS, base_dir / "file", b"mine")
    assert get(MARKERS, base_dir / "file") == b"mine"


def test_markers_differ_where_times_do_not(base_dir: Path) -> None:
    tokens = set()
    for _ in range(3):
        put(MARKERS, base_dir / "file", b"x")
        tokens.add((base_dir / f"file{READY}").read_bytes())
    assert len(tokens) == 3


def test_a_marker_that_cannot_be_made_takes_its_file_along(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = files.create

    def create(path: str, *rest: object) -> None:
        if path.endswith(READY):
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        real(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "create", create)
    with pytest.raises(OSError, match="quota"):
        MARKERS.create(str(base_dir / "file"), [b"content"], 7)
    assert os.listdir(base_dir) == []


@both
@pytest.mark.parametrize("once", [False, True])
def test_a_stamp_is_seen_and_goes_with_the_next_file(
    way: Publication, once: bool, base_dir: Path
) -> None:
    path = str(base_dir / "file")
    assert not way.is_stamped(path)
    way.publish(path, [b"x"], 1, once=once, stamp=True)
    assert way.is_stamped(path)
    assert way.is_published(path)
    way.publish(path, [b"y"], 1, once=False)
    assert not way.is_stamped(path)
    way.remove(path)
    (base_dir / "file").write_bytes(b"a user's")
    assert not way.is_stamped(path)
    assert not way.is_published(path)


def test_a_mount_that_keeps_no_modes_takes_no_stamp(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As vfat and some FUSE clients do; markers say it by their content."""
    path = str(base_dir / "file")
    monkeypatch.setattr(publish, "mode", lambda stamp: 0o600)
    monkeypatch.setattr(markers, "mode", lambda stamp: 0o600)
    for once in True, False:
        with pytest.raises(OSError, match="sticky"):
            RENAMING.publish(path, [b"x"], 1, once=once, stamp=True)
    assert os.listdir(base_dir) == []
    for content in b"x", b"y":
        MARKERS.publish(path, [content], 1, once=False, stamp=True)
        assert MARKERS.is_stamped(path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("once", [False, True])
@both
def test_a_temporary_file_that_cannot_be_removed_changes_no_outcome(
    way: Publication, once: bool, number: int, base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not once:
        put(way, base_dir / "file", b"earlier")
    unlink = os.unlink

    def fail(path: str) -> None:
        if path.endswith(".tmp"):
            raise OSError(number, os.strerror(number))
        unlink(path)

    monkeypatch.setattr(os, "unlink", fail)
    put(way, base_dir / "file", b"content", once=once)
    assert get(way, base_dir / "file") == b"content"
    monkeypatch.undo()
    for left in base_dir.glob(".*.tmp"):
        left.unlink()


@pytest.mark.parametrize("rename", [True, False])
def test_marked_files_are_replaced_with_and_without_a_rename(
    rename: bool, base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(MARKERS, base_dir / "file", b"earlier")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    if not rename:
        monkeypatch.setattr(os, "rename", refuse)
    put(MARKERS, base_dir / "file", b"content")
    assert get(MARKERS, base_dir / "file") == b"content"
    assert sorted(os.listdir(base_dir)) == ["file", "file.ready"]


def test_who_comes_second_waits_for_the_marker_of_the_first(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It loses once the first is done, wins if that fails, and hears of one that was killed."""
    monkeypatch.setattr(markers, "_PATIENCE", 0.5)
    path = base_dir / "file"
    for end in "marked", "removed":
        path.write_bytes(b"half an obj")
        ends = {"marked": lambda: (base_dir / "file.ready").touch(), "removed": path.unlink}
        timer = threading.Timer(0.1, ends[end])
        timer.start()
        if end == "marked":
            with pytest.raises(FileExistsError):
                put(MARKERS, path, b"mine", once=True)
            MARKERS.remove(str(path))
        else:
            put(MARKERS, path, b"mine", once=True)
            assert get(MARKERS, path) == b"mine"
            MARKERS.remove(str(path))
        timer.join()
    path.write_bytes(b"half an obj")
    with pytest.raises(OSError, match="does not go on"):
        put(MARKERS, path, b"mine", once=True)
    MARKERS.remove(str(path))  # as evict does
    put(MARKERS, path, b"mine", once=True)
    assert get(MARKERS, path) == b"mine"


def test_loser_of_a_race_hides_no_marker_from_itself(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks for the marker of the winner, which is on another host, before that is there."""
    remember_missing_names(monkeypatch)
    monkeypatch.setattr(markers, "_PATIENCE", 2.0)
    path = base_dir / "file"
    path.write_bytes(b"first")
    timer = threading.Timer(0.3, (base_dir / "file.ready").touch)
    timer.start()
    with pytest.raises(FileExistsError):
        put(MARKERS, path, b"second", once=True)
    timer.join()
    assert path.read_bytes() == b"first"


def test_file_that_reads_as_empty_while_it_is_replaced_is_opened_again(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As GlusterFS answers when another host just put the next one in its place."""
    preadv, left = os.preadv, [0, 0]

    def read(*args: Any) -> int:
        return left.pop() if left else preadv(*args)

    with FileConnector(base_dir / "store") as connector:
        key = FileKey(connector.put(b"content").filename)
        monkeypatch.setattr(os, "preadv", read)
        assert connector.get(key) == b"content"
    assert left == []

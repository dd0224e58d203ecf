"""What shows a store: names, ls, info, du. It runs no code of the objects."""

from __future__ import annotations

import json
import os
import pty
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fsexchange import FileConnector, FileKey, Store
from fsexchange.cli import program
from fsexchange.filesystem.process import Process
from fsexchange.serialize import dumps
from fsexchange.serialize.format import SMALL_START

from .cli import WORDS, Command, environment, read_all


@pytest.fixture
def store(command: Command, shm_dir: Path) -> Iterator[Store]:
    """A kept store, which the command uses."""
    command.use(shm_dir / "store")
    with Store(shm_dir / "store", clear=False) as store:
        yield store


class Touching:
    """Makes a directory when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._path,)


def _objects(command: Command, *words: str) -> list[dict[str, Any]]:
    document = json.loads(command("ls", "--json", *words).text)
    assert list(document) == ["store", "objects"]
    objects: list[dict[str, Any]] = document["objects"]
    return objects


def test_ls_shows_each_object(command: Command, store: Store) -> None:
    store.put(np.ones((1000, 500)), name="mesh/coarse")
    store.put(b"x" * 5000, name="bytes")
    store.put({"a": 1}, name="dict", checksum=True)
    shown = command("ls").text.splitlines()
    assert shown[0].split() == ["KEY", "SIZE", "AGE", "TYPE", "WRITER", "NAMES"]
    assert [line.split("  ")[-1].strip() for line in shown[1:]] == ["bytes", "dict", "mesh/coarse"]
    assert "3.8 MiB" in shown[3]
    assert "ndarray float64 (1000, 500)" in shown[3]
    assert "pickle of dict" in shown[2]


def test_ls_as_json(command: Command, store: Store) -> None:
    key = store.put(np.ones((3, 2), "f4", order="F"), name="a")
    (got,) = _objects(command)
    assert got == {
        "key": str(key),
        "file": key.filename,
        "names": ["a"],
        "bytes": key.nbytes,
        "modified": got["modified"],
        "writer": {name: getattr(Process.this(), name) for name in ("host", "pid", "uid", "job")},
        "packed": False,
        "type": "ndarray",
        "of": None,
        "dtype": "float32",
        "shape": [3, 2],
        "order": "F",
        "whole": True,
        "crc32": got["crc32"],
        "guarded": "head",
    }
    assert json.loads(command("info", "a", "--json").text) == {"store": store.store_dir, **got}


def test_every_key_that_is_shown_works(command: Command, store: Store) -> None:
    store.put(1)
    store.put_batch(["a", {"b": 2}, np.arange(3), b"x" * 3000, *range(100)])
    future = store.future()
    future.set_result("set")
    store.connector.set(FileKey("plain"), b"raw")
    objects = _objects(command)
    assert len(objects) == 107
    for each in objects:
        assert store.connector.exists(FileKey.parse(each["key"]))
        if each["type"] != "unknown":
            store.get(FileKey.parse(each["key"]))
            assert json.loads(command("info", each["key"], "--json").text)["of"] == each["of"]
    (plain,) = (each for each in objects if each["writer"] is None)
    assert plain["key"] == "plain"
    assert {each["writer"]["pid"] for each in objects if each is not plain} == {os.getpid()}
    command("get", str(future.ref.key))
    assert command("info", "plain").text.count("unknown") == 1


def test_objects_in_segments_that_are_evicted_are_not_shown(command: Command, store: Store) -> None:
    keys = store.put_batch([bytes([n]) * 5000 for n in range(100)])
    store.evict_batch(keys[:50])
    store.evict_batch(keys[70:71])
    left = {str(key) for key in keys[50:70] + keys[71:]}
    assert {each["key"] for each in _objects(command)} == left
    document = json.loads(command("du", "--json").text)
    assert document["evicted"] > 51 * 5000


def test_bytes_in_segments_cannot_be_told_apart(command: Command, store: Store) -> None:
    store.connector.put_batch([b"x" * 1000] * 5)
    (each,) = _objects(command)
    assert (each["key"], each["bytes"], each["packed"]) == (None, 5 * 1024, True)
    assert "objects put as bytes" in command("ls").text


def test_ls_sorts_and_filters(command: Command, store: Store) -> None:
    for name, nbytes in {"run1/b": 13000, "run1/a": 15000, "run2/c": 14000}.items():
        store.put(bytes(nbytes), name=name)
        os.utime(f"{store.store_dir}/{store.names[name].filename}", (0, nbytes))
    store.put(bytes(16000))

    def names(*words: str) -> list[str]:
        return [name for each in _objects(command, *words) for name in each["names"] or ["-"]]

    assert names() == ["run1/a", "run1/b", "run2/c", "-"]
    assert names("--sort", "size") == ["-", "run1/a", "run2/c", "run1/b"]
    assert names("--sort", "age", "-r") == ["run1/b", "run2/c", "run1/a", "-"]
    assert names("--sort", "key")[-1:] + names("--sort", "type")[:1] == ["-", "run1/b"]
    assert names("--name", "run1/*") == ["run1/a", "run1/b"]
    assert "have such a name" in command("ls", "--name", "x").err


def test_an_empty_store(command: Command, store: Store) -> None:
    assert command("ls") == (b"", f"fsexchange: no objects in the store at {store.store_dir}\n")
    assert command("names") == (b"", f"fsexchange: no names in the store at {store.store_dir}\n")
    assert _objects(command) == []
    assert "total" in command("du").text


def test_names(command: Command, store: Store) -> None:
    keys = {name: str(store.put(name, name=name)) for name in ("b", "a/ä", "a.b")}
    names = json.loads(command("names", "--json").text)["names"]
    assert names == [{"name": name, "key": keys[name]} for name in sorted(keys)]
    assert [line.split() for line in command("names").text.splitlines()] == [
        ["NAME", "KEY"],
        *([name, keys[name]] for name in sorted(keys)),
    ]


def test_info(command: Command, store: Store) -> None:
    key = store.put(np.ones((3, 2)), name="a", checksum=True)
    shown = dict(line.split(maxsplit=1) for line in command("info", "a").text.splitlines())
    assert list(shown) == [
        *("key", "names", "type", "dtype", "shape", "order", "bytes", "crc32"),
        *("modified", "writer", "file"),
    ]
    assert (shown["key"], shown["shape"]) == (str(key), "(3, 2)")
    assert shown["crc32"].endswith("guards all of it")
    assert shown["file"] == f"{store.store_dir}/{key.filename}"


def test_du(command: Command, store: Store) -> None:
    store.put(bytes(1 << 20), name="x")
    store.put_batch([1, 2])
    writer = store.put(1).filename.split("/")[0]
    Path(store.store_dir, writer, ".0123456789abcdef.tmp").write_bytes(bytes(5000))
    Path(store.store_dir, "mine").write_text("a user's")
    found = json.loads(command("du", "--json").text)
    files = {kind: value["files"] for kind, value in found.items() if isinstance(value, dict)}
    assert files == {"object": 2, "segment": 1, "partial": 1, "name": 1, "own": 3, "foreign": 1}
    assert found["partial"]["bytes"] == 5000
    assert found["object"]["allocated"] >= 1 << 20
    assert {"store", "evicted", "free", "inodes"} < set(found)
    assert "partial, or being written" in command("du").text
    Path(store.store_dir, writer, ".0123456789abcdef.tmp").unlink()


def test_du_where_inodes_have_no_limit(
    command: Command, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = os.statvfs_result((4096, 4096, 9, 9, 9, 0, 0, 0, 0, 255))  # as of Btrfs
    monkeypatch.setattr(os, "statvfs", lambda path: status)
    assert "36.0 KiB are free" in command("du").text
    assert json.loads(command("du", "--json").text)["inodes"] is None


@pytest.mark.parametrize("markers", [False, True])
def test_looking_runs_no_code(
    command: Command, shm_dir: Path, tmp_path: Path, markers: bool
) -> None:
    with FileConnector(shm_dir / "store", clear=False, markers=markers) as connector:
        store = Store(connector)
        store.put(Touching(tmp_path / "touched"), name="hostile")
        store.put([1, {"deep": Touching(tmp_path / "touched")}] * 3000)
        store.put_batch([Touching(tmp_path / "touched")] * 2)
        command.use(shm_dir / "store")
        for words in (["ls"], ["ls", "--json"], ["info", "hostile"], ["names"], ["du"]):
            command(*words)
        assert len(_objects(command)) == 4
        assert "pickle of posix.mkdir" in command("info", "hostile").text
        assert not (tmp_path / "touched").exists()
        command("get", "hostile", code=program.FAILED)
        assert (tmp_path / "touched").exists()  # it would have


def test_a_strangers_store_stalls_nobody_and_leads_nowhere(
    command: Command, store: Store, tmp_path: Path
) -> None:
    """FIFOs, links, names with escape sequences, and files that say they are huge."""
    store.put(1, name="good")
    path = Path(store.store_dir)
    writer = path / "0123456789abcdef"
    writer.mkdir()
    os.mkfifo(writer / "1")
    os.mkfifo(writer / ".process")
    (writer / "2").symlink_to("/etc/passwd")
    (writer / "3.999999999999").write_bytes(b"")
    os.truncate(writer / "3.999999999999", 8192)
    (writer / "4").write_bytes(b"\x93FSX\1\4\0\0" + b"\xff" * 100)
    (writer / "5").write_bytes(b"\x93FSX\2\6\0\0" + b"\xff" * 12 + b"c\x1b[31m\nx\n.")
    (path / "fedcba9876543210").symlink_to("/etc")
    names = path / ".fsexchange-names"
    os.mkfifo(names / "fifo")
    (names / "evil%1B[31m").write_text("x")
    (names / "damaged").write_text("\x1b[31m")
    (names / "outside").write_text("../../etc/passwd")
    for words in (["ls"], ["ls", "--json"], ["names"], ["du"], ["info", "good"]):
        out = command(*words).text
        assert "\x1b" not in out
        assert "passwd" not in out or "0123456789abcdef/2" in out
    assert [each["names"] for each in _objects(command)][:1] == [["good"]]
    for name in ("damaged", "outside", "0123456789abcdef/1", "0123456789abcdef/2"):
        command("info", name, code=program.MISSING)


def test_a_strangers_record_stalls_nobody(command: Command, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".fsexchange")
    command("ls", "--store", tmp_path, code=program.REFUSED)
    (tmp_path / ".fsexchange").unlink()
    (tmp_path / ".fsexchange").write_text("[" * 4000)
    command("ls", "--store", tmp_path, code=program.REFUSED)
    os.truncate(tmp_path / ".fsexchange", 1 << 40)
    command("ls", "--store", tmp_path, code=program.REFUSED)


def _small(pickled: bytes) -> bytes:
    """Return a small pickle as an object, without a right CRC."""
    return SMALL_START + struct.pack("<III", 0, len(pickled), len(pickled)) + pickled


def _npy(shape: str) -> bytes:
    fields = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(fields)) + fields


@pytest.mark.parametrize(
    "data",
    [
        _small(b"S'a\\d'\n."),  # of an escape sequence that Python warns of
        _npy(f"(0x{'f' * 3900},)"),  # an int that Python does not print
        dumps(np.ones(3)).replace(b"<f8", b",f8"),
    ],
    ids=["escape", "int", "dtype"],
)
def test_hostile_objects_are_looked_at(command: Command, store: Store, data: bytes) -> None:
    store.put(1, name="good")
    key = store.connector.put(data)
    for words in (["ls"], ["ls", "--json"], ["info", str(key)], ["info", str(key), "--json"]):
        assert len(command(*words).out) < 5000


def test_a_sparse_segment_stalls_nobody(command: Command, store: Store) -> None:
    filename = store.put(1).filename.split("/")[0] + "/3.999999999999"
    path = Path(store.store_dir, filename)
    path.touch()
    os.truncate(path, 66 * 10**12)
    assert len(_objects(command)) == 2
    assert json.loads(command("du", "--json").text)["evicted"] > 10**12
    path.unlink()


@pytest.mark.parametrize(
    "signature", ["[" * 4000, '{"host": [1], "pid": {}, "uid": 0, "job": ""}', "{}"]
)
def test_hostile_signatures(command: Command, store: Store, signature: str) -> None:
    key = store.put(1)
    Path(store.store_dir, key.filename).with_name(".process").write_text(" " + signature)
    assert [each["writer"] for each in _objects(command)] == [None]
    command("info", str(key))


def test_tables_send_nothing_to_a_terminal_but_text(command: Command, store: Store) -> None:
    key = store.put(1)
    process = {"host": "\x1b]0;evil\7\nhost", "pid": 1, "uid": 0, "job": "\x1b[2J"}
    path = Path(store.store_dir, key.filename).with_name(".process")
    path.write_text(" " + json.dumps(process))
    for words in (["ls"], ["info", str(key)]):
        main, terminal = pty.openpty()
        with subprocess.Popen(
            [*WORDS, *words], stdout=terminal, env=environment(store.store_dir, TERM="dumb")
        ) as shown:
            os.close(terminal)
            text = read_all(main)
            assert shown.wait() == 0
        assert b"evil" in text
        assert b"\x1b" not in text
        assert b"\7" not in text

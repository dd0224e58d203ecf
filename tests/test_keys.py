"""Keys stay inside the directory, and survive shells, MPI and pickling."""

from __future__ import annotations

import enum
import pickle
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fsexchange import FileConnector, FileKey, InvalidKeyError
from fsexchange.connector.keys import KEY_SIZE, MAX_FILENAME, checked

GOOD = [
    FileKey("00c0ffee00c0ffee/0", 0),
    FileKey("00c0ffee00c0ffee/18446744073709551615", 1 << 62),
    FileKey("00c0ffee00c0ffee/7"),
    FileKey("d9428888-122b-11e1-b85c-61cd3cbb3210"),  # ProxyStore's
    FileKey("a"),
    FileKey("A_b-c.d" * 6),
]

BAD = [
    "../x",
    "/etc/passwd",
    "a/../../b",
    "a/b",
    "..",
    ".",
    "",
    "x" * 10_000,
    "x" * (MAX_FILENAME + 1),
    "nul\0byte",
    "00c0ffee00c0ffee/1\0",
    "00c0ffee00c0ffee/../x",
    "00c0ffee00c0ffee/",
    "00c0ffee00c0ffee/1\n",
    "00c0ffee00c0ffee",  # a writer's directory
    "00c0ffee00c0ffee/.hidden",
    ".fsexchange",
    "object.ready",  # another key's marker
    "-rf",
    "a b",
    "tilde~",
    "naïve",
    "\uff0e\uff0e/x",
    "٣",  # digits, but not ASCII
]


@pytest.mark.parametrize("key", GOOD)
def test_key_round_trips(key: FileKey) -> None:
    assert FileKey.parse(str(key)) == key
    assert FileKey.unpack(key.pack()) == key
    assert len(key.pack()) == KEY_SIZE
    assert pickle.loads(pickle.dumps(key)) == key
    assert len(pickle.dumps(key)) < 150


@pytest.mark.parametrize("key", GOOD)
def test_key_passes_a_shell_unquoted(key: FileKey) -> None:
    echoed = subprocess.run(["sh", "-c", f"echo {key}"], capture_output=True, text=True)
    assert FileKey.parse(echoed.stdout) == key


@pytest.mark.parametrize("filename", BAD)
def test_key_outside_the_allow_list_is_refused(filename: str) -> None:
    with pytest.raises(InvalidKeyError) as caught:
        checked(FileKey(filename))
    assert caught.value.filename == filename
    assert len(str(caught.value)) < 500
    with pytest.raises(InvalidKeyError):
        FileKey(filename).pack()


@pytest.mark.parametrize("key", [None, 7, "00c0ffee00c0ffee/7", b"x", FileKey(None), FileKey(3)])  # type: ignore[arg-type]
def test_what_is_no_key_is_refused(key: Any) -> None:
    with pytest.raises(InvalidKeyError):
        checked(key)


@pytest.mark.parametrize(
    "text", ["", ":", "a:b", "a:-1", "a:1@", "a:1@2@3", "../x:3", "a:1@-5", "a b"]
)
def test_text_that_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidKeyError):
        FileKey.parse(text)


@pytest.mark.parametrize(
    "record", [b"", bytes(KEY_SIZE), b"\xff" * KEY_SIZE, b"../x".ljust(KEY_SIZE, b"\0")]
)
def test_record_that_is_no_key_is_refused(record: bytes) -> None:
    with pytest.raises(InvalidKeyError):
        FileKey.unpack(record)


def test_key_of_a_packed_object_is_refused_by_name() -> None:
    with pytest.raises(InvalidKeyError, match="no such part"):
        checked(FileKey("00c0ffee00c0ffee/7", 10, 64))


@pytest.mark.parametrize("nbytes", [-2, 1 << 63, None, "7"])
def test_length_that_no_object_has_is_refused(nbytes: Any) -> None:
    for use in (checked, FileKey.pack):
        with pytest.raises(InvalidKeyError):
            use(FileKey("a", nbytes))
    with pytest.raises(InvalidKeyError):
        FileKey.parse("a:9999999999999999999")


class Mesh(str, enum.Enum):
    FINE = "mesh-fine"


@pytest.mark.parametrize("name", [np.str_("mesh-fine"), Mesh.FINE], ids=["numpy", "enum"])
def test_name_of_a_subclass_of_str_is_the_text(name: str, shm_dir: Path) -> None:
    key = FileKey(name)
    assert type(checked(key).filename) is str
    with FileConnector(shm_dir / "store") as connector:
        connector.set(key, b"x")
        assert connector.get(FileKey("mesh-fine")) == b"x"
        assert connector.get_batch([key, FileKey("mesh-fine")]) == [b"x", b"x"]
        connector.evict_batch([key])
        assert not connector.exists(key)


def test_proxystores_own_key_is_a_key() -> None:
    file = pytest.importorskip("proxystore.connectors.file")
    assert checked(file.FileKey(filename="abc")) == FileKey("abc")
    assert FileKey.unpack(FileKey.pack(file.FileKey(filename="abc"))) == FileKey("abc")

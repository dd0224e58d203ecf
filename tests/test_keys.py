"""Keys stay inside the directory, and survive shells, MPI and pickling."""

from __future__ import annotations

import enum
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from fsexchange import (
    CorruptObjectError,
    FileConnector,
    FileKey,
    InvalidKeyError,
    MissingObjectError,
    StoreError,
    WaitTimeoutError,
)
from fsexchange.connector.batch import grouped
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


@pytest.mark.parametrize("text", [None, b"a:1", bytearray(b"a"), 7, ["a"], FileKey("a"), np.str_])
def test_what_is_no_text_is_refused(text: Any) -> None:
    with pytest.raises(InvalidKeyError, match="not the text of a key"):
        FileKey.parse(text)


@pytest.mark.parametrize("binary", [None, 64, "x" * KEY_SIZE, np.zeros(KEY_SIZE), [0]])
def test_what_is_no_record_is_refused(binary: Any) -> None:
    with pytest.raises(InvalidKeyError, match="binary form"):
        FileKey.unpack(binary)


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


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("not to be shown")


@pytest.mark.parametrize(
    "key",
    [FileKey("a", 10**5000), FileKey("../x", 10**5000), Unshowable(), FileKey(Unshowable())],  # type: ignore[arg-type]
)
def test_key_that_cannot_be_shown_is_refused_all_the_same(key: Any) -> None:
    with pytest.raises(InvalidKeyError):
        checked(key)
    with pytest.raises(InvalidKeyError):
        grouped([FileKey("a"), key])


@pytest.mark.parametrize("numbers", [(1.0, 10**400), ([1], [2, 3]), (2**63, -1), (2**63, 2**63)])
def test_batch_of_what_are_no_numbers_is_refused(numbers: Any) -> None:
    for keys in (
        [FileKey("a", n) for n in numbers],
        [FileKey("00c0ffee00c0ffee/7.100", 10, n) for n in numbers],
    ):
        with pytest.raises(InvalidKeyError):
            grouped(keys)


FILENAMES: list[Any] = [
    *("a", "..", "../x", "", "00c0ffee00c0ffee/7", "00c0ffee00c0ffee/7.100", "x\0", "\udcff"),
    *(None, 7, b"a", ["a"], np.str_("a"), np.array(["a"]), "00c0ffee00c0ffee/7.999999999999"),
]
NUMBERS: list[Any] = [
    *(0, 1, -1, -2, 64, 4096, 65_536, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), 10**400),
    *(True, np.int64(64), np.uint8(3), np.float64(1), 1.0, float("nan"), None, "1", b"1", [], [1]),
    *(np.array(4096), np.array([4096]), complex(1), Unshowable()),
]


def test_whatever_is_passed_as_a_key_does_what_is_documented(shm_dir: Path) -> None:
    random = Random(11)
    with FileConnector(shm_dir / "store") as connector:
        packed = connector.put_batch([bytes(100)] * 100)
        own = connector.put(bytes(100))
        others = connector.put_batch([b"other", b"s"])
        connector.get_batch([own, *packed, *others])  # their segments are open
        names = [*FILENAMES, own.filename, *[packed[0].filename] * 5]
        verbs: list[Callable[[Any], object]] = [
            connector.get,
            connector.exists,
            lambda key: connector.get_part(key, 0, 50),
            lambda key: connector.get_part(key, random.choice([0, 2**62]), 2**62),
            lambda key: connector.get_batch([key, own, key]),
            lambda key: connector.get_batch([key, packed[50], packed[60]]),
            lambda key: connector.evict_batch([key, FileKey("b"), packed[0]]),
            lambda key: connector.wait(key, timeout=0),
            lambda key: connector.fill(key, [(0, b"")]),
            connector.path,
            connector.evict,
            FileKey.pack,
        ]
        refused = 0
        for _ in range(5000):
            key = FileKey(random.choice(names), random.choice(NUMBERS), random.choice(NUMBERS))
            if random.random() < 0.3:
                key = random.choice(packed[:50])._replace(nbytes=random.choice(NUMBERS))
            try:
                random.choice(verbs)(key)
            except InvalidKeyError:
                refused += 1
            except (CorruptObjectError, MissingObjectError, StoreError, WaitTimeoutError):
                pass
        assert refused > 1000
        assert connector.get_batch(others) == [b"other", b"s"]


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

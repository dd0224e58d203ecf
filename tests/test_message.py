"""Messages: every object arrives as it was, split anywhere, inline or by a file; errors, too."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fsexchange import (
    CorruptObjectError,
    FileConnector,
    FileKey,
    InvalidKeyError,
    MissingObjectError,
    RemoteError,
    SerializationError,
    StoreError,
)
from fsexchange.mpi import wire
from fsexchange.mpi.message import (
    HEAD_SIZE,
    INTERRUPTED,
    STAND_BY,
    Message,
    Outgoing,
    Pieces,
    attempt,
    decode,
    encode,
    encode_each,
    failure,
    inline,
    is_in_file,
    is_stand_by,
    joined,
    length,
    own_file,
    own_file_key,
    spill,
    split,
)
from fsexchange.serialize import dumps

OBJECTS = {
    "nothing": None,
    "text": "é" * 100,
    "no elements": np.empty((0, 3)),
    "array": np.arange(7.0),
    "one piece at most": np.ones((1 << 16) - 64, "u1"),
    "two pieces": np.arange(100_000.0),
    "huge pages": np.ones(5 << 20, "u1"),
    "many pieces": [np.arange(50_000), {"more": np.ones(3)}, np.full(70_000, 7, "u1")],
}
KEY = FileKey("00c0ffee00c0ffee/7", nbytes=1024)

each_object = pytest.mark.parametrize("obj", OBJECTS.values(), ids=OBJECTS)


@pytest.fixture
def connector(shm_dir: Path) -> Iterator[FileConnector]:
    with FileConnector(shm_dir / "store") as made:
        yield made


def received(pieces: Pieces) -> bytes:
    """Return a message as another process has it."""
    return b"".join(pieces)


def load(connector: FileConnector, message: Message, *, last: bool = False) -> Any:
    return decode(connector, message, 3, "hostb", last=last)


def files(connector: FileConnector) -> list[Path]:
    return list(Path(connector.store_dir).glob("*/[0-9]*"))


def shows(message: Message, array: np.ndarray[Any, Any]) -> bool:
    """Return whether a message is, in part, the memory of an array."""
    return len(message) > 0 and np.shares_memory(np.frombuffer(message, "u1"), array)


# ---- one message --------------------------------------------------------------------------------


@each_object
def test_object_in_its_message(obj: Any, connector: FileConnector) -> None:
    sent = encode(obj)
    message = received(sent.messages[0])
    assert len(message) == length(sent.messages[0][0]) == length(message[:HEAD_SIZE])
    assert sent.longest == len(message) - HEAD_SIZE
    assert (message[0], is_in_file(message), is_stand_by(message)) == (wire.OBJECT, False, False)
    assert own_file_key(message) is None
    assert dumps(load(connector, message)) == dumps(obj)
    assert dumps(load(connector, message + b"the rest of a packet")) == dumps(obj)


@each_object
@pytest.mark.parametrize("at", [HEAD_SIZE, 64, 512, 2048, 1 << 16, 1 << 30])
def test_split_and_joined(obj: Any, at: int) -> None:
    pieces = encode(obj).messages[0]
    whole = received(pieces)
    assert joined(pieces) == whole
    start, rest = split(pieces, at)
    assert bytes(start) == whole[:at]
    assert bytes(rest) == whole[at:]


def test_what_is_copied_and_what_not() -> None:
    short, long = np.zeros(1 << 15, "u1"), np.zeros(1 << 20, "u1")
    assert not any(shows(piece, short) for piece in encode(short).messages[0])
    pieces = encode(long).messages[0]
    assert shows(pieces[-1], long)
    assert shows(split(pieces, 512)[1], long)
    assert not shows(split(pieces, 512)[0], long)
    assert not shows(joined(pieces), long)


def test_stand_by_is_no_other_message() -> None:
    message = received(STAND_BY)
    assert len(message) == length(message) == HEAD_SIZE
    assert is_stand_by(message)
    assert not is_in_file(message)
    assert not any(is_stand_by(other) for other in (own_file(KEY), failure(KeyError(1))))


def test_every_first_byte_and_every_tag_means_one_thing() -> None:
    first_bytes = [wire.OBJECT, wire.OWN_FILE, wire.PART_OF_FILE, wire.FAILURE, wire.STAND_BY]
    tags = [wire.ASK, wire.HERE, wire.ACKNOWLEDGEMENT, wire.REST, wire.WAKE, wire.FIRST_NUMBER]
    for numbers in (first_bytes, tags):
        assert len(set(numbers)) == len(numbers)
    assert max(first_bytes) < 256


# ---- malformed messages -------------------------------------------------------------------------


@each_object
def test_cut_message_is_corrupt(obj: Any, connector: FileConnector) -> None:
    message = received(encode(obj).messages[0])
    for end in (HEAD_SIZE, HEAD_SIZE + 1, len(message) // 2, len(message) - 1):
        with pytest.raises(CorruptObjectError):
            load(connector, message[:end])


def test_head_that_is_cut() -> None:
    for nbytes in range(HEAD_SIZE):
        with pytest.raises(struct.error):
            length(own_file(KEY)[:nbytes])


def test_key_that_is_none(connector: FileConnector) -> None:
    outside = bytearray(own_file(KEY))
    outside[HEAD_SIZE : HEAD_SIZE + 5] = b"../x\0"
    for message in (bytes(outside), own_file(KEY)[:-1]):
        with pytest.raises(InvalidKeyError):
            load(connector, message)
    with pytest.raises(InvalidKeyError):
        own_file_key(outside)


# ---- errors -------------------------------------------------------------------------------------


def test_failure_is_raised_by_its_receiver(connector: FileConnector) -> None:
    sent = encode(threading.Lock())
    assert type(sent.error) is SerializationError
    assert sent.longest == 0
    with pytest.raises(RemoteError, match=r"rank 3 \(hostb\) failed .*lock") as raised:
        load(connector, received(sent.messages[0]))
    error = raised.value
    assert (error.rank, error.host) == (3, "hostb")
    assert type(error.cause) is SerializationError
    assert "message.py" in error.traceback


def test_interrupted_sender(connector: FileConnector) -> None:
    with pytest.raises(RemoteError, match="the sender was interrupted"):
        load(connector, received(INTERRUPTED))


def test_attempt(connector: FileConnector) -> None:
    large = np.ones(1 << 20)
    sent = attempt(lambda: large)
    assert sent.error is None
    assert spill(connector, sent, 0) is sent  # in its message, whatever the limit
    assert np.array_equal(load(connector, received(sent.messages[0])), large)
    for function, kind in ((lambda: 1 // 0, ZeroDivisionError), (threading.Lock, Exception)):
        sent = attempt(function)
        assert isinstance(sent.error, kind)
        with pytest.raises(RemoteError) as raised:
            load(connector, received(sent.messages[0]))
        assert type(raised.value.cause) is type(sent.error)


# ---- a message for each rank --------------------------------------------------------------------


def test_each_rank_has_its_message(connector: FileConnector) -> None:
    sent = encode_each(OBJECTS.values(), len(OBJECTS), "scatter")
    messages = [received(pieces) for pieces in sent.messages]
    assert sent.longest == max(map(len, messages)) - HEAD_SIZE
    assert list(map(dumps, [load(connector, message) for message in messages])) == list(
        map(dumps, OBJECTS.values())
    )
    nothing = encode_each(None, 3, "scatter")
    assert [load(connector, received(pieces)) for pieces in nothing.messages] == [None] * 3


@pytest.mark.parametrize(
    ("objs", "kind", "says"),
    [
        ([1, 2], ValueError, "scatter takes one item for each of the 3 ranks, and got 2"),
        ([1] * 4, ValueError, "got 4"),
        (7, TypeError, "not iterable"),
        ([1, threading.Lock(), 1], SerializationError, "lock"),
    ],
)
def test_mistake_is_sent_to_all(
    objs: Any, kind: type[Exception], says: str, connector: FileConnector
) -> None:
    sent = encode_each(objs, 3, "scatter")
    assert type(sent.error) is kind
    assert len(sent.messages) == 3
    for pieces in sent.messages:
        with pytest.raises(RemoteError, match=says):
            load(connector, received(pieces))


def test_each_object_is_checked(connector: FileConnector) -> None:
    sent = encode_each("123", 3, "scatter", int)
    assert [load(connector, received(pieces)) for pieces in sent.messages] == [1, 2, 3]
    assert type(encode_each("12x", 3, "scatter", int).error) is ValueError


# ---- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("obj", [None, np.arange(1000), [np.ones(100_000)] * 2])
def test_object_with_its_own_file(obj: Any, connector: FileConnector) -> None:
    sent = encode(obj)
    assert spill(connector, sent, sent.longest) is sent
    assert spill(connector, inline(sent), 0).key is None
    assert files(connector) == []
    spilled = spill(connector, sent, sent.longest - 1)
    message = received(spilled.messages[0])
    assert len(message) == length(message) <= 128  # no longer than the shortest packet
    assert is_in_file(message)
    assert own_file_key(message) == spilled.key
    assert dumps(load(connector, message)) == dumps(obj)
    assert len(files(connector)) == 1
    assert dumps(load(connector, message, last=True)) == dumps(obj)
    assert files(connector) == []
    with pytest.raises(MissingObjectError, match="removed before it was received"):
        load(connector, message)


def test_objects_for_several_ranks_share_a_file(connector: FileConnector) -> None:
    objs = [np.arange(1 << 17), "short", [b"x" * 200_001, np.ones(5)], None, np.ones(1 << 16)]
    sent = spill(connector, encode_each(objs, 5, "alltoall"), 1000)
    assert list(sent.readers) == [0, 2, 4]
    assert len(files(connector)) == 1
    messages = [received(pieces) for pieces in sent.messages]
    assert [is_in_file(message) for message in messages] == [True, False, True, False, True]
    for obj, message in zip(objs, messages, strict=True):
        assert len(message) <= 128
        assert own_file_key(message) is None
        got = load(connector, message)
        assert dumps(got) == dumps(obj)
        if isinstance(got, np.ndarray):
            assert got.flags.aligned
    assert sent.key is not None
    connector.evict(sent.key)
    assert files(connector) == []


def test_file_that_cannot_be_read_is_removed_all_the_same(connector: FileConnector) -> None:
    key = connector.put(b"no object" * 100)
    with pytest.raises(CorruptObjectError):
        load(connector, own_file(key), last=True)
    assert files(connector) == []


def test_full_disk_is_sent_to_all(connector: FileConnector) -> None:
    full: Any = connector
    error = StoreError("No space left")

    def put(*_: Any, **options: Any) -> FileKey:
        raise error

    full.put = put
    sent = spill(connector, encode_each([bytes(2000), "short"], 2, "scatter"), 1000)
    assert sent == Outgoing(sent.messages, error=error)
    for pieces in sent.messages:
        with pytest.raises(RemoteError, match="No space left"):
            load(connector, received(pieces))

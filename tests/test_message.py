"""Messages: every object arrives as it was, split anywhere; errors, too."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from fsexchange import (
    RemoteError,
    SerializationError,
)
from fsexchange.mpi import wire
from fsexchange.mpi.codec import Codec
from fsexchange.mpi.message import (
    CALL_SIZE,
    HEAD_SIZE,
    Message,
    Pieces,
    a_call,
    decode,
    is_of,
    joined,
    length,
    of_object,
    private,
    rest,
    start,
    the_call,
)
from fsexchange.mpi.outgoing import Outbox, Outgoing
from fsexchange.mpi.received import empty
from fsexchange.serialize import dumps

OBJECTS = {
    "nothing": None,
    "text": "é" * 100,
    "long text": {"text": "é" * 100_000},
    "no elements": np.empty((0, 3)),
    "array": np.arange(7.0),
    "one piece at most": np.ones((1 << 16) - 1024, "u1"),
    "two pieces": np.arange(100_000.0),
    "huge pages": np.ones(5 << 20, "u1"),
    "many pieces": [np.arange(50_001, dtype="u1"), {"more": np.ones(3)}, np.full(70_000, 7, "u1")],
}
CALL = a_call(wire.BCAST, 3, 1000)
encode = Codec(same_script=True).encode

each_object = pytest.mark.parametrize("obj", OBJECTS.values(), ids=OBJECTS)


def outbox(size: int = 1) -> Outbox:
    """Return one without a slab, of none of the ranks: it sends a message to each."""
    return Outbox(encode, -1, size, None)


def sent_of(obj: Any, make: Any = None) -> Outgoing:
    """Return what is sent of an object that has no room in its packet."""
    packet, sent = outbox().pack(CALL, CALL_SIZE, obj, make)
    assert sent is not None
    assert packet == start(sent.messages[None], CALL_SIZE)
    return sent


def each(objs: Any, size: int, make: Any = None) -> Outgoing:
    packets, sent = outbox(size).pack_each(a_call(wire.SCATTER, 0, 1), CALL_SIZE, objs, make)
    assert sent is not None
    assert packets == [start(sent.messages[rank], CALL_SIZE) for rank in range(size)]
    return sent


def received(pieces: Pieces) -> bytearray:
    """Return a message as another process has it."""
    return bytearray().join(pieces)


def load(message: Message) -> Any:
    return decode(message, 3, "hostb")


def shows(message: Message, array: np.ndarray[Any, Any]) -> bool:
    """Return whether a message is, in part, the memory of an array."""
    return len(message) > 0 and np.shares_memory(np.frombuffer(message, "u1"), array)


# ---- one message --------------------------------------------------------------------------------


@each_object
def test_object_in_its_message(obj: Any) -> None:
    pieces = of_object(CALL, encode(obj))
    message = received(pieces)
    assert len(message) == length(pieces[0]) == length(message[:HEAD_SIZE])
    assert is_of(message, CALL)
    assert dumps(load(message)) == dumps(obj)
    assert dumps(load(message + b"the rest of a packet")) == dumps(obj)
    got = load(message)
    if isinstance(got, np.ndarray):
        assert got.flags.aligned
        assert got.flags.writeable
    assert dumps(private(encode(obj))) == dumps(obj)


def test_small_object_is_its_packet() -> None:
    body = len(encode("a text")[0])
    packet, sent = outbox().pack(CALL, 100, "a text", None)
    assert sent is None
    assert len(packet) == CALL_SIZE + body
    assert packet[:CALL_SIZE] == CALL
    assert load(packet) == "a text"
    assert load(packet + b"what an earlier call has left") == "a text"
    assert length(packet) == 0  # no more than its packet
    for spare in (0, 1):
        packet, sent = outbox().pack(CALL, CALL_SIZE + body - spare, "a text", None)
        assert (sent is None) == (spare == 0)
        assert len(packet) == CALL_SIZE + body - spare


@each_object
@pytest.mark.parametrize("at", [HEAD_SIZE, 64, 512, 2048, 1 << 16, 1 << 30])
def test_split_and_joined(obj: Any, at: int) -> None:
    pieces = of_object(CALL, encode(obj))
    whole = bytes(received(pieces))
    assert joined(pieces) == whole
    assert start(pieces, at) == whole[:at]
    assert bytes(rest(pieces, at)) == whole[at:]


def test_what_is_copied_and_what_not() -> None:
    short, long = np.zeros(1 << 12, "u1"), np.zeros(1 << 20, "u1")
    assert not any(shows(piece, short) for piece in of_object(CALL, encode(short)))
    pieces = of_object(CALL, encode(long))
    assert shows(pieces[-1], long)
    assert shows(rest(pieces, 512), long)
    assert not shows(start(pieces, 512), long)
    assert not shows(joined(pieces), long)
    assert not np.shares_memory(private(encode(long)), long)


def test_small_parts_do_not_keep_the_rest() -> None:
    message = received(of_object(CALL, encode([np.ones(1000), np.ones(1 << 19)])))
    small, large = load(message)
    assert shows(message, large)
    assert not shows(message, small)


def test_every_number_means_one_thing() -> None:
    kinds = [wire.SMALL, wire.PICKLE, wire.BUFFERS, wire.FAILURE]
    tags = [wire.ASK, wire.HERE, wire.OFFER, wire.WRITTEN, wire.SENT_ANYWAY, wire.PACKET]
    rests = [*range(wire.REST, wire.REST + wire.RESTS)]
    for numbers in (kinds, [*tags, *rests, wire.FIRST_NUMBER]):
        assert len(set(numbers)) == len(numbers)
    assert max(kinds) < 256


def test_calls_that_differ() -> None:
    others = (
        a_call(wire.GATHER, 3, 1000),
        a_call(wire.BCAST, 2, 1000),
        a_call(wire.BCAST, 3, 999),
    )
    encoded = encode(OBJECTS["two pieces"])
    assert is_of(received(of_object(CALL, encoded)), CALL)
    assert not any(is_of(received(of_object(other, encoded)), CALL) for other in others)
    assert the_call(CALL) == "bcast of root 3, its collective no. 1000"
    assert the_call(a_call(wire.ALLTOALL, 0, 7)) == "alltoall, its collective no. 7"
    a_call(wire.SCAN, 1 << 20, 1 << 40)  # more ranks and calls than the head has room for


# ---- errors -------------------------------------------------------------------------------------


def test_failure_is_raised_by_its_receiver() -> None:
    sent = sent_of(threading.Lock())
    assert type(sent.error) is SerializationError
    with pytest.raises(RemoteError, match=r"rank 3 \(hostb\) failed .*lock") as raised:
        load(received(sent.messages[None]))
    error = raised.value
    assert (error.rank, error.host) == (3, "hostb")
    assert type(error.cause) is SerializationError
    assert "outgoing.py" in error.traceback


def test_what_is_made_stays_in_its_message() -> None:
    large = np.ones(1 << 20)
    sent = sent_of(None, lambda _: large)
    assert sent.error is None
    assert np.array_equal(load(received(sent.messages[None])), large)
    sent = sent_of(None, lambda _: 1 // 0)
    with pytest.raises(RemoteError) as raised:
        load(received(sent.messages[None]))
    assert type(raised.value.cause) is type(sent.error) is ZeroDivisionError


# ---- a message for each rank --------------------------------------------------------------------


def test_each_rank_has_its_message() -> None:
    sent = each(OBJECTS.values(), len(OBJECTS))
    messages = [received(pieces) for pieces in sent.messages.values()]
    assert list(map(dumps, [load(message) for message in messages])) == list(
        map(dumps, OBJECTS.values())
    )
    packets, sent_beside = outbox(3).pack_each(CALL, 64, None, None)
    assert sent_beside is None
    assert packets == [CALL + encode(None)[0]] * 3


@pytest.mark.parametrize(
    ("objs", "kind", "says"),
    [
        ([1, 2], ValueError, "scatter takes one item for each of the 3 ranks, and got 2"),
        ([1] * 4, ValueError, "got 4"),
        (7, TypeError, "not iterable"),
        ([1, threading.Lock(), 1], SerializationError, "lock"),
    ],
)
def test_mistake_is_sent_to_all(objs: Any, kind: type[Exception], says: str) -> None:
    sent = each(objs, 3)
    assert type(sent.error) is kind
    assert len(sent.messages) == 3
    for pieces in sent.messages.values():
        with pytest.raises(RemoteError, match=says):
            load(received(pieces))


def test_each_object_is_made() -> None:
    sent = each("123", 3, int)
    assert [load(received(pieces)) for pieces in sent.messages.values()] == [1, 2, 3]
    assert type(each("12x", 3, int).error) is ValueError


def test_memory_to_copy_into_is_aligned() -> None:
    for nbytes in (0, 1, 100_000, 1 << 17, 5 << 20, 40 << 20):
        memory = empty(nbytes)
        assert (memory.nbytes, memory.format, memory.readonly) == (nbytes, "B", False)
        assert nbytes < 1 << 17 or np.frombuffer(memory, "u1").ctypes.data % 64 == 0

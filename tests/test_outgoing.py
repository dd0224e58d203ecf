"""What a rank sends in a collective: through the slab, or in messages, and nothing of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fsexchange.mpi import wire
from fsexchange.mpi.codec import Codec
from fsexchange.mpi.message import CALL_SIZE, a_call, decode, joined
from fsexchange.mpi.outgoing import Outbox

CALL = a_call(wire.ALLTOALL, 0, 1)
ROOM = 4096
LARGE = np.arange(3000.0)
encode = Codec(same_script=True).encode


class Slots:
    """As `Bodies`: has so many slots, and counts what becomes of each."""

    def __init__(self, slots: int, error_at: int = -1) -> None:
        self.free = self.slots = slots
        self.error_at = error_at
        self.finished: list[int] = []
        self.asked = 0

    def share(
        self, placed: Any, body: Any, buffers: Sequence[Any], readers: int, most: float
    ) -> bool:
        number, self.asked = self.asked, self.asked + 1
        if number == self.error_at:
            raise MemoryError("no memory")
        if not self.free:
            return False
        self.free -= 1
        placed.placeholder = b"no. %d for %d" % (number, readers)

        def withdraw() -> None:
            self.free += 1
            assert self.free <= self.slots

        placed.withdraw, placed.finish = withdraw, lambda: self.finished.append(number)
        return True


def outbox(slots: Slots, size: int = 4) -> Outbox:
    """Return that of rank 1."""
    bodies: Any = slots
    return Outbox(encode, 1, size, bodies)


def test_for_each_rank() -> None:
    slots = Slots(5)
    packets, sent = outbox(slots).pack_each(CALL, ROOM, ["text", LARGE, LARGE, LARGE], None)
    assert sent is not None
    assert decode(packets[0], 0, "") == "text"
    assert decode(packets[1], 0, "") is None  # of its own object it needs none
    assert packets[2:] == [CALL + b"no. 0 for 1", CALL + b"no. 1 for 1"]
    assert slots.free == 3
    assert not sent.messages


def test_own_object_alone_is_large() -> None:
    slots = Slots(5)
    packets, sent = outbox(slots).pack_each(CALL, ROOM, [1, LARGE, 2, 3], None)
    assert sent is not None
    assert [decode(packet, 0, "") for packet in packets] == [1, None, 2, 3]
    assert (slots.free, sent.messages) == (5, {})


@pytest.mark.parametrize("free", [0, 1, 2])
def test_without_a_slot_for_one_rank_there_is_a_message(free: int) -> None:
    slots = Slots(free)
    packets, sent = outbox(slots).pack_each(CALL, ROOM, [LARGE] * 4, None)
    assert sent is not None
    assert [*sent.messages] == [0, 2, 3][free:]
    for rank, message in sent.messages.items():
        assert np.array_equal(decode(joined(message), 0, ""), LARGE)
        assert packets[rank or 0] == bytes(joined(message))[:ROOM]
    assert slots.free == 0


def test_for_all_ranks() -> None:
    """It lies in the slab once."""
    slots = Slots(1)
    packet, sent = outbox(slots).pack(CALL, ROOM, LARGE, None)
    assert sent is not None
    assert packet == CALL + b"no. 0 for 3"
    assert (slots.free, sent.messages) == (0, {})


def test_without_a_slot_for_all_there_is_one_message() -> None:
    packet, sent = outbox(Slots(0)).pack(CALL, ROOM, LARGE, None)
    assert sent is not None
    assert not sent.placed
    assert packet == bytes(joined(sent.messages[None]))[:ROOM]
    assert len(packet) > CALL_SIZE


@pytest.mark.parametrize("to_all", [True, False])
def test_error_after_some_were_placed(to_all: bool) -> None:
    """All get it, and no slot is lost."""
    slots = Slots(5, error_at=0 if to_all else 2)
    box = outbox(slots)
    if to_all:
        _, sent = box.pack(CALL, ROOM, LARGE, None)
    else:
        packets, sent = box.pack_each(CALL, ROOM, [LARGE] * 4, None)
        assert len(set(packets)) == 1
    assert sent is not None
    assert type(sent.error) is MemoryError
    assert slots.free == 5
    assert not sent.placed


def test_it_is_finished_once_its_packets_are_out() -> None:
    """All of it, if it is called again where one raised."""
    slots = Slots(5)
    packets, sent = outbox(slots).pack_each(CALL, ROOM, [LARGE] * 4, None)
    assert sent is not None
    assert packets[3] == CALL + b"no. 2 for 1"
    assert not slots.finished

    def interrupted() -> None:
        raise KeyboardInterrupt

    finish, sent.placed[1].finish = sent.placed[1].finish, interrupted
    with pytest.raises(KeyboardInterrupt):
        sent.finish()
    sent.placed[1].finish = finish
    sent.finish()
    assert {*slots.finished} == {0, 1, 2}

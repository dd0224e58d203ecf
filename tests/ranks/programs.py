"""Random programs of point-to-point calls that MPI promises to end with one result.

`write(seed, size)` returns the calls of each rank, the same on every rank. They come from one
sequence of events, in which each event can end when those before it have ended: a blocking send is
written where its receive is posted or comes next, a wait where the message of its request has both.
So no program relies on a send that returns before it is received.

Which receive gets which message is simulated. Receives from one source have one solution. Those
from ANY_SOURCE are in groups that have a tag of their own: a group's messages are known, and their
order for each sender, and nothing waits for more than that.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from mpi4py import MPI

# The name of a method of the player, and its arguments.
Call = tuple[Any, ...]

BLOCKING, BUFFERED = ["send", "ssend"], ["bsend"]
SENDING = ["isend", "issend", "ibsend"]
RECEIVING = ["recv", "probe", "Probe", "iprobe", "Iprobe", "mprobe", "improbe", "mprobe irecv"]
ENDING = ["wait", "test", "waitall", "testall", "waitany", "testany", "waitsome", "testsome"]


@dataclass(eq=False)
class Group:
    """Messages that one rank receives from ANY_SOURCE."""

    dest: int
    tag: int
    total: int
    posted_first: bool  # all its receives are posted before its messages are sent
    sent: list[Message] = field(default_factory=list, repr=False)
    posted: int = 0


@dataclass(eq=False)
class Message:
    source: int
    dest: int
    tag: int
    seed: int
    group: Group | None = None
    matched: bool = False


@dataclass(eq=False)
class Receive:
    rank: int
    source: int
    tag: int
    group: Group | None = None
    index: int = 0  # in its group
    message: Message | None = None

    def fits(self, message: Message) -> bool:
        return message.source == self.source and self.tag in (MPI.ANY_TAG, message.tag)


@dataclass(eq=False)
class Pending:
    """A request that its rank has not waited for."""

    name: int
    verb: str
    part: Message | Receive

    def can_end(self) -> bool:
        part, group = self.part, self.part.group
        if isinstance(part, Receive):
            return part.message is not None if group is None else len(group.sent) > part.index
        if group is not None:
            return group.posted_first or group.posted == group.total or self.verb == "ibsend"
        return part.matched or self.verb == "ibsend"


class Writer:
    """Writes events until every message is received and every request waited for."""

    def __init__(self, seed: int, size: int) -> None:
        self.chance = random.Random(seed * 64 + size)
        self.size = size
        self.calls: list[list[Call]] = [[] for _ in range(size)]
        self.unexpected: list[list[Message]] = [[] for _ in range(size)]
        self.posted: list[list[Receive]] = [[] for _ in range(size)]
        self.pending: list[list[Pending]] = [[] for _ in range(size)]
        self.groups: list[Group] = []
        self.names = 0

    def write(self) -> list[list[Call]]:
        events = {
            self.send_without_waiting: 6,
            self.receive_without_waiting: 5,
            self.send_and_receive: 5,
            self.receive_what_came: 4,
            self.exchange: 2,
            self.end_some: 5,
            self.open_group: 1,
            self.go_on_with_group: 5,
            self.all_together: 0.7,
            self.change_nothing: 2,
        }
        for event in self.chance.choices(list(events), list(events.values()), k=self.events()):
            event()
        while self.groups:
            self.go_on_with_group()
        for rank in range(self.size):
            while self.unexpected[rank]:
                self.receive_what_came(rank)
            while self.posted[rank]:
                self.send_what_is_awaited(self.posted[rank][0])
        for rank in self.chance.sample(range(self.size), self.size):
            while self.pending[rank]:
                self.end_some(rank)
        return self.calls

    def events(self) -> int:
        return self.chance.choice([5, 15, 40, 80])

    # ---- what happens ---------------------------------------------------------------------------

    def send(self, message: Message) -> bool:
        """Return whether a posted receive takes the message."""
        for receive in self.posted[message.dest]:
            if receive.fits(message):
                self.posted[message.dest].remove(receive)
                receive.message, message.matched = message, True
                return True
        self.unexpected[message.dest].append(message)
        return False

    def post(self, receive: Receive) -> bool:
        """Return whether a message was there for the receive."""
        for message in self.unexpected[receive.rank]:
            if receive.fits(message):
                self.unexpected[receive.rank].remove(message)
                receive.message, message.matched = message, True
                return True
        self.posted[receive.rank].append(receive)
        return False

    def request(self, verb: str, part: Message | Receive) -> None:
        rank = part.source if isinstance(part, Message) else part.rank
        self.names += 1
        self.pending[rank].append(Pending(self.names, verb, part))
        self.calls[rank].append(("request", verb, self.names, part))

    def receive(self, how: str, receive: Receive) -> None:
        if how in ("irecv", "mprobe irecv"):
            self.request(how, receive)
        else:
            self.calls[receive.rank].append(("recv", how, receive))

    def message(self) -> Message:
        chance = self.chance
        return Message(
            chance.randrange(self.size),
            chance.randrange(self.size),
            chance.choice([0, 0, 1, 2, 32767]),
            chance.getrandbits(30),
        )

    def tag_for(self, message: Message) -> int:
        if any(group.dest == message.dest for group in self.groups) or self.chance.random() < 0.6:
            return message.tag
        return MPI.ANY_TAG

    # ---- events ---------------------------------------------------------------------------------

    def send_without_waiting(self) -> None:
        message = self.message()
        verb = self.chance.choice(SENDING + BUFFERED)
        self.send(message)
        if verb in BUFFERED:
            self.calls[message.source].append(("send", verb, message))
        else:
            self.request(verb, message)

    def receive_without_waiting(self) -> None:
        like = self.message()
        receive = Receive(like.dest, like.source, self.tag_for(like))
        self.post(receive)
        self.request("irecv", receive)

    def send_and_receive(self) -> None:
        """A blocking send to a posted receive, or one beside its blocking receive."""
        message = self.message()
        taken = any(receive.fits(message) for receive in self.posted[message.dest])
        receive = Receive(message.dest, message.source, self.tag_for(message))
        if not taken and (
            message.source == message.dest
            or any(receive.fits(other) for other in self.unexpected[message.dest])
        ):
            return
        self.send(message)
        self.calls[message.source].append(("send", self.chance.choice(BLOCKING), message))
        if not taken:
            self.post(receive)
            self.receive(self.chance.choice(RECEIVING), receive)

    def receive_what_came(self, rank: int | None = None) -> None:
        rank = self.chance.randrange(self.size) if rank is None else rank
        if self.unexpected[rank]:
            like = self.chance.choice(self.unexpected[rank])
            receive = Receive(rank, like.source, self.tag_for(like))
            self.post(receive)
            self.receive(self.chance.choice(RECEIVING), receive)

    def send_what_is_awaited(self, receive: Receive) -> None:
        message = self.message()
        message.source, message.dest = receive.source, receive.rank
        message.tag = message.tag if receive.tag == MPI.ANY_TAG else receive.tag
        self.send(message)
        self.calls[message.source].append(("send", self.chance.choice(BLOCKING), message))

    def exchange(self) -> None:
        """Some ranks in a ring call sendrecv."""
        ring = self.chance.sample(range(self.size), self.chance.randint(1, self.size))
        sent = [self.message() for _ in ring]
        for n, message in enumerate(sent):
            message.source, message.dest = ring[n - 1], ring[n]
        received = [Receive(m.dest, m.source, self.tag_for(m)) for m in sent]
        if any(
            any(receive.fits(other) for other in self.unexpected[receive.rank])
            or any(other.fits(message) for other in self.posted[receive.rank])
            for message, receive in zip(sent, received, strict=True)
        ):
            return
        for message, receive in zip(sent, received, strict=True):
            self.send(message)
            self.post(receive)
            self.calls[message.source].append(
                ("sendrecv", message, next(r for r in received if r.rank == message.source))
            )

    def end_some(self, rank: int | None = None) -> None:
        """End requests, all that can or some, with others beside them that need not end."""
        rank = self.chance.randrange(self.size) if rank is None else rank
        able = [request for request in self.pending[rank] if request.can_end()]
        if not able:
            return
        ended = self.chance.sample(able, self.chance.choice([1, len(able)]))
        beside = [r for r in self.pending[rank] if r not in ended and self.chance.random() < 0.3]
        how = self.chance.choice(ENDING)
        if all(isinstance(request.part, Message) for request in ended + beside):
            how = self.chance.choice([how, "Waitall"])
        if how in ("wait", "test", "waitall", "testall", "Waitall"):
            beside = []
        self.pending[rank] = [request for request in self.pending[rank] if request not in ended]
        named = [r.name for r in ended], [r.name for r in beside]
        self.calls[rank].append(("end", how, *named, self.chance.choice(["own", "MPI"])))

    def open_group(self) -> None:
        dest = self.chance.randrange(self.size)
        if any(receive.tag == MPI.ANY_TAG for receive in self.posted[dest]):
            return
        group = Group(dest, 100 + self.names, self.chance.randint(2, 6), self.chance.random() < 0.5)
        self.names += 1
        self.groups.append(group)
        if group.posted_first:
            for _ in range(group.total):
                self.receive_of(group, "irecv")

    def receive_of(self, group: Group, how: str) -> None:
        receive = Receive(group.dest, MPI.ANY_SOURCE, group.tag, group, group.posted)
        group.posted += 1
        self.receive(how, receive)

    def go_on_with_group(self) -> None:
        if not self.groups:
            return
        group = self.chance.choice(self.groups)
        if len(group.sent) < group.total and (
            group.posted == group.total or self.chance.random() < 0.5
        ):
            message = self.message()
            message.dest, message.tag, message.group = group.dest, group.tag, group
            blocking = BLOCKING if group.posted_first else []
            verb = self.chance.choice([*SENDING, *BUFFERED, *blocking])
            group.sent.append(message)
            if verb in SENDING:
                self.request(verb, message)
            else:
                self.calls[message.source].append(("send", verb, message))
        elif group.posted < group.total:
            there = len(group.sent) > group.posted
            self.receive_of(group, self.chance.choice(RECEIVING) if there else "irecv")
        if len(group.sent) == group.posted == group.total:
            self.groups.remove(group)

    def all_together(self) -> None:
        verb = self.chance.choice(["barrier", "bcast", "allgather"])
        root, seed = self.chance.randrange(self.size), self.chance.getrandbits(30)
        for calls in self.calls:
            calls.append(("collective", verb, root, seed))

    def change_nothing(self) -> None:
        rank = self.chance.randrange(self.size)
        verb = self.chance.choice(["look", "pause", "test", "nobody"])
        if verb != "test":
            self.calls[rank].append((verb,))
        elif self.pending[rank]:
            self.calls[rank].append(("test", self.chance.choice(self.pending[rank]).name))


def write(seed: int, size: int) -> list[list[Call]]:
    """Return the calls of each rank of the program with that seed."""
    return Writer(seed, size).write()

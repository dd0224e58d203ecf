"""Run random programs by a communicator and by an Exchange, with the same results.

    mpirun -n 3 python -m mpi4py -m tests.ranks.random_programs compare DIRECTORY FIRST COUNT
    mpirun -n 3 python -m mpi4py -m tests.ranks.random_programs show DIRECTORY SEED

tests/test_suites.py launches some. A program that hangs ends the job: each rank prints the seed,
and the call in which it is. The environment variable WAYS names what to run them by.
"""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from typing import Any

from mpi4py import MPI

from fsexchange.mpi import Exchange

from .common import base, comm, left_behind, rank, run, same, size
from .contents import content, spoil
from .programs import Call, Message, Receive, write

# Seconds for one program.
PATIENCE = 20
# What `irecv` of a communicator needs for the longest message; an Exchange needs nothing.
ROOM = 2 << 20


class Watch(threading.Thread):
    """Ends the job when a program takes too long."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.doing, self.since = "", time.monotonic()
        self.start()

    def program(self, doing: str) -> None:
        self.doing, self.since = doing, time.monotonic()

    def run(self) -> None:
        while time.monotonic() - self.since < PATIENCE:
            time.sleep(0.5)
        print(f"rank {rank} of {size} hangs in {self.doing}", flush=True)
        faulthandler.dump_traceback()
        time.sleep(2)  # in which the others say it, too
        os._exit(1)


class Player:
    """Makes the calls of this rank by a communicator or an Exchange, and checks their results."""

    def __init__(self, way: Any) -> None:
        self.way = way
        self.requests: dict[int, tuple[Any, Message | Receive]] = {}
        self.received: list[tuple[Receive, int, int, Any]] = []

    def play(self, call: Call) -> None:
        getattr(self, call[0])(*call[1:])

    def check(self) -> None:
        """Compare what was received, once nothing more is: no later message has changed it."""
        assert not any(request for request, _ in self.requests.values())
        of_groups: dict[Any, list[Message]] = {}
        for receive, source, tag, obj in sorted(self.received, key=lambda entry: entry[0].index):
            message = receive.message
            if receive.group is not None:
                sent = of_groups.setdefault(receive.group, list(receive.group.sent))
                message = next(message for message in sent if message.source == source)
                sent.remove(message)
            assert message is not None
            assert (source, tag) == (message.source, message.tag), (source, tag, message)
            assert same(obj, content(message.seed)), (obj, message)

    def take(self, receive: Receive, obj: Any, status: MPI.Status) -> None:
        self.received.append((receive, status.source, status.tag, obj))

    # ---- calls ----------------------------------------------------------------------------------

    def send(self, verb: str, message: Message) -> None:
        obj = content(message.seed)
        assert getattr(self.way, verb)(obj, message.dest, message.tag) is None
        spoil(obj)

    def request(self, verb: str, name: int, part: Message | Receive) -> None:
        if isinstance(part, Message):
            obj = content(part.seed)
            request = getattr(self.way, verb)(obj, dest=part.dest, tag=part.tag)
            spoil(obj)
        elif verb == "irecv":
            room = None if isinstance(self.way, Exchange) and name % 2 else ROOM
            request = self.way.irecv(room, part.source, part.tag)
        else:
            request = self.way.mprobe(part.source, part.tag).irecv()
        self.requests[name] = request, part

    def recv(self, how: str, receive: Receive) -> None:
        status = MPI.Status()
        if how == "recv":
            obj = self.way.recv(None, receive.source, receive.tag, status)
        elif how in ("mprobe", "improbe"):
            while (message := getattr(self.way, how)(receive.source, receive.tag)) is None:
                pass
            obj = message.recv(status)
        else:
            while getattr(self.way, how)(receive.source, receive.tag, status) is False:
                pass
            obj = self.way.recv(source=status.source, tag=status.tag, status=status)
        self.take(receive, obj, status)

    def sendrecv(self, message: Message, receive: Receive) -> None:
        obj, status = content(message.seed), MPI.Status()
        got = self.way.sendrecv(
            obj, message.dest, message.tag, None, receive.source, receive.tag, status
        )
        spoil(obj)
        self.take(receive, got, status)

    def collective(self, verb: str, root: int, seed: int) -> None:
        if verb == "barrier":
            self.way.barrier()
        elif verb == "bcast":
            obj = self.way.bcast(content(seed) if rank == root else None, root)
            assert same(obj, content(seed))
        else:
            objs = self.way.allgather(content(seed + rank))
            assert same(objs, [content(seed + n) for n in range(size)])

    def look(self) -> None:
        self.way.iprobe()

    def pause(self) -> None:
        time.sleep(0.002)

    def nobody(self) -> None:
        self.way.send("nothing", MPI.PROC_NULL)
        assert self.way.recv(source=MPI.PROC_NULL) is None
        assert self.way.isend("nothing", MPI.PROC_NULL).wait() is None
        assert self.way.irecv(source=MPI.PROC_NULL).wait() is None

    # ---- the ends of requests -------------------------------------------------------------------

    def ended(self, name: int, obj: Any, status: MPI.Status) -> None:
        request, part = self.requests.pop(name)
        assert not request
        if isinstance(part, Receive):
            self.take(part, obj, status)
        else:
            assert obj is None

    def test(self, name: int) -> None:
        status = MPI.Status()
        for open_name in self.open([name]):
            flag, obj = self.requests[open_name][0].test(status)
            assert flag or obj is None
            if flag:
                self.ended(name, obj, status)

    def end(self, how: str, names: list[int], beside: list[int], whose: str) -> None:
        """End the requests `names`; those `beside` may end, too."""
        waited, beside = self.open(names), self.open(beside)
        while waited := self.open(waited):
            everyone = [*waited, *self.open(beside)]
            requests = [self.requests[name][0] for name in everyone]
            kind: Any = MPI.Request if whose == "MPI" else type(requests[0])
            for n, obj, status in getattr(self, f"_{how}")(kind, requests):
                self.ended(everyone[n], obj, status)

    def open(self, names: list[int]) -> list[int]:
        return [name for name in names if name in self.requests]

    # Each returns what has ended: indices, objects and statuses.

    def _wait(self, kind: Any, requests: list[Any]) -> list[tuple[int, Any, MPI.Status]]:
        status = MPI.Status()
        return [(0, requests[0].wait(status), status)]

    def _test(self, kind: Any, requests: list[Any]) -> list[tuple[int, Any, MPI.Status]]:
        status = MPI.Status()
        flag, obj = requests[-1].test(status)
        return [(len(requests) - 1, obj, status)] if flag else []

    def _waitall(self, kind: Any, requests: list[Any]) -> list[tuple[int, Any, MPI.Status]]:
        statuses: list[MPI.Status] = []
        return self._zip(range(len(requests)), kind.waitall(requests, statuses), statuses)

    def _testall(self, kind: Any, requests: list[Any]) -> list[tuple[int, Any, MPI.Status]]:
        statuses: list[MPI.Status] = []
        flag, objs = kind.testall(requests, statuses)
        return self._zip(range(len(requests)), objs, statuses) if flag else []

    def _waitany(self, kind: Any, requests: list[Any]) -> list[tuple[int, Any, MPI.Status]]:
        status = MPI.Status()
        return [(*kind.waitany(requests, status), status)]

    def _testany(self, kind: Any, requests: list[Any]) -> list[tuple[int, Any, MPI.Status]]:
        status = MPI.Status()
        n, flag, obj = kind.testany(requests, status)
        return [(n, obj, status)] if flag else []

    def _waitsome(self, kind: Any, requests: list[Any]) -> list[tuple[int, Any, MPI.Status]]:
        statuses: list[MPI.Status] = []
        return self._zip(*kind.waitsome(requests, statuses), statuses)

    def _testsome(self, kind: Any, requests: list[Any]) -> list[tuple[int, Any, MPI.Status]]:
        statuses: list[MPI.Status] = []
        return self._zip(*kind.testsome(requests, statuses), statuses)

    def _Waitall(self, kind: Any, requests: list[Any]) -> list[tuple[int, Any, MPI.Status]]:  # noqa: N802
        kind.Waitall(requests)
        return [(n, None, MPI.Status()) for n in range(len(requests))]

    def _zip(self, *columns: Any) -> list[tuple[int, Any, MPI.Status]]:
        return list(zip(*columns, strict=True))


def compare(first: str, count: str) -> None:
    """Run `count` programs from the seed `first` on, by each way."""
    MPI.Attach_buffer(bytearray(256 << 20))  # for bsend
    watch = Watch()
    names = os.environ.get("WAYS", "comm,files,default").split(",")
    with Exchange(comm) as default, Exchange(comm, base / "store", inline_limit=4096) as files:
        ways = {"comm": comm, "files": files, "default": default}
        for seed in range(int(first), int(first) + int(count)):
            calls = write(seed, size)[rank]
            for name in names if seed % 2 else names[:1] + names[:0:-1]:
                player = Player(ways[name])
                for n, call in enumerate(calls):
                    watch.program(f"program {seed} by {name}, call {n}: {call}")
                    try:
                        player.play(call)
                    except BaseException:
                        print(f"rank {rank} of {size} fails in {watch.doing}", flush=True)
                        raise
                watch.program(f"program {seed} by {name}, at its end")
                comm.Barrier()
                player.check()
        for ex in default, files:
            assert left_behind(ex) == []
    MPI.Detach_buffer()


def show(seed: str) -> None:
    """Print the calls of all ranks."""
    for n, calls in enumerate(write(int(seed), size) if rank == 0 else []):
        print(f"rank {n}", *calls, sep="\n    ")


if __name__ == "__main__":
    run({"compare": compare, "show": show})

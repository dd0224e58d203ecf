"""Hosts: which ranks reach each other's memory."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


class Hosts:
    """The hosts of the ranks of a communicator, as one of these ranks sees them.

    Ranks are on one host here if they reach each other's memory: processes of one machine may be
    in containers that hide them from each other.
    """

    def __init__(self, names: Sequence[str], places: Sequence[Hashable], rank: int) -> None:
        #: The host name of each rank.
        self.names = list(names)
        numbers: dict[Hashable, int] = {}
        #: The host of each rank, numbered in the order of their first ranks.
        self.numbers = [numbers.setdefault(place, len(numbers)) for place in places]
        #: The lowest rank of each host, which makes what its ranks share.
        self.firsts = [self.numbers.index(number) for number in range(len(numbers))]
        self.count = len(numbers)
        #: The ranks of this rank's host.
        self.near = self.on(self.numbers[rank])
        self.first = self.near[0]
        #: All ranks, host by host.
        self.in_order = [rank for number in range(self.count) for rank in self.on(number)]
        self._rank = rank

    def on(self, number: int) -> list[int]:
        """Return the ranks of a host."""
        return [rank for rank, each in enumerate(self.numbers) if each == number]

    def among(self, ranks: Sequence[int]) -> Hosts:
        """Return the hosts of some of the ranks, of which this rank is one."""
        return Hosts(
            [self.names[rank] for rank in ranks],
            [self.numbers[rank] for rank in ranks],
            ranks.index(self._rank),
        )

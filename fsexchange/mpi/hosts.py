"""Hosts: which ranks reach each other's memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence


class Hosts:
    """The hosts of the ranks of a communicator, as one of these ranks sees them.

    Ranks are on one host here if they reach each other's memory: processes of one machine may be
    in containers that hide them from each other.
    """

    def __init__(self, names: Sequence[str], places: Sequence[Hashable], rank: int) -> None:
        #: The host name of each rank.
        self.names = list(names)
        firsts: dict[Hashable, int] = {}
        for each, place in enumerate(places):
            firsts.setdefault(place, each)
        #: The lowest rank of each host, which makes what its ranks share.
        self.firsts = list(firsts.values())
        self.count = len(firsts)
        numbers = {place: number for number, place in enumerate(firsts)}
        #: The host of each rank, in the order of the first ranks.
        self.numbers = [numbers[place] for place in places]
        #: The ranks of this rank's host.
        self.near = [n for n, number in enumerate(self.numbers) if number == self.numbers[rank]]
        self.first = self.near[0]
        #: The ranks of the host that has most of them.
        self.most = max(Counter(self.numbers).values())
        #: All ranks, host by host.
        self.in_order = sorted(range(len(places)), key=self.numbers.__getitem__)
        self._rank = rank

    def among(self, ranks: Sequence[int]) -> Hosts:
        """Return the hosts of some of the ranks, of which this rank is one."""
        return Hosts(
            [self.names[rank] for rank in ranks],
            [self.numbers[rank] for rank in ranks],
            ranks.index(self._rank),
        )

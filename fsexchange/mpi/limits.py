"""Limits: which way an object takes, by its length. This is the one place that says it.

Between two ranks it goes

    up to EAGER             in the message itself
    to a rank of this host  through the slab of its sender, if that has room for all of it, or its
                            receiver waits for it; else by memory that the receiver maps
    to another host         by a message of its own up to `inline_limit`; above, by a file of the
                            store; so also to a rank of this host if one of the two has nothing in C

and among all ranks

    up to EAGER             in the packet; less among many ranks, or between hosts: see `carriers`
    up to THROUGH_SLAB      through the slab, among FEW ranks of one host; what is for each rank up
                            to a share of that
    up to `inline_limit`    by MPI, from array to array (`packets`); all copies of a host together
    above                   by a room (`rooms`): one copy in the memory of each host, passed on from
                            host to host by MPI; but scatter and alltoall by MPI, at any length

What has no room in a host's memory goes by a file of the store, and what has none there by MPI.
"""

from __future__ import annotations

from mpi4py import MPI

#: A message of up to this many bytes MPI takes at once: MPICH 3.4 to 5.0 up to 8,000 bytes and
#: more, Intel MPI 2021 up to 32,000; Open MPI up to 4,096, header included.
EAGER = 7000 if MPI.get_vendor()[0] in ("MPICH", "Intel MPI") else 4000

#: Arrays and bytes of up to this many bytes are inside such a message.
SMALL = EAGER - 928

#: Bytes that may wait for receivers, but for those in the slab, before a `send` waits for its own.
CROWD = 256 << 20

#: Up to so many ranks, all on one host, messages carry packets faster than MPI's collectives.
FEW = 8

#: Bytes that a rank copies into its slab in a collective; an object for all ranks goes in once.
#: MPI copies once, from array to array. With 2, 4 and 8 ranks on two cores of an EPYC, and 128 KiB
#: to 4 MiB, it took 0.8 to 7 times as long where the cores share no cache, mostly 1.3 to 2.5, and
#: 0.6 to 2.2 where they share one; for 8 to 30 MiB 0.74 to 1.1.
THROUGH_SLAB = 4 << 20

#: Bytes that the copies of an object on one host take together if it rides inside its message.
#: Above the limit there is one copy a host, in memory that ranks share. Among 2 and 4 ranks of a
#: host both cost the same where all copies take 64 MiB and are in fresh memory; in memory that was
#: used before copies take a third of the time. What travels beside such objects is added.
INLINE_LIMIT = (64 << 20) + (64 << 10)

#: Bytes from which an array is assembled faster in a room than from messages, which are copied once
#: more: in a half to a third of the time (2 and 4 ranks).
ASSEMBLED_BY_ROOM = 1 << 20

#: Bytes from which allreduce by a room, where each rank reduces its share, takes 0.5 to 1.4 times
#: as long as by MPI (MPICH, 2 and 4 ranks, four runs); from 8 MiB on it is always faster.
REDUCED_BY_ROOM = 4 << 20

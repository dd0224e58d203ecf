"""Buffers: memory for packets, which one call after another uses.

To make some KiB of memory for a call, clear them, and tell MPI what they are, takes as long as to
send a number. What lies behind the message of a packet is left from earlier calls; nobody reads it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mpi4py import MPI

from fsexchange.mpi.message import CALL_SIZE


class Buffer(NamedTuple):
    """Memory for packets of one length."""

    memory: bytearray
    packets: list[memoryview]
    bodies: list[memoryview]
    """Of each packet, what a SMALL message has behind its head."""
    spec: list[Any]
    """The memory as MPI's collectives take it."""


def buffer_of(size: int, count: int = 1) -> Buffer:
    """Return memory for `count` packets of `size` bytes."""
    memory = bytearray(size * count)
    packets = [memoryview(memory)[at : at + size] for at in range(0, len(memory), size)]
    bodies = [packet[CALL_SIZE:] for packet in packets]
    return Buffer(memory, packets, bodies, [memory, size, MPI.BYTE])

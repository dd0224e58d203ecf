"""Interrupt a write, as Ctrl-C does, while the kernel copies half a gigabyte."""

from __future__ import annotations

import mmap
import os
import signal
import sys

from fsexchange.filesystem import files

big = mmap.mmap(-1, 512 << 20)


def interrupt(*_: object) -> None:
    assert os.path.exists(sys.argv[1])  # in the middle
    raise KeyboardInterrupt


signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.02)
try:
    files.create(sys.argv[1], [big], len(big))
except KeyboardInterrupt:
    assert not os.path.exists(sys.argv[1])
else:
    raise AssertionError("was not interrupted")

"""Collect what is dead below a directory: once, between two marks; or, given seconds, repeatedly.

Print how many stores this process has removed.
"""

from __future__ import annotations

import os
import sys
import time

import fsexchange

base, *seconds = sys.argv[1:]
deadline = time.monotonic() + float(seconds[0] if seconds else 0)
fsexchange.gc("/proc/self/task")  # imports all
removed = 0
os.access("/fsexchange-begin", 0)
while True:
    removed += sum(found.removed for found in fsexchange.gc(base, remove=True))
    if time.monotonic() >= deadline:
        break
os.access("/fsexchange-end", 0)
print(removed, flush=True)
os._exit(0)

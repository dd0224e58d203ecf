"""Close all descriptors, as daemons do, and open files: closing the store spares them."""

from __future__ import annotations

import contextlib
import os
import sys

from fsexchange import FileConnector, StoreError

owner = FileConnector(sys.argv[1])
os.closerange(3, 64)
mine = [os.open("/dev/null", os.O_RDONLY) for _ in range(8)]
with contextlib.suppress(StoreError):
    owner.close()
del owner
for fd in mine:
    os.fstat(fd)

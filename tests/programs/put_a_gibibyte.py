"""Put one object of 1 GiB, and print its key."""

from __future__ import annotations

import mmap
import sys

from fsexchange import FileConnector

connector = FileConnector(sys.argv[1])
print(connector.put([mmap.mmap(-1, 1 << 30)]))

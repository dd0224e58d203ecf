"""Own a store, print the key of an object in it, and wait to be killed."""

from __future__ import annotations

import sys
import time

from fsexchange import FileConnector

connector = FileConnector(sys.argv[1])
print(connector.put(b"left behind"), flush=True)
time.sleep(600)

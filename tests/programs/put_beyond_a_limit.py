"""Put more than the limit of a file's size allows, and say what the error says."""

from __future__ import annotations

import resource
import signal
import sys

from fsexchange import FileConnector, StoreError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with FileConnector(sys.argv[1]) as connector:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    try:
        connector.put(bytes(20_000))
    except StoreError as error:
        print(error)

"""Keep a store whose record cannot be written at first."""

from __future__ import annotations

import errno
import resource
import signal
import sys

from fsexchange import FileConnector, StoreError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
connector = FileConnector(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
try:
    connector.close(clear=False)
except StoreError as error:
    assert error.errno == errno.EFBIG, error
else:
    raise AssertionError("no error")
assert connector.owned
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
connector.close(clear=False)

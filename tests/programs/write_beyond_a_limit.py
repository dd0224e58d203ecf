"""Write more than the limit of a file's size allows."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys

from fsexchange.filesystem import files

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    files.create(sys.argv[1], [bytes(6000), bytes(6000)], 12000)
except OSError as error:
    assert error.errno == errno.EFBIG, error
else:
    raise AssertionError("no error")
assert not os.path.exists(sys.argv[1])
files.create(sys.argv[1], [bytes(6000)], 6000)

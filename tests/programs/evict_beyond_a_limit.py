"""Evict objects whose flags a file size limit lets be written in part: that is an error."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys

from fsexchange import FileConnector, StoreError

with FileConnector(sys.argv[1]) as connector:
    keys = connector.put_batch([b"%d" % n for n in range(3000)])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    try:
        connector.evict_batch(keys[:200])
    except StoreError as error:
        assert error.errno == errno.EFBIG, error
    else:
        raise AssertionError("no error")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    assert connector.get_batch(keys[150:]) == [b"%d" % n for n in range(150, 3000)]
    connector.evict_batch(keys)
    assert not os.path.exists(connector.path(keys[0]))

"""Create a file, then read it; say by which error either failed. For a kernel that has faults."""

from __future__ import annotations

import errno
import os
import sys

from fsexchange.filesystem import files

path = sys.argv[1]
try:
    files.create(path, [b"content"], 7)
    print("created")
except OSError as error:
    print(errno.errorcode[error.errno or 0], os.path.exists(path))
    sys.exit()
try:
    print(bytes(files.read(path, 7)), bytes(files.read_part(path, 1, 2)))
except OSError as error:
    print(errno.errorcode[error.errno or 0])

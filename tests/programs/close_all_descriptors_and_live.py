"""Close all descriptors, as daemons do, and use a store an hour later: who is its owner?

Print whether another process that opens it is.
"""

from __future__ import annotations

import os
import subprocess
import sys

from fsexchange import FileConnector
from fsexchange.connector import directory

OPEN = "import sys, fsexchange; print(fsexchange.FileConnector(sys.argv[1]).owned)"

directory._TOUCH_EVERY = 0.0
with FileConnector(sys.argv[1]) as owner:
    os.closerange(3, 64)
    key = owner.put(b"x")
    subprocess.run([sys.executable, "-c", OPEN, sys.argv[1]], check=True)
    assert owner.get(key) == b"x"

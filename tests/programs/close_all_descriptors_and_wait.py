"""Close all descriptors, as daemons do, and print what the `gc` of another makes of the store."""

from __future__ import annotations

import os
import subprocess
import sys

from fsexchange import FileConnector

GC = "import sys, fsexchange; print(fsexchange.gc(sys.argv[1], remove=True)[0].state)"

store, base = sys.argv[1:]
with FileConnector(store) as owner:
    key = owner.put(b"x")
    os.closerange(3, 64)
    subprocess.run([sys.executable, "-c", GC, base], check=True)
    assert owner.get(key) == b"x"

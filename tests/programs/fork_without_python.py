"""Fork as a library in C does: the child, which Python does not know of, frees no lock."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

from fsexchange import FileConnector

path = sys.argv[1]
with FileConnector(path) as owner:
    key = owner.put(b"content")
    pid = ctypes.CDLL(None).fork()
    if pid == 0:
        life = owner.directory._life
        assert life is not None
        life.end()
        os._exit(0)
    os.waitpid(pid, 0)
    code = "import sys; from fsexchange import FileConnector as F; print(F(sys.argv[1]).owned)"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.stdout == "False\n", done
    assert owner.get(key) == b"content"

"""Run another program as another user, once everything that it imports is imported."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fsexchange import Store  # noqa: F401

uid, program = int(sys.argv[1]), sys.argv[2]
path = Path(__file__).with_name(f"{program}.py")
code = compile(path.read_text(), path, "exec", dont_inherit=True)
del sys.argv[1:3]
os.setgid(uid)
os.setuid(uid)
exec(code, {"__name__": "__main__"})

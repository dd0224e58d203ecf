"""Run programs in forked children that stop first, for a tracer: their imports are made once.

Each line read is a program and its arguments, as JSON; the child's number is printed when it has
stopped, and its wait status when it has ended.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import signal
import sys
import traceback

from fsexchange import FileConnector, Store, gc  # noqa: F401 - and all that they import

PR_SET_PTRACER, ANY = 0x59616D61, ctypes.c_ulong(-1)
libc = ctypes.CDLL(None)

for line in sys.stdin:
    program, *arguments = json.loads(line)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            libc.prctl(PR_SET_PTRACER, ANY, 0, 0, 0)  # else root's tracers alone may attach
            os.kill(os.getpid(), signal.SIGSTOP)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # stdout says how victims end
            sys.argv[1:] = arguments
            runpy.run_module(f"{__package__}.{program}", run_name="__main__")
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.waitpid(child, os.WUNTRACED)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)

"""Help and errors of usage wait for no import of numpy, rich, or a store."""

import contextlib
import io
import sys

from fsexchange.cli.program import run

with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    assert run(["--help"]) == 0
    assert run(["--no-such-option"]) == 2
    assert run(["put", "--help"]) == 0
    assert run(["ls"]) == 2
slow = ("numpy", "rich", "cloudpickle", "fsexchange.connector", "fsexchange.store")
assert not [name for name in slow if name in sys.modules]

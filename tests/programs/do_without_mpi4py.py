"""Use a connector where mpi4py is not installed; an Exchange says so, plans and messages do not."""

from __future__ import annotations

import sys

sys.modules["mpi4py"] = None  # type: ignore[assignment]  # as where it is not installed

from fsexchange import FileConnector  # noqa: E402

with FileConnector(sys.argv[1]) as connector:
    assert connector.get(connector.put(b"x")) == b"x"
try:
    from fsexchange.mpi import Exchange  # noqa: F401
except ImportError:
    pass
else:
    raise AssertionError("no error")

"""Use a connector where mpi4py is not installed; importing `fsexchange.mpi` says so."""

from __future__ import annotations

import sys

sys.modules["mpi4py"] = None  # type: ignore[assignment]  # as where it is not installed

from fsexchange import FileConnector  # noqa: E402

with FileConnector(sys.argv[1]) as connector:
    assert connector.get(connector.put(b"x")) == b"x"
try:
    import fsexchange.mpi  # noqa: F401
except ImportError:
    pass
else:
    raise AssertionError("no error")

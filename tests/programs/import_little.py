"""Import fsexchange, and nothing that is optional."""

from __future__ import annotations

import sys

from fsexchange import Store  # noqa: F401

late = {"cloudpickle", "mpi4py", "psutil", "pandas", "proxystore", "matplotlib"} & set(sys.modules)
assert not late, late

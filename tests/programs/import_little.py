"""Import fsexchange, and nothing that is optional."""

from __future__ import annotations

import sys

import fsexchange  # noqa: F401

late = {"cloudpickle", "mpi4py", "psutil", "pandas", "proxystore", "matplotlib"} & set(sys.modules)
assert not late, late

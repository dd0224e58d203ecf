"""What the ranks of MPI tests run. Some have nothing in C, as where there was no compiler."""

import os
import sys

if os.environ.get("FSEXCHANGE_TEST_WAY") == "mixed":
    from mpi4py import MPI

    if MPI.COMM_WORLD.rank >= 2:
        for _layer in ("connector", "filesystem", "mpi", "serialize"):
            sys.modules[f"fsexchange.{_layer}._native"] = None  # type: ignore[assignment]

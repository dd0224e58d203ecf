"""On PYTHONPATH: fsexchange does without what it has in C, as where there was no compiler."""

import sys

for layer in ("connector", "filesystem", "mpi", "serialize"):
    sys.modules[f"fsexchange.{layer}._native"] = None  # to import it is an ImportError

"""On PYTHONPATH: fsexchange does without what it has in C, as where there was no compiler."""

import sys

sys.modules["fsexchange.serialize._native"] = None  # to import it is an ImportError

"""Programs that tests run in interpreters of their own: see `tests/processes.py`."""

"""Clear a store, and die once its witness is gone."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from fsexchange import FileConnector
from fsexchange.connector import sweep


def die(path: str, store_id: str) -> NoReturn:
    os._exit(0)


sweep.remove_store = die
FileConnector(sys.argv[1]).close(clear=True)
raise AssertionError("did not clear by sweep.remove_store")

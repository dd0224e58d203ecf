"""Print the process's id and a key that it makes and never sets."""

from __future__ import annotations

import os
import sys

from fsexchange import Store

print(os.getpid(), Store(sys.argv[1]).connector.new_key())

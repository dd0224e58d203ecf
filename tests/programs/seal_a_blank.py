"""Seal the blank whose pickle is in a file."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

pickle.loads(Path(sys.argv[1]).read_bytes()).seal()

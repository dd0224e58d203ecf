"""Put an object of a class from a directory that other processes do not import from."""

from __future__ import annotations

import importlib
import sys

from fsexchange import FileConnector
from fsexchange.serialize import serialize

store_dir, folder = sys.argv[1:]
sys.path.insert(0, folder)
theirs = importlib.import_module("theirs")
print(FileConnector(store_dir).put(serialize(theirs.Theirs())))

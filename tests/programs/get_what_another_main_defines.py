"""Use an object, a function and a class of another script: see put_what_main_defines.py."""

from __future__ import annotations

import sys

from fsexchange import FileConnector, FileKey
from fsexchange.serialize import deserialize

content = FileConnector(sys.argv[1]).get(FileKey.parse(sys.argv[2]))
assert content is not None
mine, helper, kind = deserialize(content)
print(mine.total(), helper(mine.array), kind(mine.array).total())

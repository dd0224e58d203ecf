"""Get an object of step_of_a_package.py, which is a module here, and put it again."""

from __future__ import annotations

import sys

from fsexchange import FileConnector, FileKey
from fsexchange.serialize import deserialize, serialize

connector = FileConnector(sys.argv[1])
data = connector.get(FileKey.parse(sys.argv[2]))
assert data is not None
result, function = deserialize(data)

from . import step_of_a_package as step  # noqa: E402  (the object comes first: that is the point)

assert type(result) is step.Result
assert function is step.run
print(connector.put(serialize([result, function])))

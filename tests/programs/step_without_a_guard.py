"""A step of a package that runs when it is imported: put an object of a class of its own."""

from __future__ import annotations

import logging
import sys

from fsexchange import FileConnector
from fsexchange.serialize import serialize

log = logging.getLogger(__name__)


class Result:
    pass


print(FileConnector(sys.argv[1]).put(serialize([Result()])))

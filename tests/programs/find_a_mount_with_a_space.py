"""Find the kind of a file system whose mount point has a space in its name."""

from __future__ import annotations

import os
import subprocess
import sys
from unittest import mock

from fsexchange.filesystem.kinds import find_filesystem

path = f"{sys.argv[1]}/with space"
os.mkdir(path)
subprocess.run(["mount", "-t", "ramfs", "none", path], check=True)
# As on btrfs, whose subvolumes have devices that no mount shows: the longest path counts.
with mock.patch("os.major", return_value=-1):
    assert find_filesystem(path).kind == "ramfs"
    assert find_filesystem(sys.argv[1]).kind == "tmpfs"

"""The kind of a file system is found for any path, and the table decides with care."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from fsexchange import StoreError
from fsexchange.filesystem.advice import store_error
from fsexchange.filesystem.kinds import POLICIES, find_filesystem

from .processes import python, small_tmpfs


@pytest.mark.parametrize("path", ["/dev/shm", "/tmp", "/proc", "/"])
def test_kind_is_what_stat_says(path: str, tmp_path: Path) -> None:
    known = {"ext2/ext3": {"ext2", "ext3", "ext4"}, "overlayfs": {"overlay"}}
    out = subprocess.run(["stat", "-fc", "%T", path], capture_output=True, text=True, check=True)
    name = out.stdout.strip()
    assert find_filesystem(path).kind in known.get(name, {name})


def test_a_path_that_is_not_there_yet_counts_with_its_parent(shm_dir: Path) -> None:
    assert find_filesystem(str(shm_dir / "not" / "there")) == find_filesystem("/dev/shm")


def test_a_path_that_comes_and_goes_is_told_all_the_same(shm_dir: Path) -> None:
    path = shm_dir / "there"
    script = "import os, sys\nwhile True: os.mkdir(sys.argv[1]); os.rmdir(sys.argv[1])"
    process = subprocess.Popen([sys.executable, "-c", script, path])
    try:
        found = {find_filesystem(str(path)).kind for _ in range(5000)}
    finally:
        process.kill()
        process.wait()
    assert found == {"tmpfs"}


def test_mount_point_with_a_space_is_found(shm_dir: Path) -> None:
    python("find_a_mount_with_a_space", shm_dir / "x", before=small_tmpfs(shm_dir / "x", 1))


def test_unknown_kinds_are_treated_with_the_most_care() -> None:
    policy = find_filesystem("/proc").policy
    assert policy == POLICIES["nfs"]
    assert (policy.network, policy.mappable, policy.lookup) == (True, False, "list")


def test_local_file_systems_are_mapped_and_opened() -> None:
    for kind in ("ext4", "xfs", "tmpfs"):
        assert POLICIES[kind] == (False, True, "any")


def test_explanation_says_what_where_and_what_to_do() -> None:
    error = store_error(OSError(errno.EDQUOT, "Disk quota exceeded"), "write", "/dev/shm/x/y")
    assert type(error) is StoreError
    assert str(error) == (
        "cannot write /dev/shm/x/y (tmpfs): Disk quota exceeded; your quota is used up: free "
        "space, or choose another directory"
    )
    assert (error.errno, error.path) == (errno.EDQUOT, "/dev/shm/x/y")

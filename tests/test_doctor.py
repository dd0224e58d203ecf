"""`fsexchange doctor`: whether a directory is fit, why not, what to do; `bench`: how fast it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from fsexchange.cli import mounts
from fsexchange.cli.mounts import Mount, memory_left
from fsexchange.cli.ranks import started_as

from .cli import WORDS, Command, environment, fsexchange
from .jobs import mpirun, needs_mpi
from .processes import lacking, read_only, small_tmpfs, strace
from .test_gc import leave


def diagnose(
    path: Path, before: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    """Return the exit status and the document, without what depends on how busy this machine is."""
    done = fsexchange("doctor", path, "--json", before=before, env=env, code=None)
    document = json.loads(done.stdout)
    slow = [f for f in document["findings"] if (f["check"], f["level"]) == ("speed", "matters")]
    document["findings"] = [f for f in document["findings"] if f not in slow]
    left = {finding["level"] for finding in document["findings"]}
    if slow and not left & {"matters", "unfit"}:
        assert done.returncode == 1
        return 0, {**document, "verdict": "fit"}
    return done.returncode, document


def level(document: dict[str, Any], check: str) -> str:
    (found,) = {f["level"] for f in document["findings"] if f["check"] == check}
    return str(found)


def test_a_good_directory_is_fit(base_dir: Path) -> None:
    code, document = diagnose(base_dir)
    assert (code, document["verdict"]) == (0, "fit"), document["findings"]
    assert document["use"] == f'Store("{base_dir}/NAME")'
    assert document["directory"] == str(base_dir)
    assert document["ranks"] == 1
    for finding in document["findings"]:
        assert list(finding) == ["level", "check", "what", "remedy", "host"]
    for check in ("file system", "mount options", "space", "primitives"):
        assert level(document, check) == "ok"
    assert os.listdir(base_dir) == []


def test_the_last_line_says_whether_it_is_fit(shm_dir: Path) -> None:
    last = fsexchange("doctor", shm_dir, code=None).stdout.decode().splitlines()[-1]
    assert last.startswith(f"{shm_dir} is fit")
    shown = fsexchange("doctor", shm_dir / "none", code=2).stdout.decode()
    assert f"-> mkdir -p {shm_dir}/none" in shown
    assert shown.splitlines()[-1].startswith(f"{shm_dir}/none is not fit: there is no directory")


def test_without_a_directory_it_is_the_one_of_default_stores(shm_dir: Path) -> None:
    done = fsexchange("doctor", "--json", env={"FSEXCHANGE_DIR": str(shm_dir)}, code=None)
    assert json.loads(done.stdout)["directory"] == str(shm_dir)


def test_little_room_matters_and_none_is_unfit(shm_dir: Path) -> None:
    small = shm_dir / "small"
    before = small_tmpfs(small, 64)
    code, document = diagnose(small, before)
    assert (code, document["verdict"]) == (1, "fit, with findings")
    assert level(document, "space") == "matters"
    few = [word.replace("size=64m", "size=64m,nr_inodes=200") for word in before]
    assert level(diagnose(small, few)[1], "inodes") == "matters"
    full = [
        word.replace('exec "$@"', f'dd if=/dev/zero of={small}/x 2>/dev/null; exec "$@"')
        for word in before
    ]
    code, document = diagnose(small, full)
    assert (code, document["use"]) == (2, None)
    assert (level(document, "space"), level(document, "primitives")) == ("unfit", "unfit")


@pytest.mark.parametrize(
    ("name", "what", "remedy"),
    [
        ("a none", "there is no directory", "mkdir -p '"),
        ("file", "is not a directory", "choose another"),
        ("file/below", "Not a directory", "choose another"),
        ("link", "symbolic link to nothing", "choose another"),
    ],
)
def test_what_is_no_directory_is_told_with_what_helps(
    name: str, what: str, remedy: str, shm_dir: Path
) -> None:
    (shm_dir / "file").touch()
    (shm_dir / "link").symlink_to("nothing")
    code, document = diagnose(shm_dir / name)
    (finding,) = document["findings"]
    assert (code, finding["level"], finding["check"]) == (2, "unfit", "access")
    assert what in finding["what"]
    assert finding["remedy"].startswith(remedy)


def test_without_a_path_the_exit_code_does_not_say_fit(command: Command) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSEXCHANGE_DIR", "$SCRATCH/me")
        assert "nothing has expanded" in command("doctor", code=2).err


def test_a_read_only_mount_is_unfit(shm_dir: Path) -> None:
    code, document = diagnose(shm_dir, read_only(shm_dir))
    assert code == 2
    assert level(document, "mount options") == "unfit"
    assert level(document, "access") == "unfit"


def test_a_mount_without_links_is_for_markers(shm_dir: Path) -> None:
    code, document = diagnose(
        shm_dir, strace("-f", "-qq", "-o", "/dev/null", "-e", "inject=link,linkat:error=EPERM")
    )
    assert (code, level(document, "link")) == (1, "matters")
    assert document["use"] == f'Store(FileConnector("{shm_dir}/NAME", markers=True))'


def test_dead_stores_matter(shm_dir: Path) -> None:
    leave(shm_dir / "fsexchange-0123456789abcdef")
    code, document = diagnose(shm_dir)
    assert (code, level(document, "dead stores")) == (1, "matters")
    (remedy,) = (f["remedy"] for f in document["findings"] if f["check"] == "dead stores")
    assert remedy == f"fsexchange gc {shm_dir} --yes"
    fsexchange(*remedy.split()[1:])
    assert diagnose(shm_dir)[0] == 0


@pytest.mark.parametrize(
    ("kind", "options", "levels"),
    [
        ("nfs4", "rw,vers=4.2,hard", {"ok"}),
        ("nfs4", "rw,nocto,hard", {"matters"}),
        ("nfs", "rw,soft,noac", {"matters"}),
        ("nfs4", "rw,lookupcache=none", {"note"}),
        ("lustre", "rw,flock", {"ok"}),
        ("lustre", "rw,localflock", {"note"}),
        ("ext4", "rw,nocto", {"ok"}),
        ("ext4", "rw,sync", {"matters"}),
        ("ext4", "ro", {"unfit"}),
    ],
)
def test_mount_options_that_matter(kind: str, options: str, levels: set[str]) -> None:
    mount = Mount("/scratch", "/", kind, "server:/", frozenset(options.split(",")))
    found = list(mounts._options(mount))
    assert {finding.level for finding in found} == levels
    assert all(finding.remedy for finding in found if finding.level in ("matters", "unfit"))


def test_a_directory_for_temporary_files_of_the_jobs_own_matters(shm_dir: Path) -> None:
    script = f'mount --bind {shm_dir} /var/tmp && exec "$@"'
    before = ["unshare", "--mount", "sh", "-c", script, "sh"]
    if subprocess.run([*before, "true"]).returncode:
        lacking("the right to mount in a namespace")
    code, document = diagnose(Path("/var/tmp"), before)
    assert (code, level(document, "private")) == (1, "matters")


def test_memory_is_what_the_least_group_allows(tmp_path: Path) -> None:
    groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    memory = [(kind, group) for _, kind, group in groups if kind == "" or "memory" in kind]
    if not memory:
        lacking("control groups")
    kind, group = memory[0]
    folder = Path(f"{tmp_path}/memory{group}" if kind else f"{tmp_path}{group}")
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    names = names if kind else ("memory.max", "memory.current")
    folder.mkdir(parents=True, exist_ok=True)
    assert memory_left(str(tmp_path)) is None
    for name, number in zip(names, ("1000\n", "400\n"), strict=True):
        (folder / name).write_text(number)
    assert memory_left(str(tmp_path)) == 600
    (folder / names[0]).write_text("max\n")
    assert memory_left(str(tmp_path)) is None


# ---- in the ranks of a job ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "started"),
    [
        ({}, (0, 1)),
        ({"PMI_RANK": "1", "PMI_SIZE": "4"}, (1, 4)),
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"}, (2, 4)),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4"}, (3, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, (0, 1)),  # a batch script itself
    ],
)
def test_what_launchers_tell(env: dict[str, str], started: tuple[int, int]) -> None:
    assert started_as(env) == started


def job(path: Path, *before: str) -> tuple[int, str]:
    words = [*before, *WORDS[:1], "-m", "fsexchange", "doctor", str(path)]
    return mpirun("-n", "2", *words, timeout=120)


@needs_mpi
def test_all_ranks_look(shm_dir: Path) -> None:
    code, out = job(shm_dir)
    assert code in (0, 1), out
    assert out.count("primitives") == 1  # one report
    assert "all 2 ranks see one directory" in out
    for doing in ("a new object", "a set key", "an eviction"):
        assert f"{doing} is seen on" in out
    assert "is fit" in out.splitlines()[-1]
    assert f'Use Exchange(comm, "{shm_dir}/NAME")' in out
    assert os.listdir(shm_dir) == []


@needs_mpi
def test_ranks_that_see_different_mounts_are_named(shm_dir: Path) -> None:
    mounted = shm_dir / "mounted"
    own = small_tmpfs(mounted, 8)  # which hides what the other made
    rank = shm_dir / "rank"
    rank.write_text(
        '#!/bin/sh\nif [ "${PMI_RANK:-$OMPI_COMM_WORLD_RANK}" = 1 ]; then own=$1; shift; '
        'exec unshare --mount sh -c "$own" sh "$@"; fi; shift; exec "$@"\n'
    )
    rank.chmod(0o700)
    (script,) = (word for word in own if word.startswith("mount "))
    code, out = job(mounted, str(rank), script)
    assert code == 2, out
    assert "1 of 2 ranks (1) do not see what rank 0 on" in out
    assert "is another directory there (tmpfs)" in out
    assert "is not fit" in out.splitlines()[-1]


@needs_mpi
def test_tasks_that_mpi_does_not_see_as_one_job_are_told_of(shm_dir: Path) -> None:
    """`srun` without the right --mpi."""
    env = {"SLURM_STEP_NUM_TASKS": "2"}
    code, document = diagnose(shm_dir, env={**env, "SLURM_PROCID": "0"})
    assert (code, level(document, "ranks")) == (1, "matters")
    done = fsexchange("doctor", shm_dir, env={**env, "SLURM_PROCID": "1"})
    assert done.stdout == b""


def test_alone_mpi_is_not_imported(shm_dir: Path) -> None:
    code = (
        "import sys; from click.testing import CliRunner; from fsexchange.cli.program import "
        f"program; CliRunner().invoke(program, ['doctor', {str(shm_dir)!r}]); "
        "assert 'fsexchange.cli.ranks' in sys.modules and 'mpi4py' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())


# ---- bench --------------------------------------------------------------------------------------


def test_bench_measures_each_size_in_turn_with_numpy(shm_dir: Path) -> None:
    done = fsexchange("bench", shm_dir, "--seconds", "0.5", "--json")
    document = json.loads(done.stdout)
    assert (document["directory"], document["file_system"]) == (str(shm_dir), "tmpfs")
    sizes = [row["nbytes"] for row in document["sizes"]]
    assert sizes
    assert sizes == [1 << 10, 64 << 10, 1 << 20, 16 << 20, 256 << 20][: len(sizes)]
    for row in document["sizes"]:
        assert list(row) == ["nbytes", "rounds", "put", "save", "get", "load"]
        assert min(row.values()) > 0
    shown = fsexchange("bench", shm_dir, "--seconds", "0.2")
    assert b"NP.SAVE" in shown.stdout
    assert b"medians in" in shown.stderr
    assert os.listdir(shm_dir) == []


def test_bench_leaves_out_what_has_no_room(shm_dir: Path) -> None:
    small = shm_dir / "small"
    done = fsexchange("bench", small, "--seconds", "0.2", "--json", before=small_tmpfs(small, 20))
    sizes = [row["nbytes"] for row in json.loads(done.stdout)["sizes"]]
    assert sizes == [1 << 10, 64 << 10, 1 << 20][: len(sizes)]
    assert b"left out" in fsexchange("bench", small, before=small_tmpfs(small, 1)).stderr
    full = [
        word.replace('exec "$@"', f'dd if=/dev/zero of={small}/x 2>/dev/null; exec "$@"')
        for word in small_tmpfs(small, 4)
    ]
    assert b"has room for 0 B" in fsexchange("bench", small, before=full, code=6).stderr
    assert b"there is no directory" in fsexchange("bench", shm_dir / "none", code=1).stderr

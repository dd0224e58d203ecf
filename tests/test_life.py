"""The kernel says who lives: a store has one owner at a time, and the next one at once."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fsexchange import FileConnector, FileKey, Store, StoreClosedError, WaitTimeoutError

from .processes import (
    NOBODY,
    ROOT,
    command,
    fork,
    lacking,
    python,
    small_tmpfs,
    strace,
    unprivileged,
)
from .victims import Victims


def owner(store: Path, way: str = "live") -> tuple[subprocess.Popen[str], FileKey]:
    """Return a process that owns a store, and the key of the object in it."""
    process = subprocess.Popen(
        command("live_in_a_way", store, way),
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    assert process.stdout is not None
    return process, FileKey.parse(process.stdout.readline())


def end(process: subprocess.Popen[str]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def wait_to_own(store: Path) -> FileConnector:
    """Return a connector that owns the store, once its owner's end has reached the kernel."""
    start = time.monotonic()
    while not (heir := FileConnector(store)).owned:
        assert time.monotonic() - start < 30
        time.sleep(0.01)
    return heir


def unshared(*words: str) -> list[str]:
    """Return what to run a command with so that it has namespaces of its own."""
    before = ["unshare", *words]
    if shutil.which("unshare") is None or subprocess.run([*before, "true"]).returncode:
        lacking(f"the right to unshare {words}")
    return before


@pytest.mark.slow
@pytest.mark.parametrize(
    "before",
    [
        ["--pid", "--fork"],  # the old /proc
        ["--pid", "--fork", "--mount-proc"],
        ["--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"],  # no /proc
        ["--user", "--map-root-user"],
    ],
    ids=["old proc", "own proc", "no proc", "other user namespace"],
)
def test_living_owner_is_seen_from_everywhere(before: list[str], base_dir: Path) -> None:
    process, key = owner(base_dir / "store")
    try:
        out = python("say_whether_owned", base_dir / "store", before=unshared(*before)).stdout
        assert out == "False\n"
        with FileConnector(base_dir / "store") as attached:
            assert attached.get(key) == b"left behind"
    finally:
        end(process)


def test_owner_that_holds_no_lock_is_not_adopted(base_dir: Path) -> None:
    """It sees a network file system (the same directory by FUSE or NFS), others a local one."""
    process = subprocess.Popen(
        command("own_as_on_a_network", base_dir / "store"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    with FileConnector(base_dir / "store") as attached:
        assert not attached.owned
        future = Store(attached).future()
        with pytest.raises(WaitTimeoutError, match="seems to be alive"):
            future.result(timeout=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSEXCHANGE_DIR", str(base_dir))
        (base_dir / "store").rename(base_dir / f"fsexchange-{16 * 'b'}")
        Store().close()
        (base_dir / f"fsexchange-{16 * 'b'}").rename(base_dir / "store")
    process.communicate("", timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("name", [".fsexchange", ".fsexchange-????????????????"])
def test_living_owner_keeps_its_store_though_a_cleaner_took_a_file(
    name: str, base_dir: Path
) -> None:
    process, key = owner(base_dir / "store")
    try:
        (path,) = (base_dir / "store").glob(name)
        path.unlink()
        for _ in range(2):
            with FileConnector(base_dir / "store") as attached:
                assert not attached.owned
                assert attached.get(key) == b"left behind"
    finally:
        end(process)
    with wait_to_own(base_dir / "store") as heir:
        assert heir.get(key) == b"left behind"
    assert not (base_dir / "store").exists()


def test_child_of_a_fork_without_python_frees_no_lock(shm_dir: Path) -> None:
    python("fork_without_python", shm_dir / "store")


def test_closing_spares_what_has_the_descriptors_of_locks_now(shm_dir: Path) -> None:
    python("close_all_descriptors", shm_dir / "store")


def test_owner_that_lost_its_locks_takes_them_again(shm_dir: Path) -> None:
    """A daemon that closes all descriptors: at most an hour later it is the owner again."""
    done = python("close_all_descriptors_and_live", shm_dir / "store")
    assert done.stdout == "False\n"
    assert not (shm_dir / "store").exists()


@pytest.mark.slow
def test_failed_default_stores_leave_no_directories(shm_dir: Path) -> None:
    base = shm_dir / "small"
    before = small_tmpfs(base, 2)
    python("fail_to_make_default_stores", base, "fill", before=before)
    for inodes in range(2, 6):
        few = [word.replace("size=2m", f"size=2m,nr_inodes={inodes}") for word in before]
        python("fail_to_make_default_stores", base, "do not fill", before=few)


@pytest.mark.parametrize("left", [[], [f".{16 * '0'}.tmp"], [f".fsexchange-{16 * '0'}-ending"]])
def test_what_killed_makers_of_default_stores_leave_goes_with_the_next(
    left: list[str], shm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSEXCHANGE_DIR", str(shm_dir))
    (shm_dir / f"fsexchange-{16 * 'c'}").mkdir(0o1700)
    for name in left:
        (shm_dir / f"fsexchange-{16 * 'c'}" / name).touch()
    Store().close()
    assert os.listdir(shm_dir) == []


def test_owner_in_a_namespace_is_seen_from_outside(base_dir: Path) -> None:
    words = [*unshared("--pid", "--fork"), *command("live_in_a_way", base_dir / "store", "live")]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert not FileConnector(base_dir / "store").owned
    finally:
        end(process)
    wait_to_own(base_dir / "store").close()


@pytest.mark.parametrize(
    "way", ["die with a living child", "become another program", "end by os._exit"]
)
def test_owner_that_is_gone_has_an_heir_at_once(way: str, base_dir: Path) -> None:
    process, key = owner(base_dir / "store", way)
    try:
        assert process.stdout is not None
        if way == "die with a living child":
            assert process.stdout.readline() == "child\n"
        if way != "become another program":
            process.wait()
        with wait_to_own(base_dir / "store") as heir:
            assert heir.get(key) == b"left behind"
        assert not (base_dir / "store").exists()
    finally:
        end(process)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["private", "kept"])
@pytest.mark.parametrize("state", ["new", "left", "ending"])
def test_kill_at_any_system_call_of_opening(
    kind: str, state: str, victims: Victims, shm_dir: Path
) -> None:
    """The next opens at once, finds the objects that there were, and leaves nothing."""

    def prepare(store: Path) -> FileKey | None:
        if state == "new":
            return None
        connector = FileConnector(store, clear=False)
        key = connector.put(b"content")
        connector.close()
        if state == "left" and kind == "private":
            record = store / ".fsexchange"  # as a killed owner leaves it
            text = record.read_text().replace('"clear": false', '"clear": true ')
            record.write_text(text.replace('"locked": false', '"locked": true '))
        if state == "ending":
            (witness,) = store.glob(".fsexchange-????????????????")
            witness.rename(f"{witness}-ending")
        return key

    prepare(shm_dir / "store")
    calls = victims.system_calls(shm_dir / "log", "open_a_store", shm_dir / "store", kind)
    assert len(calls) >= 3
    for call, occurrence in calls:
        store = shm_dir / f"{call}-{occurrence}"
        key = prepare(store)
        victims.kill(call, occurrence, "open_a_store", store, kind)
        start = time.monotonic()
        with FileConnector(store) as connector:
            assert time.monotonic() - start < 5  # not after the patience of 10 s
            if key is not None:
                assert connector.get(key) == (b"content" if state == "left" else None)
            assert connector.get(connector.put(b"goes on")) == b"goes on"
        connector = FileConnector(store)
        connector.close(clear=True)
        assert not store.exists()


def test_full_disk_keeps_nobody_from_adopting_and_clearing(shm_dir: Path) -> None:
    python("adopt_on_a_full_disk", shm_dir / "small", before=small_tmpfs(shm_dir / "small", 2))


def test_store_is_not_swept_under_the_next(shm_dir: Path) -> None:
    """Processes open, use and clear one path: no object that was just put is missing."""
    processes = [
        subprocess.Popen(
            command("open_and_clear_in_turn", shm_dir / "store", "5"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(4)
    ]
    ends = [(*process.communicate(timeout=60), process.returncode) for process in processes]
    assert [(err, status) for _, err, status in ends] == [("", 0)] * 4
    for out, _, _ in ends:
        cycles, lost = map(int, out.split())
        assert cycles > 5
        assert lost == 0
    assert not (shm_dir / "store").exists()


def test_directory_is_removed_as_soon_as_it_is_made(victims: Victims, shm_dir: Path) -> None:
    """A process that clears the store before may do that: the opener makes it anew."""
    log, warm_up = shm_dir / "log", shm_dir / "store"
    first, made = victims.system_calls(log, "open_a_store", warm_up, "private")[0]
    assert first.startswith("mkdir")
    slowly = ["-e", f"inject={first}:delay_exit=500000:when={made}", "-o", "/dev/null"]
    store = shm_dir / "slow"
    victims.start(slowly, "open_a_store", store, "private")
    deadline = time.monotonic() + 30
    while not store.exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    store.rmdir()
    assert victims.finish() == 0
    assert store.exists()
    with wait_to_own(store):
        pass


def test_closers_of_a_kept_store_do_not_mind_each_other(shm_dir: Path) -> None:
    path = shm_dir / "store"
    for _ in range(30):
        FileConnector(path, clear=False).close()
        start = time.monotonic() + 0.02

        def work(start: float = start) -> None:
            time.sleep(max(0.0, start - time.monotonic()))
            FileConnector(path, clear=False).close(clear=True)

        children = [fork(work) for _ in range(2)]
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
        assert not path.exists()


def test_default_store_of_a_killed_owner_goes_with_the_next_of_its_user(shm_dir: Path) -> None:
    """Whatever that user's number is."""
    uid = os.geteuid() if unprivileged() is None else NOBODY
    os.chown(shm_dir, uid, uid)
    env = {**os.environ, "FSEXCHANGE_DIR": str(shm_dir)}
    process = subprocess.Popen(
        command("as_user", str(uid), "leave_a_default_store"),
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=env,
    )
    assert process.stdout is not None
    path = Path(process.stdout.readline().strip())
    process.kill()
    process.wait()
    process.stdout.close()
    assert path.exists()
    python("find_a_default_directory", uid=uid, env=env)
    assert not path.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_default_store_of_a_killed_owner_goes_with_the_next(
    number: signal.Signals, shm_dir: Path
) -> None:
    """And one whose owner lives stays, as does a kept one."""
    env = {"FSEXCHANGE_DIR": str(shm_dir)}
    processes = [
        subprocess.Popen(
            command("leave_a_default_store"),
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **env},
        )
        for _ in range(2)
    ]
    paths = []
    for process in processes:
        assert process.stdout is not None
        paths.append(Path(process.stdout.readline().strip()))
    kept = shm_dir / f"fsexchange-{16 * 'a'}"
    FileConnector(kept, clear=False).close()
    processes[0].send_signal(number)
    processes[0].wait()
    assert paths[0].exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSEXCHANGE_DIR", str(shm_dir))
        with Store():
            assert sorted(p.exists() for p in (*paths, kept)) == [False, True, True]
            assert paths[1].exists()
            assert kept.exists()
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_looking_for_dead_owners_takes_no_store_from_its_maker(shm_dir: Path) -> None:
    """However long a process that looks holds a lock."""
    slow = strace("-qq", "-o", "/dev/null", "-e", "inject=flock:delay_exit=5000")
    words = [*slow, *command("look_for_dead_owners", shm_dir)]
    looker = subprocess.Popen(words, cwd=ROOT, start_new_session=True)
    try:
        python("make_default_stores_in_turn", "50", env={"FSEXCHANGE_DIR": str(shm_dir)})
    finally:
        os.killpg(looker.pid, signal.SIGKILL)
        looker.wait()
    assert os.listdir(shm_dir) == []


def test_readmes_line_for_slurms_epilog_removes_stores_of_dead_owners_alone(shm_dir: Path) -> None:
    if shutil.which("runuser") is None or os.geteuid() != 0:
        lacking("runuser, and the right to use it")
    readme = (Path(ROOT) / "README.md").read_text()
    found = re.search("Epilog, `(.*?)`", readme)
    assert found is not None
    line = found[1].replace("/dev/shm", str(shm_dir))
    line = line.replace(" fsexchange ", f" {sys.executable} -m fsexchange ")
    living, dead = shm_dir / "fsexchange-living", shm_dir / "fsexchange-dead"
    owners = [owner(living)[0], owner(dead)[0]]
    end(owners[1])
    kept = shm_dir / "fsexchange-kept"
    FileConnector(kept, clear=False).close()
    env = {**os.environ, "SLURM_JOB_USER": "root", "PYTHONPATH": str(ROOT)}
    try:
        for _ in range(2):  # the second time it finds none
            done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, env=env)
            assert done.returncode == 0, done.stderr  # else Slurm drains the node
            assert sorted(os.listdir(shm_dir)) == sorted([living.name, kept.name])
    finally:
        end(owners[0])


def test_attached_ones_are_told_when_a_store_was_cleared_by_hand(base_dir: Path) -> None:
    with FileConnector(base_dir / "store") as mine:
        key = mine.put(b"x")
        FileConnector(base_dir / "store").close(clear=True)
        with pytest.raises(StoreClosedError):
            mine.get(key)
        with FileConnector(base_dir / "store") as next_one:
            assert next_one.owned
            assert next_one.store_id != mine.store_id
            mine.close()
            assert next_one.get(next_one.put(b"stays")) == b"stays"


def test_cleaners_of_old_files_take_no_store(base_dir: Path) -> None:
    """They remove what was not read or written for days: the record, the witness, or both."""
    connector = FileConnector(base_dir / "store", clear=False)
    key = connector.put(b"content")
    connector.close()
    for pattern in (".fsexchange", ".fsexchange-????????????????", ".fsexchange*"):
        for path in (base_dir / "store").glob(pattern):
            if path.is_file():
                path.unlink()
        again = FileConnector(base_dir / "store", clear=False)
        assert again.get(key) == b"content"
        again.close()
    FileConnector(base_dir / "store").close(clear=True)
    assert not (base_dir / "store").exists()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_default_store_at_the_top_of_a_script_ends_with_each_process(
    method: str, shm_dir: Path
) -> None:
    """Children import the script, and so make a store each: forkserver's run no atexit handlers."""
    out = python(
        "share_a_store_of_the_main_module", method, env={"FSEXCHANGE_DIR": str(shm_dir)}
    ).stdout
    assert Path(out.strip()).parent == shm_dir
    assert os.listdir(shm_dir) == []


def test_parents_that_a_store_makes_are_its_users_alone(base_dir: Path) -> None:
    umask = os.umask(0)
    try:
        with FileConnector(base_dir / "a" / "b" / "store"):
            for path in ("a", "a/b", "a/b/store"):
                assert (base_dir / path).stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(umask)
    assert not (base_dir / "a" / "b" / "store").exists()
    FileConnector(base_dir / "a" / "b").close()
    assert (base_dir / "a" / "b").exists()


def test_path_that_is_not_there_may_be_one_of_another_host(shm_dir: Path) -> None:
    with FileConnector(shm_dir / "store") as connector:
        config = connector.config()
    with pytest.raises(StoreClosedError, match=r"there is no .*/store on .*does not see"):
        FileConnector.from_config(config)

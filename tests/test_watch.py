"""Waiting for a name in a directory: told by the kernel, else by looks that never stop."""

from __future__ import annotations

import errno
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from fsexchange.filesystem import watch
from fsexchange.filesystem.watch import Watch, until

from .processes import fork

# How late a look may be on a machine that is busy with other tests, in seconds.
NOISE = 0.5


def never() -> None:
    raise AssertionError("called")


def nothing() -> None:
    pass


class Look:
    """Something to wait for that is true at its nth call; it notes the time of each."""

    def __init__(self, true_at: float = float("inf")) -> None:
        self.true_at = true_at
        self.times: list[float] = []

    def __call__(self) -> bool:
        self.times.append(time.monotonic())
        return len(self.times) >= self.true_at


def instances() -> int:
    """Return how many inotify instances this process has."""
    links = Path("/proc/self/fd").iterdir()
    return sum("inotify" in os.readlink(link) for link in links if link.is_symlink())


def longest_pause(times: list[float]) -> float:
    return max(after - before for before, after in pairwise(times))


def wait(
    look: Callable[[], bool],
    folder: Path,
    seconds: float | None,
    *,
    watched: bool = True,
    check: Callable[[], None] = nothing,
) -> bool:
    deadline = None if seconds is None else time.monotonic() + seconds
    return until(look, str(folder), deadline=deadline, watched=watched, check=check)


@pytest.fixture
def no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(seconds: float) -> None:
        raise AssertionError(f"slept {seconds} s")

    monkeypatch.setattr("time.sleep", sleep)


@pytest.fixture
def idle() -> list[Watch]:
    """The idle watches of this process, none at first."""
    watch._idle.clear()
    return watch._idle


# ---- looking -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [None, 60, 0, -1])
@pytest.mark.parametrize("watched", [True, False])
def test_what_is_there_at_once_takes_one_look(
    seconds: float | None, watched: bool, tmp_path: Path, no_sleep: None, idle: list[Watch]
) -> None:
    look = Look(true_at=1)
    assert wait(look, tmp_path, seconds, watched=watched, check=never)
    assert len(look.times) == 1
    assert not idle


@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize("seconds", [0, 0.2, 1.3])
def test_what_never_comes_is_false_at_the_deadline(
    seconds: float, watched: bool, tmp_path: Path
) -> None:
    """Not before it, and not after twice the time."""
    look = Look()
    start = time.monotonic()
    assert not wait(look, tmp_path, seconds, watched=watched)
    assert seconds <= time.monotonic() - start < max(2 * seconds, seconds + NOISE)
    assert look.times[-1] >= start + seconds  # the last look is at the deadline, or after


@pytest.mark.parametrize("seconds", [0, -1])
def test_a_deadline_that_is_past_takes_one_look_and_one_check(
    seconds: float, tmp_path: Path, no_sleep: None
) -> None:
    look = Look()
    checks: list[float] = []
    assert not wait(look, tmp_path, seconds, check=lambda: checks.append(0))
    assert len(look.times) == len(checks) == 1


@pytest.mark.parametrize("watched", [True, False])
def test_check_is_called_at_the_first_vain_look_and_every_second(
    watched: bool, tmp_path: Path
) -> None:
    checks: list[float] = []
    start = time.monotonic()
    assert not wait(
        Look(),
        tmp_path,
        3.2,
        watched=watched,
        check=lambda: checks.append(time.monotonic()),
    )
    assert checks[0] - start < NOISE
    assert longest_pause(checks) < 1 + NOISE
    assert checks[-1] >= start + 3.2  # before it gives up
    assert len(checks) < 10


def test_what_check_raises_ends_the_wait(tmp_path: Path, idle: list[Watch]) -> None:
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1
        if checks == 3:
            raise LookupError("the store is closed")

    with pytest.raises(LookupError, match="closed"):
        wait(Look(), tmp_path, 60, check=check)
    assert checks == 3
    assert len(idle) == 1  # put back all the same


@pytest.mark.parametrize("watched", [True, False])
def test_pauses_between_looks_grow_to_50_ms_and_no_further(
    watched: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kernel does not tell of all changes, or of no more."""
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)

    def refused() -> Watch:
        raise OSError(errno.EMFILE, "inotify_init1")

    monkeypatch.setattr(watch, "take", refused)
    assert wait(Look(true_at=40), tmp_path, None, watched=watched)
    assert len(pauses) == 39
    assert pauses[0] <= 100e-6
    assert sorted(pauses) == pauses
    assert pauses[11:] == [0.05] * 28


def test_no_look_takes_a_watch_before_the_wait_is_worth_it(
    tmp_path: Path, idle: list[Watch]
) -> None:
    assert wait(Look(true_at=3), tmp_path, 60)
    assert not idle


# ---- watching ------------------------------------------------------------------------------------


def rename_into(folder: Path, after: float) -> threading.Timer:
    """Publish `folder`/object as `FileConnector.set` does, `after` some seconds."""
    (folder.parent / "temporary").write_bytes(b"x")
    timer = threading.Timer(after, os.rename, (folder.parent / "temporary", folder / "object"))
    timer.daemon = True
    timer.start()
    return timer


def test_a_rename_into_the_directory_wakes_it(base_dir: Path, idle: list[Watch]) -> None:
    """Long before the next look."""
    folder = base_dir / "writer"
    folder.mkdir()
    look = Look()
    delays = []
    for _ in range(5):
        timer = rename_into(folder, 0.5)
        assert wait(lambda: look() or (folder / "object").exists(), folder, 60)
        delays.append(time.time() - (folder / "object").stat().st_ctime)
        timer.join()
        (folder / "object").unlink()
    assert min(delays) < 0.02, delays
    assert len(idle) == 1
    assert len(look.times) < 5 * 11  # it slept; without a watch there are 18 looks each


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir])
def test_a_new_name_wakes_a_watch(make: Callable[[Path], None], tmp_path: Path) -> None:
    woken = Watch()
    number = woken.add(str(tmp_path))
    start = time.monotonic()
    assert woken.wait(0.05) == []
    assert time.monotonic() - start >= 0.04  # nothing has happened
    make(tmp_path / "object")
    start = time.monotonic()
    assert woken.wait(30) == [(number, "object")]
    assert time.monotonic() - start < 10


def test_one_watch_tells_several_directories_apart(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    one = Watch()
    numbers = []
    for folder in folders:
        folder.mkdir()
        numbers.append(one.add(str(folder)))
    for folder in folders:
        (folder / f"in {folder.name}").touch()
    folders[0].rename(tmp_path / "moved")
    (folders[1] / "in b").unlink()
    folders[1].rmdir()
    a, b, c = numbers
    assert one.wait(30) == [(a, "in a"), (b, "in b"), (c, "in c"), (b, "")]
    one.remove(c)
    (folders[2] / "late").touch()
    one.wait(0)
    assert one.wait(0.05) == []


def test_more_events_than_the_kernel_keeps_are_told_as_such(tmp_path: Path) -> None:
    one = Watch()
    one.add(str(tmp_path))
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    (tmp_path / "0").touch()
    for n in range(most + 10):
        os.rename(tmp_path / str(n), tmp_path / str(n + 1))
    events = []
    while found := one.wait(0):
        events += found
    assert events[-1] == (-1, "")
    assert len(events) == most + 1


def test_a_descriptor_wakes_it_too(tmp_path: Path) -> None:
    one = Watch()
    one.add(str(tmp_path))
    wake = os.eventfd(1)
    start = time.monotonic()
    assert one.wait(30, wake=wake) == []
    assert time.monotonic() - start < 10
    os.close(wake)


def test_a_directory_that_goes_wakes_it(tmp_path: Path, idle: list[Watch]) -> None:
    """Before the next look, which is due after a second."""
    folder = tmp_path / "writer"

    def check() -> None:
        if not folder.exists():
            raise LookupError("gone")

    times = []
    for _ in range(3):
        folder.mkdir()
        timer = threading.Timer(0.2, folder.rmdir)
        timer.start()
        start = time.monotonic()
        with pytest.raises(LookupError):
            wait(Look(), folder, 60, check=check)
        times.append(time.monotonic() - start)
        timer.join()
    assert min(times) < 0.7, times
    assert len(idle) == 1  # good for other directories


def test_a_watch_is_put_back_and_used_again(tmp_path: Path, idle: list[Watch]) -> None:
    first = Watch()
    idle.append(first)
    for name in "abc":
        (tmp_path / name).mkdir()
        assert not wait(Look(), tmp_path / name, 0.1)
        assert idle == [first]


def test_a_watch_used_again_does_not_watch_the_directory_before(
    tmp_path: Path, idle: list[Watch]
) -> None:
    before, now = tmp_path / "before", tmp_path / "now"
    before.mkdir()
    now.mkdir()
    assert not wait(Look(), before, 0.1)
    (watched,) = idle
    number = watched.add(str(now))
    watched.wait(0)  # an event that is left of the removal
    (before / "object").touch()
    assert watched.wait(0.1) == []
    (now / "object").touch()
    assert watched.wait(30) == [(number, "object")]


def test_waits_at_a_time_take_a_watch_each(tmp_path: Path, idle: list[Watch]) -> None:
    threads = [threading.Thread(target=wait, args=(Look(), tmp_path, 0.5)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= len(idle) <= 4
    assert len(set(map(id, idle))) == len(idle)


def test_few_idle_watches_are_kept(tmp_path: Path, idle: list[Watch]) -> None:
    """However many threads have waited at once: a user has 128 inotify instances in all."""
    gate = threading.Barrier(20)

    def work() -> None:
        one = watch.take()
        one.add(str(tmp_path))
        gate.wait()
        watch.put_back(one)

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(idle) == instances() == 4


def test_a_forked_child_takes_no_events_from_its_parent(tmp_path: Path, idle: list[Watch]) -> None:
    """Neither from idle watches nor from those in use; it can have watches of its own."""
    one, other = watch.take(), watch.take()
    number = one.add(str(tmp_path))
    watch.put_back(other)

    def work() -> None:
        assert instances() == 0
        with pytest.raises(OSError, match="Bad file descriptor"):
            one.wait(0)
        watch.put_back(one)
        assert not idle
        assert wait(Look(true_at=20), tmp_path, 60)
        assert len(idle) == 1

    child = fork(work)
    assert os.waitpid(child, 0)[1] == 0
    (tmp_path / "object").touch()
    assert one.wait(30) == [(number, "object")]
    assert idle == [other]


def test_a_child_that_is_forked_in_mid_wait_goes_on_looking(tmp_path: Path) -> None:
    """By a handler of a signal, which then returns into the wait."""
    pids = []
    before = signal.signal(signal.SIGALRM, lambda *_: pids.append(os.fork()))
    look = Look()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        timer = rename_into(tmp_path, 1)
        came = wait(lambda: look() or (tmp_path / "object").exists(), tmp_path, 60)
        if pids == [0]:
            os._exit(not (came and watch._idle == []))
    except BaseException:
        if pids == [0]:
            os._exit(1)
        raise
    finally:
        signal.signal(signal.SIGALRM, before)
    timer.join()
    assert came
    assert os.waitpid(pids[0], 0)[1] == 0


def test_what_comes_before_the_watch_does_is_seen(
    tmp_path: Path, idle: list[Watch], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the watch: no event tells of it, so it looks again at once."""
    real = Watch.add

    def add(self: Watch, folder: str) -> None:
        (tmp_path / "object").touch()
        real(self, folder)

    def asleep(self: Watch, seconds: float) -> None:
        raise AssertionError(f"slept {seconds} s")

    monkeypatch.setattr(Watch, "add", add)
    monkeypatch.setattr(Watch, "wait", asleep)
    assert wait((tmp_path / "object").exists, tmp_path, 60)


# ---- without a watch -----------------------------------------------------------------------------


def test_looks_go_on_where_inotify_is_exhausted(tmp_path: Path, idle: list[Watch]) -> None:
    """EMFILE without a descriptor, as without an instance: fs.inotify.max_user_instances."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    look = Look(true_at=15)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(OSError, match="inotify_init1") as caught:
            Watch()
        assert wait(look, tmp_path, 60)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE
    assert longest_pause(look.times) < 0.05 + NOISE
    assert not idle


def test_looks_go_on_where_the_directory_is_gone(tmp_path: Path, idle: list[Watch]) -> None:
    """It is for `check` to say whether that ends the wait."""
    look = Look(true_at=20)
    assert wait(look, tmp_path / "gone", 60)
    assert longest_pause(look.times) < 0.05 + NOISE
    with pytest.raises(FileNotFoundError, match="inotify_add_watch"):
        Watch().add(str(tmp_path / "gone"))
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        Watch().add(str(tmp_path / "file"))


def test_a_watch_closes_itself(tmp_path: Path) -> None:
    before = instances()
    one = Watch()
    one.add(str(tmp_path))
    assert instances() == before + 1
    del one
    assert instances() == before

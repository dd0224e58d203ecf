"""The command as a whole: help, errors, exit codes, signals."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import fsexchange as package
from fsexchange import Store
from fsexchange.cli import program
from fsexchange.cli.program import COMMANDS

from .cli import WORDS, Command, environment, fsexchange
from .processes import ROOT, python


def test_help_lists_every_subcommand(command: Command) -> None:
    shown = " ".join(command("--help").text.split())
    assert all(f"{name} {summary}" in shown for name, summary in COMMANDS.items())


def test_help_imports_nothing_that_takes_long() -> None:
    python("import_little_for_help")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_subcommand_is_in_a_module_of_its_name(command: Command, name: str) -> None:
    module = importlib.import_module(f"fsexchange.cli.{name}")
    assert module.command.name == name
    assert " ".join(module.command.help.split("\n\n")[0].split()) == COMMANDS[name]
    assert f"fsexchange {name}" in command(name, "--help").text


def test_version(command: Command) -> None:
    assert command("--version").text == f"fsexchange, version {package.__version__}\n"


def test_without_a_subcommand_it_shows_help_and_fails() -> None:
    assert b"Commands:" in fsexchange(code=program.USAGE).stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["get", "x", "out.npy"], "Got unexpected extra argument (out.npy); see fsexchange get"),
        (["list"], "no such command 'list': there are init, put, get, wait,"),
        (["names", "--jsno"], "No such option '--jsno'. (Did you mean"),
        (["put", "x", "--name", "0123456789abcdef/0"], "is the form of a key"),
        (["put"], "Missing argument 'FILE|-'; see fsexchange put --help"),
        (["names"], "which store? Pass --store DIR, or set FSEXCHANGE_STORE"),
        (["ls", "--sort", "colour"], "Invalid value for '--sort': 'colour' is not one of"),
        (["wait", "x", "--timeout", "-1"], "'-1' is no duration, such as 90, 90s, 5m"),
    ],
)
def test_usage_errors_are_one_line(command: Command, words: list[str], message: str) -> None:
    assert message in command(*words, code=program.USAGE).err


@pytest.mark.parametrize(
    "words", [["names"], ["ls"], ["du"], ["info", "x"], ["get", "x"], ["wait", "x"], ["clear"]]
)
def test_where_no_store_is(command: Command, shm_dir: Path, words: list[str]) -> None:
    for path in (shm_dir, shm_dir / "nowhere", "/dev/null"):
        done = command(*words, "--store", path, code=program.REFUSED)
        assert f"there is no store at {path}" in done.err
    assert list(shm_dir.iterdir()) == []


def test_a_closed_store_is_refused(command: Command, shm_dir: Path) -> None:
    with Store(shm_dir / "store") as store:
        store.put(1, name="x")
    command("get", "x", "--store", shm_dir / "store", code=program.REFUSED)


def test_a_directory_that_others_can_write_to_is_refused(command: Command, shm_dir: Path) -> None:
    with Store(shm_dir, clear=False) as store:
        store.put(1, name="x")
    os.chmod(shm_dir, 0o777)
    for words in (["get", "x"], ["put", "/etc/hostname"], ["evict", "x"], ["clear"]):
        assert "writable by others" in command(*words, "--store", shm_dir, code=program.REFUSED).err
    assert "pickle of int" in command("ls", "--store", shm_dir).text  # but may be looked at


def test_a_store_is_named_before_or_behind(command: Command, shm_dir: Path) -> None:
    path = shm_dir / "store"
    with Store(path, clear=False) as store:
        store.put(1, name="x")
    command.use("/nowhere")
    assert "x" in command("--store", path, "names").text
    assert "x" in command("names", path).text
    assert "x" in command("names", "--store", path).text
    assert "x" in command("--store", "/not/there", "names", "--store", path).text


def test_streams_that_are_closed(shm_dir: Path) -> None:
    with Store(shm_dir / "store", clear=False) as store:
        store.put(b"bytes", name="x")
    for redirected, code in ((">&-", 1), ("2>&-", 0), ("<&-", 0), (">/dev/full", program.FULL)):
        done = subprocess.run(
            ["sh", "-c", f'"$@" get x {redirected}', "sh", *WORDS],
            capture_output=True,
            text=True,
            env=environment(shm_dir / "store"),
        )
        assert (done.returncode, done.stderr.count("\n")) == (code, int(code > 0)), redirected
        assert done.stdout == ("bytes" if code == 0 else "")


@pytest.mark.parametrize("redirected", [">&-", "> /dev/full"])
def test_what_cannot_be_printed_leaves_nothing(shm_dir: Path, redirected: str) -> None:
    fsexchange("init", shm_dir / "store")
    code = 1 if redirected == ">&-" else program.FULL
    for words in (["put", "/etc/hostname"], ["init"], ["names"], ["ls", "--json"]):
        with Store(shm_dir / "store") as store:
            store.put(1, name="x", replace=True)
        done = subprocess.run(
            ["sh", "-c", f'"$@" {redirected}', "sh", *WORDS, *words],
            capture_output=True,
            text=True,
            env=environment(shm_dir / "store", FSEXCHANGE_DIR=str(shm_dir)),
        )
        assert done.returncode == code, (words, done.stderr)
        assert done.stderr.splitlines()[-1].startswith("fsexchange: stdin or stdout: ")
    assert os.listdir(shm_dir) == ["store"]
    objects = json.loads(fsexchange("ls", "--json", store=shm_dir / "store").stdout)["objects"]
    assert [each["names"] for each in objects] == [["x"]]


def test_no_stdin_to_put(shm_dir: Path) -> None:
    fsexchange("init", shm_dir / "store")
    done = subprocess.run(
        ["sh", "-c", '"$@" put - <&-', "sh", *WORDS],
        capture_output=True,
        text=True,
        env=environment(shm_dir / "store"),
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "fsexchange: stdin or stdout: Bad file descriptor\n"


class Raising:
    """Raises as it is unpickled."""

    def __init__(self, error: str) -> None:
        self._error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return _raise, (self._error,)


def _raise(error: str) -> None:
    raise {"exit": SystemExit("text"), "cancelled": asyncio.CancelledError("by\nit")}[error]


def test_whatever_an_object_raises_is_an_error(command: Command, shm_dir: Path) -> None:
    with Store(shm_dir / "store", clear=False) as store:
        store.put(Raising("exit"), name="exit")
        store.put(Raising("cancelled"), name="cancelled")
    command.use(shm_dir / "store")
    assert command("get", "exit", code=1).err == "fsexchange: SystemExit: text\n"
    assert command("get", "cancelled", code=1).err == "fsexchange: CancelledError: by it\n"


def test_an_exception_of_a_future_is_one_line(command: Command, shm_dir: Path) -> None:
    with Store(shm_dir / "store", clear=False) as store:
        future = store.future()
        future.set_exception(RuntimeError("step 3\nfailed"))
        command.use(shm_dir / "store")
        key = str(future.ref.key)
        assert command("get", key, code=1).err == "fsexchange: RuntimeError: step 3 failed\n"


def test_without_click_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['click'] = None; from fsexchange.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "pip install 'fsexchange[cli]'" in done.stderr


def test_warnings_are_one_line(shm_dir: Path) -> None:
    store = shm_dir / "store"
    fsexchange("init", store)
    (store / "mine").write_text("a user's")
    done = subprocess.run(
        [sys.executable, "-m", "fsexchange", "clear", store],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == 0
    assert done.stderr.startswith(f"fsexchange: warning: {store} was not removed: it holds")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_wait(shm_dir: Path, number: int) -> None:
    """It ends by the signal, as a shell that runs a loop must know; the shell says 128 + number."""
    fsexchange("init", shm_dir / "store")
    with subprocess.Popen(
        [*WORDS, "wait", "never"],
        stderr=subprocess.PIPE,
        env=environment(shm_dir / "store"),
        # As a terminal starts it, whatever has started this test.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        _until_it_waits(process.pid)
        process.send_signal(number)
        assert process.wait(30) == -number
        assert process.stderr is not None
        assert process.stderr.read().strip() == b""


def _until_it_waits(pid: int) -> None:
    """Return once a process has told the kernel what it waits for."""
    while True:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if "inotify" in os.readlink(link):
                    return
        time.sleep(0.02)


def test_names_are_completed(shm_dir: Path) -> None:
    with Store(shm_dir / "store", clear=False) as store:
        store.put(1, name="mesh/coarse")
        store.put(2, name="mesh fine")
        store.put(3, name="other")
    env = {
        "_FSEXCHANGE_COMPLETE": "bash_complete",
        "COMP_WORDS": "fsexchange get mesh",
        "COMP_CWORD": "2",
    }
    done = fsexchange(store=shm_dir / "store", env=env)
    assert done.stdout == b"plain,mesh fine\nplain,mesh/coarse\n"
    done = fsexchange(
        store="/nowhere", env={**env, "COMP_WORDS": "fsexchange ge", "COMP_CWORD": "1"}
    )
    assert done.stdout == b"plain,get\n"
    assert fsexchange(store="/nowhere", env=env).stdout == b"\n"


def test_a_shell_gets_a_script_for_completion() -> None:
    done = fsexchange(env={"_FSEXCHANGE_COMPLETE": "bash_source"})
    assert b"complete -o nosort -F" in done.stdout

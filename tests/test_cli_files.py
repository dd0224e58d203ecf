"""Files that become objects, and objects that become files: put, get, pipes, progress."""

from __future__ import annotations

import os
import pickle
import pty
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fsexchange import FileKey, Store
from fsexchange.cli import program

from .cli import WORDS, Command, environment, fsexchange, read_all
from .processes import small_tmpfs


@pytest.fixture
def store(command: Command, shm_dir: Path) -> Iterator[Store]:
    """A kept store, which the command uses."""
    command.use(shm_dir / "store")
    with Store(shm_dir / "store", clear=False) as store:
        yield store


def test_init_makes_a_store_and_names_it_for_a_shell(command: Command, shm_dir: Path) -> None:
    path = shm_dir / "my store's"
    quoted = f"'{shm_dir}/my store'\"'\"'s'"
    assert command("init", path).text == f"export FSEXCHANGE_STORE={quoted}\n"
    with Store(path) as store:
        assert not store.connector.owned
        store.put(1, name="x")
    assert command("init", path).text == f"export FSEXCHANGE_STORE={quoted}\n"  # used again
    with Store(path) as store:
        assert store.get("x") == 1


def test_init_without_a_directory(command: Command, shm_dir: Path) -> None:
    script = 'eval "$("$@" init)" && "$@" put /etc/hostname --name h && "$@" get h && "$@" clear'
    done = subprocess.run(
        ["sh", "-ec", script, "sh", *WORDS],
        capture_output=True,
        env=environment(FSEXCHANGE_DIR=str(shm_dir)),
    )
    assert done.returncode == 0, done.stderr
    assert Path("/etc/hostname").read_bytes() in done.stdout
    assert f"cleared {shm_dir}/fsexchange-".encode() in done.stdout
    assert list(shm_dir.iterdir()) == []


def test_init_tells_of_the_store_that_was_named_before(
    command: Command, store: Store, shm_dir: Path
) -> None:
    assert str(store.store_dir) in command("init", shm_dir / "other").err
    assert command("init", store.store_dir).err == ""


def test_clear_says_how_much_went(command: Command, store: Store) -> None:
    store.put(np.zeros(1 << 20))
    store.put_batch([1, 2, 3])
    assert command("clear").text == f"cleared {store.store_dir}: 2 files of objects, 8.0 MiB\n"
    assert not os.path.exists(store.store_dir)


def test_an_array_goes_in_and_out(command: Command, store: Store, tmp_path: Path) -> None:
    array = np.random.default_rng(1).random((500, 300))
    for name, each in {"c": array, "f": np.asfortranarray(array), "e": array[:0]}.items():
        np.save(tmp_path / "in.npy", each)
        key = FileKey.parse(command("put", tmp_path / "in.npy", "--name", f"a/{name}").text)
        assert store.names[f"a/{name}"] == key
        got = store.get(key)
        assert type(got) is np.ndarray
        assert np.array_equal(got, each)
        command("get", f"a/{name}", "-o", tmp_path / "out.npy")
        assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "in.npy").read_bytes()
        assert command("get", str(key)).out == (tmp_path / "in.npy").read_bytes()
    mapped = np.load(tmp_path / "out.npy", mmap_mode="r" if array[:0].size else None)
    assert mapped.shape == (0, 300)


@pytest.mark.parametrize(
    "obj",
    [
        np.arange(6.0).reshape(2, 3),
        np.arange(6.0).reshape(2, 3).T,
        np.zeros(2, [("a", "i4"), ("b", "f8")]),
        np.ma.masked_array([1, 2], [True, False]).data,
        np.float32(2) * np.ones(1 << 18),
    ],
)
def test_an_array_of_python_is_mapped_from_its_file(
    command: Command, store: Store, tmp_path: Path, obj: Any
) -> None:
    store.put(obj, name="x")
    command("get", "x", "-o", tmp_path / "x.npy")
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert type(mapped) is np.memmap
    assert np.array_equal(mapped, obj)
    assert oct((tmp_path / "x.npy").stat().st_mode & 0o777) == oct(0o666 & ~_umask())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    "data", [b"", b"hello\n", b"\0" * 100_000, b"\x93NUM", b"PK\x03\x04no zip"]
)
def test_any_other_file_is_bytes(
    command: Command, store: Store, tmp_path: Path, data: bytes
) -> None:
    (tmp_path / "x").write_bytes(data)
    command("put", tmp_path / "x", "--name", "x")
    assert store.get("x") == data
    assert command("get", "x").out == data
    assert fsexchange("put", "-", "--name", "y", store=store.store_dir, stdin=data).stderr == b""
    assert store.get("y") == data


def test_bytes_and_text_of_python(command: Command, store: Store) -> None:
    for obj in (b"short", b"long" * 9999, bytearray(5000), "häß", "lång" * 9999):
        store.put(obj, name="x", replace=True)
        assert command("get", "x").out == (obj.encode() if isinstance(obj, str) else obj)


def test_npz_is_a_dict_of_arrays(command: Command, store: Store, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.arange(3), b=np.ones((2, 2)))
    command("put", tmp_path / "x.npz", "--name", "x")
    assert np.array_equal(store.get("x")["b"], np.ones((2, 2)))
    command("get", "x", "-o", tmp_path / "y.npz")
    with np.load(tmp_path / "y.npz") as again:
        assert sorted(again) == ["a", "b"]
    piped = (tmp_path / "x.npz").read_bytes()
    fsexchange("put", "-", "--name", "p", store=store.store_dir, stdin=piped)
    assert list(store.get("p")) == ["a", "b"]


def test_npz_keeps_every_array(command: Command, store: Store, tmp_path: Path) -> None:
    arrays = {
        "file": np.arange(2),
        "allow_pickle": np.arange(3),
        "": np.ones(1),
        "a.npy": np.ones(2),
    }
    store.put(arrays, name="x")
    command("get", "x", "-o", tmp_path / "y.npz")
    with np.load(tmp_path / "y.npz") as again:
        assert {name: list(again[name]) for name in again} == {k: list(arrays[k]) for k in arrays}
    store.put({"a": np.ma.masked_less(np.arange(3), 1)}, name="masked")
    assert "--pickle" in command("get", "masked", "-o", tmp_path / "z.npz", code=1).err


def test_archives_that_python_cannot_read_are_bytes(
    command: Command, store: Store, tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", a=np.arange(3))
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[data.rindex(b"PK\1\2") + 6] = 99  # needs a zip of version 9.9
    (tmp_path / "x.npz").write_bytes(data)
    command("put", tmp_path / "x.npz", "--name", "x")
    assert store.get("x") == data
    assert "version 9.9" in command("put", tmp_path / "x.npz", "--format", "npz", code=1).err


def test_parquet_is_a_table(command: Command, store: Store, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    frame.to_parquet(tmp_path / "x.parquet")
    command("put", tmp_path / "x.parquet", "--name", "x")
    assert isinstance(store.get("x"), pyarrow.Table)
    store.put(frame, name="frame")
    for name in ("x", "frame"):
        command("get", name, "-o", tmp_path / "y.parquet")
        assert pandas.read_parquet(tmp_path / "y.parquet").equals(frame)


def test_parquet_without_pyarrow(
    command: Command, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and so on PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    assert "pip install pyarrow" in command("put", tmp_path / "x.parquet", code=1).err
    command("put", tmp_path / "x.parquet", "--format", "bytes", "--name", "x")
    assert command("get", "x").out == b"PAR1 and so on PAR1"


def test_pickles(command: Command, store: Store, tmp_path: Path) -> None:
    obj = {"a": [1, 2], "b": (None, {3})}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(obj))
    command("put", tmp_path / "x.pkl", "--pickle", "--name", "x")
    assert store.get("x") == obj
    assert "--pickle" in command("get", "x", code=1).err
    assert pickle.loads(command("get", "x", "--pickle").out) == obj
    command("get", "x", "--pickle", "-o", tmp_path / "y.pkl")
    assert pickle.loads((tmp_path / "y.pkl").read_bytes()) == obj


@pytest.mark.parametrize(
    ("data", "words", "message"),
    [
        (b"\x93NUMPY\1\0", [], "a damaged .npy file"),
        (b"text", ["--format", "npy"], "is no .npy file: it begins with b'text'"),
        (b"text", ["--format", "npz"], "cannot be loaded as npz"),
        (b"text", ["--pickle"], "cannot be loaded as pickle: UnpicklingError"),
    ],
)
def test_files_that_are_not_what_they_should_be(
    command: Command, store: Store, tmp_path: Path, data: bytes, words: list[str], message: str
) -> None:
    (tmp_path / "x").write_bytes(data)
    assert message in command("put", tmp_path / "x", *words, code=program.FAILED).err
    assert command("ls").out == b""


def test_npy_files_that_are_cut_off(command: Command, store: Store, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(1000))
    whole = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(whole[:-1])
    told = command("put", tmp_path / "x.npy", code=1).err
    assert f"cannot put {tmp_path}/x.npy as an array" in told
    assert "has 8127 bytes instead of 8128" in told
    done = fsexchange("put", "-", store=store.store_dir, stdin=whole[:-1], code=1)
    assert b"cannot put the input as an array" in done.stderr
    np.save(tmp_path / "o.npy", np.array([{}]))
    assert "holds Python objects" in command("put", tmp_path / "o.npy", code=1).err
    assert command("ls").out == b""


def test_input_that_is_not_there(command: Command, store: Store, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    assert command("put", gone, code=1).err == f"fsexchange: {gone}: No such file or directory\n"
    assert "is a directory" in command("put", tmp_path, code=program.USAGE).err
    assert "not a name" in command("put", "/etc/hostname", "--name", "", code=program.USAGE).err


def test_a_name_is_given_to_the_latest_object(command: Command, store: Store) -> None:
    first = FileKey.parse(command("put", "/etc/hostname", "--name", "x").text)
    command("put", "/etc/hosts", "--name", "x")
    assert not store.exists(first)
    assert command("get", "x").out == Path("/etc/hosts").read_bytes()


def test_output_appears_whole_or_not_at_all(command: Command, store: Store, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("before")
    store.put({1: 2}, name="dict")
    command("get", "dict", "-o", tmp_path / "x", code=1)
    command("get", "gone", "-o", tmp_path / "x", code=program.MISSING)
    assert (tmp_path / "x").read_text() == "before"
    assert os.listdir(tmp_path) == ["x"]
    done = command("get", "dict", "--pickle", "-o", tmp_path / "no" / "x", code=1)
    assert done.err == f"fsexchange: {tmp_path}/no/x: No such file or directory\n"
    os.symlink("x", tmp_path / "link")
    store.put(b"after", name="bytes")
    command("get", "bytes", "-o", tmp_path / "link")
    assert (tmp_path / "x").read_text() == "after"
    assert (tmp_path / "link").is_symlink()
    command("get", "bytes", "-o", "/dev/null")


def test_the_ending_of_a_name_is_a_promise(command: Command, store: Store, tmp_path: Path) -> None:
    store.put(np.ones(3), name="x")
    done = command("get", "x", "-o", tmp_path / "x.npz", code=1)
    assert "is written as npy, and" in done.err
    for obj in (b"text", "text", b"x" * 99_999):
        store.put(obj, name="y", replace=True)
        assert "is written as bytes" in command("get", "y", "-o", tmp_path / "y.npy", code=1).err
    assert os.listdir(tmp_path) == []
    np.save(tmp_path / "a.npy", np.ones(3))
    for words in ([], ["--format", "bytes"]):
        command("put", tmp_path / "a.npy", "--name", "z", *words)
        command("get", "z", "-o", tmp_path / "z.npy")
        assert np.load(tmp_path / "z.npy").sum() == 3


def test_stdout_by_its_name(store: Store, tmp_path: Path) -> None:
    """It is appended to, where the shell says so, and not replaced as a file would be."""
    store.put(b"second\n", name="x")
    (tmp_path / "log").write_text("first\n")
    with open(tmp_path / "log", "ab") as log:
        subprocess.run(
            [*WORDS, "get", "x", "-o", "/dev/stdout"],
            stdout=log,
            check=True,
            env=environment(store.store_dir),
        )
    assert (tmp_path / "log").read_text() == "first\nsecond\n"


def test_a_name_whose_file_is_damaged(command: Command, store: Store) -> None:
    """As a host leaves it that loses its power."""
    for data in (b"", b"\xff", b"../x"):
        store.put(1, name="x", replace=True)
        Path(store.store_dir, ".fsexchange-names", "x").write_bytes(data)
        for words in (["get", "x"], ["wait", "x"]):
            assert "the name 'x' is damaged" in command(*words, code=program.FAILED).err
        command("put", "/etc/hosts", "--name", "x")
        assert command("get", "x").out == Path("/etc/hosts").read_bytes()
        Path(store.store_dir, ".fsexchange-names", "x").write_bytes(data)
        command("evict", "x")
        assert "x" not in store.names


def test_what_is_not_there(command: Command, store: Store) -> None:
    key = store.put(1)
    store.evict(key)
    for words in (["get", "x"], ["get", str(key)], ["info", "x"], ["info", str(key)]):
        command(*words, code=program.MISSING)
    assert "within 0.05 s" in command("wait", "x", "--timeout", "0.05", code=program.TIMED_OUT).err
    command("wait", str(key), code=program.MISSING)
    command("get", "0123456789abcdef/1:x", code=program.MISSING)
    command("get", "../x", code=program.MISSING)


def test_wait_ends_with_the_last(command: Command, store: Store) -> None:
    store.put(1, name="a")
    with subprocess.Popen(
        [*WORDS, "wait", "a", "b", "--timeout", "60"], env=environment(store.store_dir)
    ) as waiting:
        assert waiting.poll() is None
        store.put(2, name="b")
        assert waiting.wait(60) == 0


def test_evict(command: Command, store: Store) -> None:
    key = store.put(1)
    store.put(2, name="x")
    packed = store.put_batch([3, 4])
    done = command("evict", str(key), "gone", "x", str(packed[0]), code=program.MISSING)
    assert done.err.endswith(": gone\n")
    assert [store.exists(each) for each in [key, *packed]] == [False, False, True]
    assert not store.names


def test_a_closed_pipe_is_no_error(store: Store) -> None:
    store.put(np.zeros(1 << 20), name="x")
    script = '"$@" get x | head -c 6; echo " ${PIPESTATUS[0]}"'
    done = subprocess.run(
        ["bash", "-c", script, "bash", *WORDS],
        capture_output=True,
        env=environment(store.store_dir),
    )
    assert (done.stdout, done.stderr) == (b"\x93NUMPY 141\n", b"")  # as of `cat`


def test_a_key_that_nobody_gets_is_evicted(store: Store) -> None:
    script = '"$@" put /etc/hostname > /dev/full'
    done = subprocess.run(
        ["bash", "-c", script, "bash", *WORDS],
        capture_output=True,
        env=environment(store.store_dir),
    )
    assert done.returncode == program.FULL
    assert done.stderr.count(b"\n") == 1
    assert fsexchange("ls", store=store.store_dir).stdout == b""


@pytest.mark.parametrize("words", [[], ["--format", "npz"]])
def test_a_put_that_is_killed_by_a_scheduler_leaves_nothing(store: Store, words: list[str]) -> None:
    folder = Path(store.store_dir)
    with subprocess.Popen(
        [*WORDS, "put", "-", *words], stdin=subprocess.PIPE, env=environment(store.store_dir)
    ) as process:
        assert process.stdin is not None
        process.stdin.write(bytes(1 << 20))
        process.stdin.flush()
        if not words:
            while not any(item.name == "0" for item in folder.rglob("*")):
                time.sleep(0.02)
        process.terminate()
        assert process.wait(30) == -signal.SIGTERM
    assert [item.name for item in folder.iterdir() if len(item.name) == 16] == []


def test_a_full_disk(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    before = small_tmpfs(mount, 10)
    script = (
        'store=$1; shift; "$@" init $store/s >&2; export FSEXCHANGE_STORE=$store/s; '
        'head -c 20M /dev/zero > big; "$@" put big; echo $?; "$@" put - < big; echo $?; '
        'head -c 20M big | "$@" put -; echo $?; "$@" put /etc/hostname --name h; '
        '"$@" get h -o $store/h && head -c 9M /dev/zero > $store/fill; cp $store/h $store/h2; '
        '"$@" ls | wc -l; '
    )
    done = subprocess.run(
        [*before, "bash", "-c", script, "bash", mount, *WORDS],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(),
    )
    out = done.stdout.split()
    assert out[:3] == [str(program.FULL)] * 3, done.stderr
    assert out[-1] == "2"  # a title, and the last one
    assert done.stderr.count("No space left on device; free space or inodes") == 3


def test_a_bar_shows_what_takes_long_on_a_terminal(store: Store) -> None:
    """As a terminal has it: here a wait of two seconds."""
    main, terminal = pty.openpty()
    with subprocess.Popen(
        [*WORDS, "wait", "x", "--timeout", "2.5"], stderr=terminal, env=environment(store.store_dir)
    ) as process:
        os.close(terminal)
        shown = read_all(main)
        assert process.wait() == program.TIMED_OUT
    assert b"wait for x" in shown
    assert b"fsexchange: nothing was named 'x'" in shown


def test_a_table_fits_a_terminal(store: Store) -> None:
    store.put(np.zeros(3), name="a name/" + "x" * 100)
    main, terminal = pty.openpty()
    env = environment(store.store_dir, COLUMNS="80", TERM="dumb")
    with subprocess.Popen([*WORDS, "ls"], stdout=terminal, env=env) as process:
        os.close(terminal)
        lines = read_all(main).decode().splitlines()
        assert process.wait() == 0
    assert len(lines) > 2
    assert max(map(len, lines)) <= 80
    assert "".join(line.split()[-1] for line in lines[1:]).count("x") == 100


def test_arrays_are_not_written_to_a_terminal(store: Store) -> None:
    store.put(np.zeros(3), name="x")
    store.put("text\n", name="t")
    for words, code, expected in (
        (["get", "x"], program.FAILED, b""),
        (["get", "t"], 0, b"text\r\n"),
        (["init", store.store_dir], 0, b"export FSEXCHANGE_STORE="),
    ):
        main, terminal = pty.openpty()
        with subprocess.Popen(
            [*WORDS, *words],
            stdout=terminal,
            stderr=subprocess.PIPE,
            env=environment(store.store_dir),
        ) as process:
            os.close(terminal)
            assert expected in read_all(main)
            assert process.wait() == code
            assert process.stderr is not None
            said = process.stderr.read()
        assert (words[0] == "init") == (b"eval" in said)
        assert (words == ["get", "x"]) == (b"pass -o FILE" in said)

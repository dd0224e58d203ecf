"""A Slurm cluster of two hosts, n1 and n2, on this one, for tests."""

from __future__ import annotations

import getpass
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil

from .processes import lacking

# `linuxproc` ends all descendants of a job's script, as control groups do on a cluster. KillWait is
# how many seconds after SIGTERM a process gets SIGKILL. MinJobAge: so long is a job remembered.
CONF = """
ClusterName=fsexchange
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=batch_sched_delay=0
SlurmdParameters=config_overrides
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/%n
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/%n.pid
SlurmctldLogFile={base}/slurmctld.log
SlurmdLogFile={base}/%n.log
Epilog={base}/epilog
KillWait=5
FirstJobId={first}
MinJobAge=300
OverTimeLimit=0
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8
PartitionName=all Nodes=n1,n2 Default=YES State=UP
"""

DAEMONS = """
slurmctld -D -f {base}/slurm.conf 2>/dev/null &
slurmd -D -N n1 -f {base}/slurm.conf 2>/dev/null &
slurmd -D -N n2 -f {base}/slurm.conf 2>/dev/null &
wait
"""


class Slurm:
    """The cluster, from enter to exit. Jobs have the environment of who submits them.

    The daemons and all jobs run in a namespace of pids, which ends, whatever happens, with its
    first process, and that one with this process.
    """

    def __enter__(self) -> Slurm:
        for program in ("slurmctld", "slurmd", "sbatch"):
            if shutil.which(program, path=_path()) is None:
                lacking(f"{program}: apt-get install slurm-wlm")
        namespace = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        namespace += [] if os.geteuid() == 0 else ["--map-current-user"]
        if subprocess.run([*namespace, "true"], capture_output=True).returncode:
            lacking("the right to make a namespace of pids")
        self._base = Path(tempfile.mkdtemp(prefix="fsexchange-test-slurm-"))
        with ExitStack() as undo:
            undo.callback(shutil.rmtree, self._base)
            for name in ("state", "n1", "n2"):
                (self._base / name).mkdir()
            (self._base / "slurm.conf").write_text(
                CONF.format(
                    base=self._base,
                    host=socket.gethostname(),
                    user=getpass.getuser(),
                    first=random.randrange(10**6, 10**7),
                    ports=_free_ports(3),
                )
            )
            self.set_epilog("#!/bin/sh\n")
            daemons = DAEMONS.format(base=self._base)
            words = ["setpriv", "--pdeathsig", "KILL", *namespace, "bash", "-c", daemons]
            process = subprocess.Popen(words, env={**os.environ, "PATH": _path()})
            undo.callback(process.wait)
            undo.callback(process.kill)
            wait_until(lambda: self.run("sinfo", "-h", "-o", "%T %D", check=False) == "idle 2\n")
            self._daemons = {child.pid for child in psutil.Process(process.pid).children(True)}
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._undo.close()

    def set_epilog(self, script: str) -> None:
        """Have each host run a script when a job has ended."""
        new = self._base / "epilog.new"
        new.write_text(script)
        new.chmod(0o700)
        new.rename(self._base / "epilog")

    def start(
        self, *words: str | os.PathLike[str], cwd: Path, env: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start one of Slurm's commands, or a script of them."""
        return subprocess.Popen(
            [*map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=cwd,
            env={**os.environ, **(env or {}), "SLURM_CONF": f"{self._base}/slurm.conf"},
        )

    def run(
        self,
        *words: str | os.PathLike[str],
        cwd: Path = Path("/"),
        env: dict[str, str] | None = None,
        check: bool = True,
    ) -> str:
        """Return what such a command shows."""
        process = self.start(*words, cwd=cwd, env=env)
        try:
            out, _ = process.communicate(timeout=60)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        assert not check or process.returncode == 0, out + self.logs()
        return out

    def state(self, job: str) -> str:
        """Return the state of a job, such as RUNNING."""
        return self.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").strip()

    def wait_for(self, *jobs: str) -> None:
        """Wait until jobs have ended, on all hosts, with what Slurm does after them."""
        wait_until(lambda: not self.run("squeue", "-h", "-j", ",".join(jobs)))
        self.become_quiet()

    def become_quiet(self) -> None:
        """Cancel what runs still, and wait until Slurm has no process but its daemons."""
        self.run("scancel", "--user", getpass.getuser())
        tops = [psutil.Process(pid) for pid in self._daemons]
        wait_until(lambda: {child.pid for top in tops for child in top.children()} <= self._daemons)

    def logs(self) -> str:
        """Return the ends of the daemons' logs."""
        return "\n".join(
            f"{path.name}:\n{path.read_text()[-2000:]}" for path in self._base.glob("*.log")
        )


def wait_until(happened: Callable[[], object], seconds: float = 60) -> None:
    """Wait for a condition, and fail if it does not come true."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.1)


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]

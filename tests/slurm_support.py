"""A Slurm of one node on this machine: controller, node and munge as processes of the tests."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from process_support import SECONDS, as_from_a_terminal

_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def lacking() -> str:
    """Say why there can be no Slurm here; empty if there can be one."""
    missing = [name for name in ("sbatch", "slurmctld", "slurmd", "munged") if shutil.which(name, path=_path()) is None]
    if missing:
        return f"{', '.join(missing)} is not installed (apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "starting a Slurm needs root"


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


@contextlib.contextmanager
def running_slurm(folder: Path) -> Iterator[None]:
    """Run a Slurm during the block; its commands find it by SLURM_CONF."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    conf = folder / "slurm.conf"
    conf.write_text(_CONF.format(host=socket.gethostname().partition(".")[0], folder=folder, ports=_free_ports()))
    before = {name: os.environ.get(name) for name in ("SLURM_CONF", "PATH")}
    os.environ.update(SLURM_CONF=str(conf), PATH=_path())
    daemons = []
    try:
        if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode:
            daemons.append(_munge(folder))
        for name in ("slurmctld", "slurmd"):
            subprocess.run([name], check=True, preexec_fn=as_from_a_terminal)
            daemons.append(folder / f"{name}.pid")
        wait_for(lambda: "idle" in slurm("sinfo", "--noheader", "--format=%T"))
        yield
    finally:
        slurm("scancel", "--user=root")
        for pid_file in reversed(daemons):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(pid_file.read_text()), signal.SIGTERM)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _munge(folder: Path) -> Path:
    """Start munge as its own user, on its usual socket."""
    user = pwd.getpwnam("munge")
    for place in ("/run/munge", "/var/log/munge", "/var/lib/munge"):
        Path(place).mkdir(parents=True, exist_ok=True)
        os.chown(place, user.pw_uid, user.pw_gid)
    subprocess.run(["munged"], check=True, user=user.pw_uid, group=user.pw_gid, extra_groups=[])
    return Path("/run/munge/munged.pid")


def _free_ports() -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def slurm(*words: str) -> str:
    """Return what a command of Slurm says."""
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def wait_for(condition: Callable[[], Any]) -> Any:
    """Return the first true value of a condition."""
    until = time.monotonic() + SECONDS
    while not (value := condition()):
        assert time.monotonic() < until, slurm("squeue")
        time.sleep(0.2)
    return value


def state_of(job: str) -> str:
    """Return the state of a job, such as RUNNING or COMPLETED."""
    words = slurm("scontrol", "show", "job", job).split()
    return next((word.removeprefix("JobState=") for word in words if word.startswith("JobState=")), "")

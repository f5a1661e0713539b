"""Start torchrun for this same command: several processes train together on one machine or on each of several."""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from conki_cli.system.environment import choose_device
from conki_cli.system.errors import ConkiError, SettingsError, reason_of
from conki_cli.system.signals import ENDINGS
from conki_cli.system.torchrun import NOTES, notes

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

_PORT = 29400
_SECONDS_TO_END = "5"  # torchrun kills the other processes so long after it asked them to end
_POLL = 0.1  # seconds


@dataclass(frozen=True)
class Team:
    """The processes that train together."""

    gpus: int
    """Processes on each machine: one per GPU, or so many on the CPU."""
    nodes: int = 1
    rendezvous: str = ""
    """HOST or HOST:PORT of one of several machines."""

    def check(self, device: str) -> None:
        """Refuse what this machine cannot start.

        Args:
            device: as after `--device`.

        Raises:
            SettingsError: it lacks devices, or the machines do not know where to meet.
        """
        if self.nodes > 1 and not self.rendezvous:
            raise SettingsError(
                "nothing",
                f"give each of the {self.nodes} machines the same, for example --rendezvous node1:{_PORT}",
                must="--nodes needs --rendezvous HOST:PORT of one of the machines",
            )
        import torch

        chosen = choose_device(device)
        if chosen.type == "cpu" and device != "cpu":
            raise SettingsError(
                "none",
                f"give --device cpu to train in {self.gpus} processes on the CPU",
                must=f"--gpus {self.gpus} needs {self.gpus} GPUs",
            )
        here = torch.get_device_module(chosen).device_count()
        if chosen.type != "cpu" and here < self.gpus:
            raise SettingsError(
                f"{here}", f"give --gpus {here}, or --device cpu", must=f"--gpus {self.gpus} needs {self.gpus} GPUs"
            )


def launch(team: Team, words: Sequence[str]) -> int:
    """Run a command of conki in all processes of a team; signals reach the one that leads.

    Args:
        team: the processes, checked.
        words: the command line after `conki`.

    Returns:
        The exit code of the leading process, which has printed everything; on a machine without it, 0 or 1.

    Raises:
        ConkiError: the processes could not be started, or the leading one was killed.
    """
    import torch

    logging.disable(logging.ERROR)  # of torchrun; a failed process has said why itself
    os.environ["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // team.gpus))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = _SECONDS_TO_END
    with tempfile.TemporaryDirectory(prefix="conki-") as folder:
        os.environ[NOTES] = folder
        agent = _Agent(_config(team), [sys.executable, "-m", "conki_cli", *words])
        with _forwarding(Path(folder)):
            agent.thread.start()
            while agent.thread.is_alive():
                agent.thread.join(_POLL)
        leader = notes(Path(folder)).get(0, {})
    if "code" in leader:
        return leader["code"]
    if leader:
        raise ConkiError(
            "the leading process of this training was killed",
            "the last checkpoint is kept; give the same command again to continue",
        )
    if agent.error is not None and not agent.has_failed_child:
        raise ConkiError(f"torchrun could not start {team.gpus} processes: {reason_of(agent.error)}")
    return 1 if agent.error is not None else 0


def _config(team: Team) -> "LaunchConfig":
    from torch.distributed.launcher.api import LaunchConfig

    is_alone = team.nodes == 1
    host, _, port = team.rendezvous.partition(":")
    return LaunchConfig(
        min_nodes=team.nodes,
        max_nodes=team.nodes,
        nproc_per_node=team.gpus,
        run_id=f"conki-{os.getpid()}" if is_alone else "conki",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0" if is_alone else f"{host}:{port or _PORT}",
        local_addr="localhost" if is_alone else None,
        max_restarts=0,
        monitor_interval=_POLL,
    )


@dataclass
class _Agent:
    """torchrun in a thread of its own, where it leaves this process's signals alone."""

    config: "LaunchConfig"
    command: Sequence[str]
    error: Exception | None = None
    has_failed_child: bool = False
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import elastic_launch

        program, *words = self.command
        try:
            elastic_launch(self.config, program)(*words)
        except ChildFailedError as error:  # the child has said why
            self.error, self.has_failed_child = error, True
        except Exception as error:
            self.error = error


@contextlib.contextmanager
def _forwarding(folder: Path) -> Iterator[None]:
    """Hand the signals that end this program to the leading process, which saves; without it here, end all here."""

    def forward(number: int, frame: FrameType | None) -> None:
        known = notes(folder)
        with contextlib.suppress(ProcessLookupError):
            if 0 in known:
                os.kill(known[0]["pid"], number)
            for other in known.values() if 0 not in known else ():
                os.kill(other["pid"], signal.SIGKILL)

    before = {number: signal.getsignal(number) for number in ENDINGS}
    for number in [number for number, handler in before.items() if handler is not signal.SIG_IGN]:
        signal.signal(number, forward)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

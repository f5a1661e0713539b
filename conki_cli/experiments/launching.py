"""Start torchrun for this same command: several processes train together on one machine or on each of several."""

import contextlib
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from conki_cli.experiments.meeting import PORT, parse_meeting
from conki_cli.runs.folders import Run
from conki_cli.system.environment import choose_device
from conki_cli.system.errors import ConkiError, SettingsError, quoted, reason_of
from conki_cli.system.programs import command_of
from conki_cli.system.signals import ENDINGS
from conki_cli.system.torchrun import NOTES, notes
from conki_cli.training.lost import what_is_kept

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing import LogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

_SECONDS_TO_END = "5"  # torchrun kills the other processes so long after it asked them to end
_MINUTES_TO_MEET = 15
_POLL = 0.1  # seconds


@dataclass(frozen=True)
class Team:
    """The processes that train together."""

    gpus: int
    """Processes on each machine: one per GPU, or so many on the CPU."""
    nodes: int = 1
    rendezvous: str = ""
    """HOST or HOST:PORT of one of several machines."""

    def check_meeting(self) -> None:
        """Refuse machines that do not know where to meet.

        Raises:
            SettingsError: the meeting point is missing, cannot be one, or is not needed.
        """
        if self.nodes == 1 and self.rendezvous:
            raise SettingsError("--rendezvous is for several machines", advice="give --nodes 2, or leave it out")
        if self.nodes > 1 and not self.rendezvous:
            raise SettingsError(
                "nothing",
                f"give each of the {self.nodes} machines the same, for example --rendezvous node1:{PORT}",
                must="--nodes needs --rendezvous HOST:PORT of one of the machines",
            )
        if self.rendezvous:
            parse_meeting(self.rendezvous).check()

    def check(self, device: str) -> None:
        """Refuse what this machine cannot start.

        Args:
            device: as after `--device`.

        Raises:
            SettingsError: it lacks devices, or the machines do not know where to meet.
        """
        self.check_meeting()
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch reads it when it is imported
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


def launch(team: Team, words: Sequence[str], say: Callable[[str], None]) -> int:
    """Run a command of conki in all processes of a team; signals reach the one that leads.

    Args:
        team: the processes, checked.
        words: the command line after `conki`.
        say: is told that other machines are waited for.

    Returns:
        The exit code of the leading process, which has printed everything; on a machine without it, 0 or 1.

    Raises:
        ConkiError: the processes could not be started, or the leading one was killed.
        BaseException: the ending that a signal asked for, where no leading process could take it.
    """
    import torch

    logging.disable(logging.ERROR)  # of torchrun; a failed process has said why itself
    os.environ["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // team.gpus))
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = _SECONDS_TO_END
    if team.nodes > 1:
        others = "1 other machine" if team.nodes == 2 else f"{team.nodes - 1} other machines"
        command = " ".join(map(quoted, words))
        say(f"waiting for {others} at {parse_meeting(team.rendezvous)}; give the same command there: conki {command}")
    with tempfile.TemporaryDirectory(prefix="conki-") as folder:
        os.environ[NOTES] = folder
        agent = _Agent(team, [*command_of("conki_cli"), *words], Path(folder))
        with _noting_signals(agent.asked):
            agent.run()
        leader = notes(Path(folder)).get(0, {})
    if "code" in leader:
        return int(leader["code"])
    if leader:
        raise ConkiError(
            "the leading process of this training was killed",
            what_is_kept(Run(Path(leader["run"])), leader["seed"]) if "run" in leader else _NOTHING,
        )
    if agent.asked:
        raise ENDINGS[agent.asked[0]]
    if agent.error is not None and not agent.has_failed_child:
        raise _not_started(team, agent.error)
    return 1 if agent.error is not None else 0


_NOTHING = "nothing was trained yet; give the same command again"


def _not_started(team: Team, error: Exception) -> ConkiError:
    """Return the error of processes that never began."""
    from torch.distributed.elastic.rendezvous import RendezvousConnectionError, RendezvousTimeoutError

    if team.nodes > 1 and isinstance(error, RendezvousTimeoutError):
        found = f"fewer than {team.nodes} machines met at {team.rendezvous} within {_MINUTES_TO_MEET} minutes"
        return ConkiError(found, "give the same command on each of them")
    if team.nodes > 1 and isinstance(error, RendezvousConnectionError):
        found = f"nothing answers at {team.rendezvous}"
        return ConkiError(found, "give the same command on that machine, and let its port be reached from here")
    return ConkiError(f"torchrun could not start {team.gpus} processes: {reason_of(error)}")


def _config(team: Team, logs: "LogsSpecs") -> "LaunchConfig":
    from torch.distributed.launcher.api import LaunchConfig

    is_alone = team.nodes == 1
    return LaunchConfig(
        min_nodes=team.nodes,
        max_nodes=team.nodes,
        nproc_per_node=team.gpus,
        run_id=f"conki-{os.getpid()}" if is_alone else "conki",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0" if is_alone else str(parse_meeting(team.rendezvous)),
        rdzv_configs={"join_timeout": 60 * _MINUTES_TO_MEET},
        local_addr="localhost" if is_alone else None,
        max_restarts=0,
        monitor_interval=_POLL,
        logs_specs=logs,
    )


@dataclass
class _Agent:
    """torchrun in a thread of its own, where it leaves this process's signals alone."""

    team: Team
    command: Sequence[str]
    folder: Path
    """Of the notes that the processes leave."""
    asked: list[int] = field(default_factory=list)
    """The signals that were received."""
    has_met: bool = False
    """Whether all machines are there and processes are started."""
    error: Exception | None = None
    has_failed_child: bool = False

    def run(self) -> None:
        """Return when all processes have ended, or at a signal that comes before they are started."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        num_sent = 0
        while thread.is_alive() and (self.has_met or not self.asked):
            thread.join(_POLL)
            if num_sent < len(self.asked) and self.has_met and self._send(self.asked[num_sent]):
                num_sent += 1

    def _run(self) -> None:
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import elastic_launch

        program, *words = self.command
        try:
            elastic_launch(_config(self.team, _logs_of(self)), program)(*words)
        except ChildFailedError as error:  # the child has said why
            self.error, self.has_failed_child = error, True
        except Exception as error:
            self.error = error

    def meet(self) -> None:
        """Start processes, unless a signal was received before.

        Raises:
            ConkiError: there was one.
        """
        self.has_met = True
        if self.asked:
            raise ConkiError("a signal ended this before it began")

    def _send(self, number: int) -> bool:
        """Hand a signal to the leading process, which saves; without it here, end all here. False: try again."""
        known = notes(self.folder)
        with contextlib.suppress(ProcessLookupError):
            if 0 in known:
                os.kill(known[0]["pid"], number)
            elif len(known) < self.team.gpus:
                return False
            for other in known.values() if 0 not in known else ():
                os.kill(other["pid"], signal.SIGKILL)
        return True


def _logs_of(agent: _Agent) -> "LogsSpecs":
    """Return torchrun's usual treatment of logs, which it asks for immediately before it starts processes."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs

    class _Logs(DefaultLogsSpecs):
        def reify(self, envs: dict[int, dict[str, str]]) -> Any:
            agent.meet()
            return super().reify(envs)

    return _Logs()


@contextlib.contextmanager
def _noting_signals(asked: list[int]) -> Iterator[None]:
    """Append the signals that end this program to a list, instead of ending it."""

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    before = {number: signal.getsignal(number) for number in ENDINGS}
    for number in [number for number, handler in before.items() if handler is not signal.SIG_IGN]:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

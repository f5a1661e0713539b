"""One training in several processes: the options that start them."""

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Annotated, Any

import typer

from conki_cli.cli.launching import LAUNCHER
from conki_cli.cli.program import screen_for
from conki_cli.system.errors import SettingsError
from conki_cli.system.torchrun import Seat, seat

_OPTIONS: dict[str, tuple[Any, Any]] = {
    "gpus": (
        None,
        Annotated[
            int | None,
            typer.Option(
                min=1, metavar="N", help="Train each step on N GPUs together; with --device cpu, in N processes."
            ),
        ],
    ),
    "nodes": (
        1,
        Annotated[
            int,
            typer.Option(min=1, metavar="N", help="Train on N machines with --gpus each: give the command on each."),
        ],
    ),
    "rendezvous": (
        "",
        Annotated[str, typer.Option(metavar="HOST:PORT", help="Where the machines of --nodes meet: one of them.")],
    ),
}


def in_ranks(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that start several processes for one training; it runs in each of them."""

    @functools.wraps(command)
    def started(**options: Any) -> None:
        gpus, nodes, rendezvous = (options.pop(name) for name in _OPTIONS)
        if (gpus or 1) > 1 or nodes > 1 or rendezvous:
            _refuse_in_jobs()
            if options.get("runs"):
                raise SettingsError(
                    "nothing is trained to compare finished runs", advice="leave out --gpus and --nodes"
                )
            if seat() is None:
                _launch(options, gpus or 1, nodes, rendezvous)
                with _foreseen(Seat(0, (gpus or 1) * nodes, 0, gpus or 1)):  # a dry run
                    return command(**options)
        command(**options)
        return None

    kind = inspect.Parameter.KEYWORD_ONLY
    own = [parameter.replace(kind=kind) for parameter in inspect.signature(command).parameters.values()]
    added = [inspect.Parameter(n, kind, default=value, annotation=note) for n, (value, note) in _OPTIONS.items()]
    place = next(number for number, parameter in enumerate(own) if parameter.name == "dry_run")
    started.__dict__["__signature__"] = inspect.Signature([*own[:place], *added, *own[place:]])
    return started


def any_seat() -> Seat | None:
    """Return this process's seat among those of a training; in a dry run, the seat that it would have."""
    return seat() or _SEAT.get()


_SEAT: ContextVar[Seat | None] = ContextVar("_SEAT", default=None)


@contextlib.contextmanager
def _foreseen(place: Seat) -> Iterator[None]:
    token = _SEAT.set(place)
    try:
        yield
    finally:
        _SEAT.reset(token)


def _refuse_in_jobs() -> None:
    """Refuse the options in `conki submit`, whose jobs are one process each.

    Raises:
        SettingsError: this command is being submitted.
    """
    if LAUNCHER.get() is not None:
        raise SettingsError(
            "each job of `conki submit` trains in one process, on one GPU",
            "leave out --gpus, --nodes and --rendezvous; ask for the GPU of each job with --slurm gpus=1",
        )


def _launch(options: dict[str, Any], gpus: int, nodes: int, rendezvous: str) -> None:
    """Start this command in several processes and end as the leading one does; a dry run starts none."""
    from conki_cli.config.resolving import setting_given
    from conki_cli.experiments.launching import Team, launch

    team = Team(gpus, nodes, rendezvous)
    sources = options.get("settings")
    team.check(setting_given("run.device", **sources) if sources is not None else options["device"])
    if not options["dry_run"]:
        raise typer.Exit(launch(team, sys.argv[1:], screen_for(options["json"]).say))

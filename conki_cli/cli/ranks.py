"""One training in several processes: the options that start them, and what each of them does."""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

from conki_cli.system.signals import ignore_all
from conki_cli.system.torchrun import Seat, leave_note, seat

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
        if ((gpus or 1) > 1 or nodes > 1) and seat() is None and not options["dry_run"]:
            _launch(options["settings"], gpus or 1, nodes, rendezvous)
        command(**options)

    kind = inspect.Parameter.KEYWORD_ONLY
    own = [parameter.replace(kind=kind) for parameter in inspect.signature(command).parameters.values()]
    added = [inspect.Parameter(n, kind, default=value, annotation=note) for n, (value, note) in _OPTIONS.items()]
    place = next(number for number, parameter in enumerate(own) if parameter.name == "dry_run")
    started.__dict__["__signature__"] = inspect.Signature([*own[:place], *added, *own[place:]])
    return started


def _launch(settings: dict[str, Any], gpus: int, nodes: int, rendezvous: str) -> NoReturn:
    """Start this command in several processes and end as the leading one does."""
    from conki_cli.config.resolving import resolve
    from conki_cli.experiments.launching import Team, launch

    team = Team(gpus, nodes, rendezvous)
    team.check(resolve(**settings).run.device)
    raise typer.Exit(launch(team, sys.argv[1:]))


def run_in_seat(place: Seat, program: Callable[[], None]) -> None:
    """Run the program as rank 0, which leads; every other rank follows."""
    leave_note(place.rank)
    from conki_cli.training.following import dismiss, follow

    if place.rank:
        ignore_all()
        follow()
    code: object = 1
    try:
        program()
        code = 0
    except SystemExit as ending:
        code = ending.code or 0
        raise
    finally:
        leave_note(place.rank, code=code if isinstance(code, int) else 1)
        dismiss()

"""Who trains where, as a table and as lines."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from conki_cli.reporting.tables.drawing import empty_table
from conki_cli.reporting.tables.plans import duration
from conki_cli.runs.watching import Watched
from conki_cli.system.errors import one_line

_HEADERS = ("run", "stage", "seed", "state", "epoch", "MAE", "remaining", "host", "pid", "job")


def watch_table(found: Sequence[Watched], *, now: str) -> RenderableType:
    """Draw what `runs.watching.look` returns at a time of day."""
    failed = [f"{one.run}, seed {one.seed} failed: {one.reason}" for one in found if one.reason]
    training = sum(watched.pid is not None for watched in found)
    table = empty_table(f"{now}: {training} in training, {len(found) - training} waiting or ended", gap=1)
    legend = "MAE: best of the validation so far; remaining: at most. Ctrl-C ends this view."
    table.caption = Text("\n".join([*map(one_line, failed), legend]))
    for header in _HEADERS:
        right = header in ("stage", "seed", "epoch", "MAE", "remaining", "pid")
        table.add_column(header, justify="right" if right else "left", overflow="fold", no_wrap=header != "run")
    for watched in found:
        table.add_row(*(Text(one_line(cell)) for cell in _cells(watched)))
    return table


def watch_line(watched: Watched) -> str:
    """Return one seed as a line of a log."""
    stage, _, state, epoch, mae, remaining, host, pid, job = _cells(watched)[1:]
    parts = [f"{watched.run}, stage {stage}, seed {watched.seed}: {state}"]
    parts += [watched.reason] if watched.reason else []
    parts += [f"epoch {epoch}"] if watched.num_epochs is not None else []
    parts += [f"MAE {mae}"] if watched.best_mae is not None else []
    parts += [f"at most {remaining} remaining"] if watched.remaining is not None else []
    parts += [f"process {pid} on {host}"] if watched.pid is not None else []
    parts += [f"job {job}"] if watched.job else []
    return one_line(", ".join(parts))


def _cells(watched: Watched) -> list[str]:
    has_epochs = watched.num_epochs is not None
    return [
        watched.run,
        str(watched.stage or "-"),
        str(watched.seed),
        watched.state,
        f"{watched.epoch}/{watched.num_epochs}" if has_epochs else "-",
        f"{watched.best_mae:.3f}" if watched.best_mae is not None else "-",
        duration(watched.remaining),
        watched.host or "-",
        str(watched.pid or "-"),
        watched.job or "-",
    ]

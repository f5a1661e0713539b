"""The terminal: what all commands share of messages, progress bars, tables and one-line errors."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from typer.core import TyperGroup

from conki_cli.errors import ConkiError
from conki_cli.files import to_json
from conki_cli.runs import Reporter

INTERRUPTED = 130


class Screen(Reporter):
    """Progress and messages on stderr; results on stdout, as tables or as one JSON object."""

    def __init__(self, *, json: bool) -> None:
        self.json = json
        self.messages = Console(stderr=True, highlight=False)
        self.results = Console(highlight=False)

    def say(self, line: str) -> None:
        """Print one line on stderr."""
        self.messages.print(line, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def steps(self, label: str, total: int) -> Iterator[Callable[[int, str], None]]:
        """Show a progress bar with the remaining time; `total` 0 means unknown."""
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[remark]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("remaining"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.messages, transient=True) as bar:
            task = bar.add_task(label, total=total or None, remark="")
            yield lambda count, remark: bar.update(task, advance=count, remark=remark)

    def show(self, *parts: RenderableType) -> None:
        """Print tables and lines of a result, unless JSON was asked for."""
        if not self.json:
            for part in parts:
                self.results.print(part)

    def answer(self, value: Any) -> None:
        """Print the result as one JSON object, if JSON was asked for."""
        if self.json:
            sys.stdout.write(to_json(value) + "\n")


class OneLineErrors(TyperGroup):
    """Commands whose errors are one line on stderr and exit code 1, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except ConkiError as error:
            _complain(str(error))
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            _complain("interrupted; finished epochs are kept: the same command continues")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            raise typer.Exit(1) from None
        except OSError as error:
            _complain(f"{error.filename or 'the system'}: {error.strerror or error}")
            raise typer.Exit(1) from None


def _complain(message: str) -> None:
    sys.stderr.write(f"error: {' '.join(message.split())}\n")

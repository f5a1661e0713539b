"""The terminal: messages, progress bars and tables of all commands."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType

from conki_cli.cli.streams import note_written
from conki_cli.system.errors import one_line
from conki_cli.system.files import to_json
from conki_cli.system.observer import Epoch, Observer, Training

if TYPE_CHECKING:
    from conki_cli.cli.loudness import Loudness
    from conki_cli.reporting.tables.grid import Row, TableInfo
    from conki_cli.runs import Run

_SECONDS_BETWEEN_LINES = 60.0


class Screen(Observer):
    """Progress and messages on stderr; results on stdout, as tables or as one JSON object."""

    def __init__(self, *, json: bool, loudness: "Loudness" = "normal") -> None:
        self.json = json
        self.loudness = loudness
        self.messages = Console(stderr=True, highlight=False, emoji=False)
        self.results = Console(highlight=False, emoji=False)
        self._warnings: set[str] = set()

    def say(self, line: str) -> None:
        """Print one line on stderr, unless quiet; a warning only once."""
        if self.loudness == "quiet":
            return
        if line.startswith("warning: "):
            if line in self._warnings:
                return
            self._warnings.add(line)
        self.messages.print(one_line(line), markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def steps(self, label: str, total: int) -> Iterator[Callable[[int, str], None]]:
        """Show a progress bar with the remaining time; `total` 0 means unknown. A log gets a line a minute instead."""
        if self.loudness == "quiet" or not self.messages.is_terminal:
            yield self._logged(label, total)
            return
        from rich import progress

        columns = [progress.TextColumn("{task.description}", markup=False), progress.BarColumn()]
        columns += [progress.MofNCompleteColumn()] if total else []
        columns += [progress.TextColumn("{task.fields[remark]}", markup=False), progress.TimeElapsedColumn()]
        columns += [progress.TextColumn("remaining"), progress.TimeRemainingColumn()] if total else []
        with progress.Progress(*columns, console=self.messages, transient=True) as bar:
            task = bar.add_task(one_line(label), total=total or None, remark="")
            yield lambda count, remark: bar.update(task, advance=count, remark=remark)

    def _logged(self, label: str, total: int) -> Callable[[int, str], None]:
        began = last = time.monotonic()
        first: int | None = None
        done = 0

        def advance(count: int, remark: str) -> None:
            nonlocal last, first, done
            first = count if first is None else first  # steps done before a resume say nothing about the speed
            done, now = done + count, time.monotonic()
            if now - last >= _SECONDS_BETWEEN_LINES:
                last = now
                left = (now - began) * (total - done) / max(1, done - first)
                rest = f", {done}/{total}, about {left / 60:.0f} min remaining" if total else ""
                self.say(f"{label}: {remark}{rest}")

        return advance

    def epoch(self, training: Training, epoch: Epoch) -> None:
        """Print a line for an epoch, if verbose."""
        if self.loudness == "verbose":
            losses = ", ".join(f"{name} {value:.4g}" for name, value in epoch.losses.items())
            best = " (best so far)" if epoch.is_best else ""
            self.say(
                f"stage {training.stage}, seed {training.seed}, epoch {epoch.number}/{training.num_epochs}: "
                f"validation MAE {epoch.metrics['mae']:.4f}{best}; {losses}; {epoch.seconds:.1f} s"
            )

    def show(self, *parts: RenderableType) -> None:
        """Print tables and lines of a result, unless JSON was asked for."""
        if not self.json:
            for part in parts:
                self.results.print(part)

    def show_metrics(self, rows: "Sequence[Row]", info: "TableInfo", export: Path | None) -> None:
        """Write a table of metrics to a file, if one is wanted, and show it."""
        from conki_cli.reporting.tables.export import export_table
        from conki_cli.reporting.tables.screen import metric_table

        if export is not None:
            export_table(rows, info, export)
            note_written(str(export))
            self.say(f"table written to {export}")
        self.show(metric_table(rows, info, width=self.results.width))

    def compare(
        self, rows: Sequence[tuple[str, "Run"]], split: str, *, protocol: str = "all", export: Path | None = None
    ) -> list[dict[str, Any]]:
        """Show the metrics of labelled runs, the paper's beside them; write them to `export`; return them."""
        from conki_cli.reporting.tables.systems import table_of_runs
        from conki_cli.runs import common_threshold, evaluate_run

        threshold = common_threshold([run for _, run in rows])
        results = [(label, run.config, evaluate_run(run, split, protocol, threshold=threshold)) for label, run in rows]
        self.show_metrics(*table_of_runs(results), export)
        return [{"label": label, **result.as_json()} for label, _, result in results]

    def answer(self, value: Any, *, line: bool = False) -> None:
        """Print the result as one JSON object, if JSON was asked for; with `line` on one line."""
        if self.json:
            indent = None if line else 2
            text = to_json(value, indent=indent)
            try:
                text.encode(sys.stdout.encoding or "utf-8")
            except UnicodeEncodeError:  # a terminal that is not UTF-8, or a file name that is not valid text
                text = json.dumps(json.loads(text), indent=indent)
            sys.stdout.write(text + "\n")

"""The terminal: what all commands share of messages, progress bars and tables."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from conki_cli.comparison import TESTED, Comparison, Verdict, explanation, marks
from conki_cli.config import RunConfig
from conki_cli.errors import one_line
from conki_cli.files import to_json
from conki_cli.runs import Reporter, Run, evaluate_run

if TYPE_CHECKING:
    from conki_cli.tables import Row

_SECONDS_BETWEEN_LINES = 60.0


class Screen(Reporter):
    """Progress and messages on stderr; results on stdout, as tables or as one JSON object."""

    def __init__(self, *, json: bool) -> None:
        self.json = json
        self.messages = Console(stderr=True, highlight=False)
        self.results = Console(highlight=False)

    def say(self, line: str) -> None:
        """Print one line on stderr."""
        self.messages.print(one_line(line), markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def steps(self, label: str, total: int) -> Iterator[Callable[[int, str], None]]:
        """Show a progress bar with the remaining time; `total` 0 means unknown. A log gets a line a minute instead."""
        if not self.messages.is_terminal:
            yield self._logged(label, total)
            return
        columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), BarColumn()]
        columns += [MofNCompleteColumn()] if total else []
        columns += [TextColumn("{task.fields[remark]}", markup=False), TimeElapsedColumn()]
        columns += [TextColumn("remaining"), TimeRemainingColumn()] if total else []
        with Progress(*columns, console=self.messages, transient=True) as bar:
            task = bar.add_task(one_line(label), total=total or None, remark="")
            yield lambda count, remark: bar.update(task, advance=count, remark=remark)

    def _logged(self, label: str, total: int) -> Callable[[int, str], None]:
        began = last = time.monotonic()
        first: int | None = None
        done = 0

        def advance(count: int, remark: str) -> None:
            nonlocal last, first, done
            first = count if first is None else first  # what an earlier start had done says nothing about the speed
            done, now = done + count, time.monotonic()
            if now - last >= _SECONDS_BETWEEN_LINES:
                last = now
                left = (now - began) * (total - done) / max(1, done - first)
                rest = f", {done}/{total}, about {left / 60:.0f} min remaining" if total else ""
                self.say(f"{label}: {remark}{rest}")

        return advance

    def show(self, *parts: RenderableType) -> None:
        """Print tables and lines of a result, unless JSON was asked for."""
        if not self.json:
            for part in parts:
                self.results.print(part)

    def compare(
        self, rows: Sequence[tuple[str, Run]], split: str, *, protocol: str = "all", export: Path | None = None
    ) -> list[dict[str, Any]]:
        """Show the metrics of labelled runs, the paper's beside them; write them to `export`; return them."""
        from conki_cli.tables import Row

        results = [(label, run.config, evaluate_run(run, split, protocol)) for label, run in rows]
        table = []
        for label, config, result in results:
            values = {name: summary["values"] for name, summary in result["metrics"].items()}
            table.append(Row(label, values, _published(config, result), undefined=result["undefined"]))
        self._draw(table, [result for *_, result in results], export)
        return [{"label": label, **result} for label, _, result in results]

    def compare_systems(self, found: Comparison, *, export: Path | None = None) -> dict[str, Any]:
        """Show systems beside each other and the paper, with marks where they differ from the first; return it all."""
        from conki_cli.tables import Row

        labels = [system.label for system in found.systems]
        verdicts = [None, *found.verdicts]
        table, rows = [], []
        for system, verdict in zip(found.systems, verdicts, strict=True):
            result, published = system.result, _published(system.config, system.result)
            values = {name: result["metrics"][name]["values"] for name in TESTED if name in result["metrics"]}
            notes = [f"run {system.run.name}"] if labels.count(system.label) > 1 else []
            if verdict is not None and verdict.reason and found.is_tested:  # else it stands below the table
                notes.append(f"not tested: {verdict.reason}")
            cells = verdict.cells if verdict is not None else None
            undefined = {name: reason for name, reason in result["undefined"].items() if name in values}
            table.append(Row(system.label, values, published, "; ".join(notes), undefined, marks(cells or {})))
            model = system.config.model.name
            rows.append({"label": system.label, "model": model, **result, "paper": published, **_tests(verdict)})
        self._draw(table, [system.result for system in found.systems], export, notes=explanation(found))
        return {"reference": labels[0], "num_videos": found.num_videos, "num_draws": found.num_draws, "rows": rows}

    def _draw(
        self,
        table: "Sequence[Row]",
        results: Sequence[Mapping[str, Any]],
        export: Path | None,
        notes: Sequence[str] = (),
    ) -> None:
        from conki_cli.tables import TableInfo, export_table, metric_table

        first = results[0]
        info = TableInfo(
            dataset=first["dataset"],
            split=first["split"],
            protocol=first["protocol"],
            seeds=max((result["seeds"] for result in results), key=len),
            n=first["n"],
            n_nonzero=first.get("n_nonzero"),
            notes=notes,
        )
        if export is not None:
            export_table(table, info, export)
            self.say(f"table written to {export}")
        self.show(metric_table(table, info, width=self.results.width))

    def answer(self, value: Any) -> None:
        """Print the result as one JSON object, if JSON was asked for."""
        if self.json:
            text = to_json(value)
            try:
                text.encode(sys.stdout.encoding or "utf-8")
            except UnicodeEncodeError:  # a terminal that is not UTF-8, or a file name that is no text
                text = json.dumps(json.loads(text), indent=2)
            sys.stdout.write(text + "\n")


def _published(config: RunConfig, result: Mapping[str, Any]) -> dict[str, float] | None:
    """Return what the paper has for a run: its test split only."""
    from conki_cli.tables import published_row

    if result["split"] != "test":
        return None
    transferred = config.is_baseline and config.needs_pretraining
    return published_row(
        result["dataset"], config.model.drop, config.model.name, config.data.external if transferred else None
    )


def _tests(verdict: Verdict | None) -> dict[str, Any]:
    """Return the tests of one row; None for the reference, and where two common seeds are lacking."""
    if verdict is None:
        return {"common_seeds": None, "tests": None, "untested": None}
    return {"common_seeds": verdict.seeds, "tests": verdict.cells, "untested": verdict.reason or None}

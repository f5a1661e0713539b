"""The output of `conki doctor`: what was examined, the findings, and the advice for each.

Names and messages may come from hostile files, so they are drawn as plain text on one line.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from conki_cli.system.errors import one_line

if TYPE_CHECKING:
    from conki_cli.system.findings import Finding

_STYLES = {"ok": "green", "remark": "yellow", "fault": "bold red"}


def findings_table(findings: "Sequence[Finding]") -> list[RenderableType]:
    """Draw findings under what they are about, each with its advice, and count them below."""
    parts: list[RenderableType] = []
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.subject, []).append(finding)
    for subject, group in groups.items():
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True, min_width=len("remark"))
        grid.add_column(overflow="fold")
        for finding in group:
            grid.add_row(Text(finding.severity, style=_STYLES[finding.severity]), Text(one_line(finding.what)))
            if finding.advice:
                grid.add_row(Text("do", style="dim"), Text(one_line(finding.advice)))
        parts += [Text(one_line(subject), style="bold"), Padding(grid, (0, 0, 0, 2))]
    return [*parts, "", _counts(findings)]


def _counts(findings: "Sequence[Finding]") -> Text:
    severities = [finding.severity for finding in findings]
    faults, remarks = severities.count("fault"), severities.count("remark")
    words = f"{faults} fault{'s' * (faults != 1)}, {remarks} remark{'s' * (remarks != 1)}"
    style = _STYLES["fault" if faults else "remark" if remarks else "ok"]
    return Text.assemble((words, style), f", {severities.count('ok')} sound")

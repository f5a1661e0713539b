"""The style of all tables."""

from rich import box
from rich.table import Table
from rich.text import Text

from conki_cli.system.errors import one_line


def empty_table(title: str, *, gap: int = 2) -> Table:
    """Return a table without columns in the common style."""
    return Table(
        title=Text(one_line(title), style="bold"),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,  # draws one blank between columns
        padding=(0, gap - 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )

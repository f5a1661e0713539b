"""The rows of an ablation: the full model, and versions without some of its parts (Tables 4 and 5)."""

from collections.abc import Mapping

from conki_cli.config.sections import RunConfig

PAPER_ROWS: Mapping[int, tuple[tuple[str, ...], ...]] = {
    4: (("T",), ("V",), ("A",)),
    5: (("C1",), ("C2",), ("C3",), ("C4",), ("N1",)),
}
"""The switches of each row of a table of the paper, without the full model."""


def ablation_rows(rows: Mapping[str, RunConfig]) -> dict[str, RunConfig]:
    """Keep the configured name only for the first row, the full model; other rows are named after their settings."""
    first = next(iter(rows.values()))
    return {words: row.with_values("run", name=first.run.name if row == first else "") for words, row in rows.items()}

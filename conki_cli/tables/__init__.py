"""Results as tables: on the screen (Rich), as Markdown, CSV and LaTeX, with the paper's numbers beside ours.

Metrics come in as `conki_cli.metrics` makes them (accuracies and F1 as fractions); only what is drawn is in percent.
"""

from conki_cli.tables.export import check_export, export_table
from conki_cli.tables.formats import format_list
from conki_cli.tables.grid import Row, TableInfo, published_row, seeds_text
from conki_cli.tables.models import models_table
from conki_cli.tables.screen import metric_table, runs_table, scores_table, settings_table
from conki_cli.tables.stores import clip_tables, comparison_tables, feature_tables, store_tables
from conki_cli.tables.systems import comparison_answer, comparison_rows, run_row, table_info

__all__ = [
    "Row",
    "TableInfo",
    "check_export",
    "clip_tables",
    "comparison_answer",
    "comparison_rows",
    "comparison_tables",
    "export_table",
    "feature_tables",
    "format_list",
    "metric_table",
    "models_table",
    "published_row",
    "run_row",
    "runs_table",
    "scores_table",
    "seeds_text",
    "settings_table",
    "store_tables",
    "table_info",
]

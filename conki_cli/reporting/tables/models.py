"""The output of `conki models`: one block per model."""

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from conki_cli.system.errors import one_line


def models_table(found: Mapping[str, Any]) -> list[RenderableType]:
    """Draw the models as `comparisons.describe_models` returns them."""
    grid = Table.grid(padding=(0, 2, 1, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    heads = ("--model", "parameters", "paper; what the sources fix; what we chose")
    grid.add_row(*(Text(head, style="dim") for head in heads))
    for model in found["models"]:
        count = f"{model['parameters']:,}" if model["parameters"] is not None else "-"
        grid.add_row(Text(model["name"], style="bold cyan"), Text(count), _about(model))
    return [grid, Text(_caption(found), style="dim")]


def _about(model: Mapping[str, Any]) -> Text:
    about = Text(model["title"], style="bold")
    about.append(f"\n{model['authors']}. {model['venue']} {model['year']}", style="not bold dim")
    about.append(f"\nfixed: {model['pinned']}", style="not bold")
    about.append(f"\nours: {model['ours']}", style="not bold")
    if model["needs"]:
        about.append(f"\nnot here: needs {' and '.join(model['needs'])}", style="not bold yellow")
    return about


def _caption(found: Mapping[str, Any]) -> str:
    widths = ", ".join(f"{name} {width}" for name, width in found["widths"].items()) or "none"
    where = one_line(str(found["store"])) if found["store"] is not None else "no store: CMU-MOSI as MMSA has it"
    encoder = found["text_encoder"]
    sizes = f"{one_line(encoder['name'])}, hidden size {encoder['width']}"
    if not encoder["known"]:
        sizes = f"hidden size {encoder['width']}, that of BERT-base ({one_line(encoder['name'])} is not available here)"
    return f"Parameters without the text encoder; features per frame: {widths} ({where}); text encoder: {sizes}."

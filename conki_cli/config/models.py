"""What is known of the ten models: read from their own files as data, so that no list of models imports torch.

The file of a model holds `FACTS`, a dictionary of literals, beside the network that it is about. Here it is parsed, not
run, when it is asked for.
"""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from conki_cli.config.nearest import unknown_model
from conki_cli.config.sections import MODELS

_FOLDER = Path(__file__).parents[1] / "model"


@dataclass(frozen=True)
class ModelFacts:
    """Where a model comes from, and how much of ours follows from a source."""

    label: str
    """What the paper's tables call it."""
    title: str
    authors: str
    year: int
    venue: str
    idea: str
    pinned: str
    """What sources fix; docs/baselines.md names them."""
    ours: str
    """What no source fixes, or what we do otherwise."""


def file_of(name: str) -> Path:
    """Return the file of a model."""
    return _FOLDER / "conki.py" if name == "conki" else _FOLDER / "baselines" / f"{name.replace('-', '_')}.py"


@cache
def facts(name: str) -> ModelFacts:
    """Return what is known about a model.

    Raises:
        SettingsError: no model is called so.
    """
    if name not in MODELS:
        raise unknown_model(name, MODELS)
    for node in ast.parse(file_of(name).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FACTS":
            return ModelFacts(**ast.literal_eval(node.value))
    raise AssertionError(f"{file_of(name)} has no FACTS")


def label_of(name: str) -> str:
    """Return what the paper's tables call a model."""
    return facts(name).label

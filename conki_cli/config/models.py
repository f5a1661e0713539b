"""Facts about the ten models, read from their own files as data, so that listing models does not import torch.

The file of a model holds `FACTS`, a dictionary of literals, beside the network. This module parses it on demand and
never runs it.
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
    """Where a model comes from, and how much of our version follows a source."""

    label: str
    """Its name in the paper's tables."""
    title: str
    authors: str
    year: int
    venue: str
    idea: str
    pinned: str
    """What the sources specify; docs/baselines.md names them."""
    ours: str
    """What no source specifies, or what we do differently."""


def file_of(name: str) -> Path:
    """Return the file of a model."""
    return _FOLDER / "conki.py" if name == "conki" else _FOLDER / "baselines" / f"{name.replace('-', '_')}.py"


@cache
def facts(name: str) -> ModelFacts:
    """Return the facts about a model.

    Raises:
        SettingsError: there is no model of that name.
    """
    if name not in MODELS:
        raise unknown_model(name, MODELS)
    for node in ast.parse(file_of(name).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FACTS":
            return ModelFacts(**ast.literal_eval(node.value))
    raise AssertionError(f"{file_of(name)} has no FACTS")


def label_of(name: str) -> str:
    """Return a model's name in the paper's tables."""
    return facts(name).label

"""How a setting is declared."""

from dataclasses import dataclass, field
from typing import Any


def setting(default: Any, help_text: str, **limits: Any) -> Any:
    """Declare a setting: `low`/`above` bound numbers, `high` too, `choices` lists the words allowed."""
    return field(default=default, metadata={"help": help_text, **limits})


@dataclass(frozen=True)
class BaselineSection:
    """The common type of the baselines' own sections, which have no setting in common."""

"""The libraries of the extra `video`: imported when they are needed, and one line where they are absent."""

import importlib
from typing import Any

from conki_cli.system.errors import SettingsError

_INSTALL = {
    "av": 'pip install "conki[video]"',
    "ai_edge_litert.interpreter": 'pip install "conki[video]", or leave faces out with --vision-features none',
    "PIL.Image": 'pip install "conki[video]", or leave faces out with --vision-features none',
    "matplotlib": 'pip install "conki[video]"',
}


def library(name: str) -> Any:
    """Import a library of the extra.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise SettingsError(f"videos need the library {package}, which is not installed: {_INSTALL[name]}") from error

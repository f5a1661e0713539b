"""Suggestions for mistyped words."""

import difflib
from collections.abc import Iterable

from conki_cli.system.errors import SettingsError


def unknown_model(name: str, known: Iterable[str]) -> SettingsError:
    """Return the error for an unknown model, with the most similar known one as a suggestion."""
    advice = nearest(name, known) or f"known are {', '.join(known)}"
    return SettingsError(f"unknown model '{name}': {advice}")


_MOST_MEANT = 5  # settings that are suggested at once
_OTHER_WORDS = {"learning_rate": "lr", "epochs": "num_epochs", "layers": "num_layers", "heads": "num_heads"}


def nearest(word: str, known: Iterable[str]) -> str:
    """Suggest the known word most similar to a mistyped one; empty if none is similar."""
    found = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.5)
    return f"did you mean {found[0]}?" if found else ""


def nearest_setting(path: str, known: Iterable[str]) -> str:
    """Suggest settings for an unknown one: those that it abbreviates, else the most similar one; or nothing.

    For 'optimizer.lr' it is 'did you mean optimizer.lr_others, optimizer.lr_encoders or optimizer.lr_audio_vision?'.
    """
    paths = list(known)
    section, _, key = path.strip().lower().rpartition(".")
    for word in filter(None, (key, _OTHER_WORDS.get(key))):
        near = (other for other in paths if section in ("", other.partition(".")[0]))
        meant = [other for other in near if f"{other.partition('.')[2]}_".startswith(f"{word}_")]
        meant = [other for other in meant if other.startswith("optimizer.")] or meant
        if 0 < len(meant) <= _MOST_MEANT:
            *first, last = sorted(meant, key=lambda other: not other.endswith("_others"))
            return f"did you mean {', '.join(first)} or {last}?" if first else f"did you mean {last}?"
    return nearest(path, paths)

"""Seeds and names as they are typed, and what a run is called in messages and tables."""

import difflib
from collections.abc import Iterable, Sequence

from conki_cli.config.sections import MODEL_NAMES, RunConfig
from conki_cli.system.errors import SettingsError


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read '7', '1,4,9' or '1..5' (both ends included).

    Raises:
        SettingsError: anything else.
    """
    first, dots, last = text.partition("..")
    try:
        span = range(int(first), int(last) + 1) if dots else [int(part) for part in text.split(",")]
        seeds = tuple(span[:1001])  # a slice: 1..999999999999 is refused, not built
    except ValueError:
        seeds = ()
    if not seeds or len(seeds) > 1000:
        raise SettingsError(f"seeds are written 3, 1..5 or 1,4,9; found '{text}'")
    return seeds


def unknown_model(name: str, known: Iterable[str]) -> SettingsError:
    """Say that no model is called so, and which of the known ones was meant: the same words wherever one is named."""
    advice = nearest(name, known) or f"known are {', '.join(known)}"
    return SettingsError(f"unknown model '{name}': {advice}")


_MOST_MEANT = 5  # settings that are asked for at once
_OTHER_WORDS = {"learning_rate": "lr", "epochs": "num_epochs", "layers": "num_layers", "heads": "num_heads"}


def nearest(word: str, known: Iterable[str]) -> str:
    """Ask for the known word that resembles a mistyped one most; empty where none does."""
    found = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.5)
    return f"did you mean {found[0]}?" if found else ""


def nearest_setting(path: str, known: Iterable[str]) -> str:
    """Ask for the settings that an unknown one may mean: those that it abbreviates, else the nearest; or say nothing.

    Of 'optimizer.lr' it is 'did you mean optimizer.lr_others, optimizer.lr_encoders or optimizer.lr_audio_vision?'.
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


def run_label(config: RunConfig) -> str:
    """Name a run in a table: the switches of ConKI, or the model with what it leaves out."""
    if not config.is_baseline:
        return switch_label(config.model.drop) + (", given adapters" if config.model.adapters_checksum else "")
    without = f", w/o {'+'.join(config.model.drop)}" if config.model.drop else ""
    return f"{MODEL_NAMES[config.model.name]}{without}"


def switch_label(drop: Sequence[str]) -> str:
    """Name a row of an ablation table: () -> 'ConKI', ('C1', 'C4') -> 'w/o C1+C4'."""
    if not drop:
        return "ConKI"
    if "plain-transfer" in drop:
        rest = [switch for switch in drop if switch != "plain-transfer"]
        return "plain transfer" + (f", w/o {'+'.join(rest)}" if rest else "")
    return f"w/o {'+'.join(drop)}"

"""Describe the settings in which two runs differ, because a digest does not say what to change."""

from collections.abc import Mapping
from typing import Any

from conki_cli.config.declarations import added_later, never_learnt
from conki_cli.config.resolving import as_tables
from conki_cli.config.sections import RunConfig
from conki_cli.config.words import as_typed


def differences(known: RunConfig, config: RunConfig) -> str:
    """Name the settings in which a run differs from the wanted ones, on one line; empty if none does."""
    return in_words(differing_settings(known, config))


def learnt_settings(config: RunConfig) -> dict[str, Any]:
    """Return the settings that change what is learnt, as 'section.key' -> value; the text encoder by its name."""
    plain = as_tables(config)
    if config.run.stage == "finetune" and not config.needs_pretraining:
        del plain["pretraining"]
    flat = {f"{section}.{key}": value for section, table in plain.items() for key, value in table.items()}
    unread = {path for path, value in flat.items() if value == added_later().get(path, ...)} | never_learnt()
    return {path: value for path, value in flat.items() if path not in unread}


def nearest_finished(finished: Mapping[str, RunConfig], config: RunConfig) -> str:
    """Say in which settings a new run differs from the most similar finished run; empty if there is none.

    Only runs with the same data, model, encoder, switches and stage count: others differ on purpose.
    """
    same = {"data.dataset", "data.external", "model.name", "model.drop", "model.text_encoder", "run.stage"}
    alike = []
    for name, known in finished.items():
        differing = differing_settings(known, config)
        if differing and not same & set(differing):
            alike.append((len(differing), name, in_words(differing)))
    if not alike:
        return ""
    _, name, words = min(alike)
    return f"{name} is finished, but {words}: this is another run, which starts at epoch 1"


def differing_settings(known: RunConfig, config: RunConfig) -> dict[str, str]:
    """Return the settings that make two configurations learn differently, each as a phrase."""
    one, other = learnt_settings(known), learnt_settings(config)
    found = {}
    for path in sorted({*one, *other}):
        values = [table.get(path, added_later().get(path, "not read")) for table in (one, other)]
        if values[0] != values[1]:
            was, now = (as_typed(value)[:60] for value in values)
            found[path] = f"{path} was {was}, is now {now}"
    return found


def in_words(differing: Mapping[str, str]) -> str:
    """Return the first few settings that differ as one line."""
    lines = list(differing.values())
    return "; ".join(lines[:4]) + (f"; and {len(lines) - 4} more" if len(lines) > 4 else "")

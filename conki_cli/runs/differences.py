"""In which settings two runs differ, in words: digests alone tell nobody what to change."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from conki_cli.config.resolving import ADDED_LATER, NEVER_LEARNT, as_tables
from conki_cli.config.sections import RunConfig

if TYPE_CHECKING:
    from conki_cli.runs.folders import Run


def differences(known: RunConfig, config: RunConfig) -> str:
    """Name the settings in which a run differs from those wanted, in one line; empty: none, as of another encoder."""
    return in_words(differing_settings(known, config))


def learnt_settings(config: RunConfig) -> dict[str, Any]:
    """Return what changes what is learnt, as 'section.key' -> value; the text encoder by its name."""
    plain = as_tables(config)
    plain["run"] = {"recipe": config.run.recipe, "stage": config.run.stage}
    if config.run.stage == "finetune" and not config.needs_pretraining:
        del plain["pretraining"]
    flat = {f"{section}.{key}": value for section, table in plain.items() for key, value in table.items()}
    unread = {path for path, value in flat.items() if value == ADDED_LATER.get(path, ...)} | NEVER_LEARNT
    return {path: value for path, value in flat.items() if path not in unread}


def nearest_finished(runs: "Sequence[Run]", config: RunConfig) -> str:
    """Say in which settings a new run differs from the finished one that is most like it; empty: none is.

    Only runs of the same data, model, switches and stage count: the rows of a table are meant to differ in these.
    """
    same = {"data.dataset", "data.external", "model.name", "model.drop", "run.stage"}
    alike = []
    for run in runs:
        differing = differing_settings(run.config, config) if run.is_finished else {}
        if differing and not same & set(differing):
            alike.append((len(differing), run.name, in_words(differing)))
    if not alike:
        return ""
    _, name, words = min(alike)
    return f"{name} is finished, but {words}: this is another run, which starts at epoch 1"


def differing_settings(known: RunConfig, config: RunConfig) -> dict[str, str]:
    """Return the settings that make two configurations learn something else, each in words."""
    one, other = learnt_settings(known), learnt_settings(config)
    found = {}
    for path in sorted({*one, *other}):
        values = [table.get(path, ADDED_LATER.get(path, "not read")) for table in (one, other)]
        if values[0] != values[1]:
            was, now = ("nothing" if value in ((), "") else str(value)[:60] for value in values)
            found[path] = f"{path} was {was}, is now {now}"
    return found


def in_words(differing: Mapping[str, str]) -> str:
    """Return the first few settings that differ as one line."""
    lines = list(differing.values())
    return "; ".join(lines[:4]) + (f"; and {len(lines) - 4} more" if len(lines) > 4 else "")

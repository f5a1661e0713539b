"""The clips that a run uses, in the store that it was trained on."""

from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import Utterances
from conki_cli.runs.folders import Run
from conki_cli.system.errors import RunError


def clips_of(run: Run, store: FeatureStore, split: str) -> Utterances:
    """Return the clips of a split that a run uses: all, or as many as `--limit` said.

    Raises:
        RunError: the store differs from the one that the run was trained on.
    """
    if run.record.data.get(run.config.data.dataset) != store.content_id:
        raise RunError(f"run {run.name} was trained on another version of {store.path}", advice="restore that one")
    return store.split(split).limited(run.config.data.limit)

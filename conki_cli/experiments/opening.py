"""The inputs of a run, made if they are missing: feature stores, the demo's text encoder."""

import contextlib
from pathlib import Path

from conki_cli.data.preparation import Preparation, prepare
from conki_cli.data.sources import check_dataset_name, find_source
from conki_cli.data.store.reading import FeatureStore
from conki_cli.datasets import is_generated
from conki_cli.system.errors import SettingsError, SourceError, StoreError, UnreadableError
from conki_cli.system.files import remove_leftovers_below
from conki_cli.system.locks import lock_beside, locked
from conki_cli.system.observer import Observer
from conki_cli.system.readable import status_of
from conki_cli.system.workspace import BUILT_IN_ENCODER, Workspace
from conki_cli.text.demo_encoder import build_demo_encoder


def ready_store(workspace: Workspace, dataset: str, observer: Observer) -> Path:
    """Return the feature store of a data set; prepare it first if only its raw files exist.

    Raises:
        StoreError: there is neither a store nor a source for it.
    """
    check_dataset_name(dataset)
    path = workspace.store(dataset)
    if status_of(path) is None:
        try:
            prepare(Preparation(dataset, workspace), observer)
        except UnreadableError:
            raise
        except (SettingsError, SourceError) as error:
            raise _no_store(path, dataset, error) from error
        with FeatureStore(path) as made:
            observer.say(f"{path} did not exist yet: prepared from {made.source['name']}")
    return path


def source_of_missing(workspace: Workspace, dataset: str) -> Path | None:
    """Return the source of a missing store (None for a generated data set), without reading it.

    Raises:
        StoreError: there is no source.
    """
    check_dataset_name(dataset)
    if is_generated(dataset):
        return None
    try:
        return find_source(dataset, workspace.root, None)
    except UnreadableError:
        raise
    except (SettingsError, SourceError) as error:
        raise _no_store(workspace.store(dataset), dataset, error) from error


def _no_store(path: Path, dataset: str, error: Exception) -> StoreError:
    return StoreError(f"no feature store {path}", advice=f"make it with `conki prepare --dataset {dataset}` ({error})")


def check_labelled(store: FeatureStore) -> None:
    """Refuse a store whose clips have no scores.

    Raises:
        StoreError: they have no scores.
    """
    if store.is_unlabelled:
        raise StoreError(
            f"{store.path} must have clips with scores, for training or evaluation, but its clips have none",
            advice=f"score them with `conki predict RUN {store.dataset}`, or prepare it from a source with labels",
        )


def open_store(workspace: Workspace, dataset: str, observer: Observer) -> FeatureStore:
    """Open the feature store of a data set, whose clips have scores; make it if needed and possible.

    Raises:
        StoreError: there is neither a store nor a source for it, or its clips have no scores.
    """
    store = FeatureStore(ready_store(workspace, dataset, observer))
    with contextlib.ExitStack() as stack:
        stack.enter_context(store)
        check_labelled(store)
        stack.pop_all()
    return store


def lacks_encoder(workspace: Workspace, name: str) -> bool:
    """Say whether a text encoder is the demo's and is not built yet."""
    return name == BUILT_IN_ENCODER and not (workspace.built_in_encoder / "config.json").exists()


def ready_encoder(workspace: Workspace, name: str, observer: Observer) -> str:
    """Return the name or folder of a text encoder; the demo's encoder is built when it is first needed."""
    folder = workspace.built_in_encoder
    if lacks_encoder(workspace, name):
        with locked(lock_beside(folder), what=str(folder), wait=True, say=observer.say):
            if lacks_encoder(workspace, name):  # else another process built it while this one waited
                _build_encoder(folder, observer)
    return workspace.encoder(name)


def _build_encoder(folder: Path, observer: Observer) -> None:
    from conki_cli.data.sources.demo import encoder_sentences

    remove_leftovers_below(folder)
    observer.say(f"building a small BERT with its own vocabulary in {folder}")
    with observer.steps("masked-word pretraining", 0) as advance:
        build_demo_encoder(folder, encoder_sentences(), progress=lambda done, total: advance(1, f"step {done}/{total}"))

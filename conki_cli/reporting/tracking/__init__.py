"""Trainings followed live in TensorBoard, trackio, Weights & Biases or MLflow, each imported only if asked for."""

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module

from conki_cli.config.nearest import nearest
from conki_cli.reporting.tracking.observer import Tracking
from conki_cli.reporting.tracking.tracker import Library
from conki_cli.system.errors import SettingsError, reason_of
from conki_cli.system.observer import Observer
from conki_cli.system.observers import Observers
from conki_cli.system.workspace import Workspace

__all__ = ["TRACKERS", "load_trackers", "tracked"]

TRACKERS = ("tensorboard", "trackio", "wandb", "mlflow")


def load_trackers(words: Sequence[str]) -> dict[str, Library]:
    """Import the libraries that `--track` names, alone or with commas between, before anything is trained.

    Raises:
        SettingsError: a name is unknown, or its library is not installed or cannot be used.
    """
    names = dict.fromkeys(name.strip().lower() for word in words for name in word.split(","))
    for name in names:
        if name not in TRACKERS:
            advice = nearest(name, TRACKERS) or f"known are {', '.join(TRACKERS)}"
            raise SettingsError(f"--track names a tracker, found '{name}'", advice=advice)
    return {name: _library(name) for name in names}


def _library(name: str) -> Library:
    module = import_module(f"conki_cli.reporting.tracking.to_{name}")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            library: Library = module.load()
    except SettingsError:
        raise
    except ImportError as error:
        raise SettingsError(
            f"--track {name} needs the library {name}, which cannot be imported here ({reason_of(error)})",
            advice=f"pip install {name}",
        ) from error
    except Exception as error:  # importing runs code of others, which may raise anything
        raise SettingsError(
            f"--track {name}: the library {name} cannot be used ({reason_of(error)})",
            advice=f"reinstall it, or leave out --track {name}",
        ) from error
    return library


@contextlib.contextmanager
def tracked(libraries: Mapping[str, Library], workspace: Workspace, observer: Observer) -> Iterator[Observer]:
    """Yield an observer that also tells trackers what it hears.

    Whatever these libraries print goes to stderr, so that a result on stdout stays alone.

    Args:
        libraries: by name; none: the observer itself is yielded.
        workspace: has the runs.
        observer: hears everything, and one warning for a tracker that fails.
    """
    if not libraries:
        yield observer
        return
    for name, library in libraries.items():
        observer.say(f"{name} follows the training: {library.where(workspace)}")
    tracking = Tracking(libraries, workspace, observer)
    with contextlib.redirect_stdout(sys.stderr):
        try:
            yield Observers(observer, tracking)
        finally:
            tracking.close()

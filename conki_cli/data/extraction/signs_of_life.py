"""Signs of life of a large model: a stretch of sound may take it minutes, and nothing of it is finished before."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


class SignsOfLife:
    """Tells that a torch model works, after every layer that it has computed."""

    def __init__(self, model: Any) -> None:
        """Watch a model, whose outputs stay as they are."""
        self._progress: Callable[[float], None] | None = None
        for layer in model.modules():
            layer.register_forward_hook(self._notice)

    def _notice(self, *_: Any) -> None:
        if self._progress is not None:
            self._progress(0.0)

    @contextlib.contextmanager
    def told_to(self, progress: Callable[[float], None]) -> Iterator[None]:
        """Tell `progress`, with no seconds of the medium, within the block."""
        self._progress = progress
        try:
            yield
        finally:
            self._progress = None

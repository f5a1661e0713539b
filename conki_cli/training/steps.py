"""Units of training: a `Step` is one seed of one stage as plain data; a `Shelf` holds its opened inputs."""

import copy
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from conki_cli.config.sections import RunConfig
from conki_cli.data.store.reading import FeatureStore
from conki_cli.model.inputs import Inputs, open_inputs
from conki_cli.runs import Run
from conki_cli.system.environment import choose_device
from conki_cli.system.observer import Observer
from conki_cli.text import load_reader
from conki_cli.training.jobs import Job

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Step:
    """One seed of one stage of one configuration.

    It can be pickled, sent to another process or machine with access to the same files, and trained there to the same
    bits.
    """

    config: RunConfig
    """The configuration of this stage; its seeds are all seeds that the command requests."""
    seed: int
    run: Path
    """The run's folder, which may not exist yet."""
    first: Path | None
    """Folder of the stage-1 run that the seed starts from."""
    encoder: str
    """Name or folder of the text encoder."""
    stores: Mapping[str, Path]
    """Every store that the stage reads, by data set."""
    data: Mapping[str, str]
    """Their content ids."""


class Shelf:
    """The stores and tokenizers that a command reads, each opened once; `splits`: nothing of other splits is read."""

    def __init__(self, *, splits: Collection[str] | None = None) -> None:
        self._splits = splits
        self._open = ExitStack()
        self._stores: dict[Path, FeatureStore] = {}
        self._readers: dict[str, _Reader] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def store(self, path: Path) -> FeatureStore:
        """Return an opened feature store.

        Raises:
            StoreError: it is missing or damaged.
        """
        if path not in self._stores:
            self._stores[path] = self._open.enter_context(FeatureStore(path, splits=self._splits))
        return self._stores[path]

    def inputs(self, config: RunConfig, stores: Mapping[str, Path], encoder: str) -> Inputs:
        """Return the inputs of a stage; texts are tokenised only once.

        Raises:
            ConkiError: see `open_inputs`.
        """
        target = self.store(stores[config.data.dataset])
        externals = [self.store(stores[name]) for name in config.externals] if config.needs_pretraining else []

        def reader(name: str) -> "tuple[PreTrainedTokenizerBase, int]":
            if name not in self._readers:
                tokenizer, limit = load_reader(name)
                self._readers[name] = _Reader(tokenizer, limit, copy.deepcopy(tokenizer))
            return self._readers[name].tokenizer, self._readers[name].max_tokens

        found = open_inputs(config, target, externals, encoder, reader=reader)
        return found.sharing(self._readers[encoder].tokens) if encoder in self._readers else found

    def unused_tokenizer(self, encoder: str) -> "PreTrainedTokenizerBase | None":
        """Return the tokenizer of a text encoder as it was loaded; None if no step reads texts with it."""
        return self._readers[encoder].unused if encoder in self._readers else None


@dataclass(frozen=True)
class _Reader:
    """A tokenizer, its length limit, and the token ids of the splits tokenised so far."""

    tokenizer: "PreTrainedTokenizerBase"
    max_tokens: int
    unused: "PreTrainedTokenizerBase"
    """A copy that never tokenises: tokenising changes what a tokenizer saves."""
    tokens: dict[str, tuple[list[np.ndarray], int]] = field(default_factory=dict)


def open_step(step: Step, shelf: Shelf, observer: Observer, run: Run | None = None) -> Job:
    """Open the inputs of a step; `run` is the opened folder, if the caller has it."""
    inputs = shelf.inputs(step.config, step.stores, step.encoder)
    device = choose_device(step.config.run.device)
    run, tokenizer = run or Run(step.run), shelf.unused_tokenizer(step.encoder)
    return Job(step.config, run, inputs, step.encoder, device, observer, step.data, tokenizer)

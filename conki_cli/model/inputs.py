"""The inputs of a run: its opened stores and tokenizer, and the batches from them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from conki_cli import MODALITIES
from conki_cli.config.externals import external_weights
from conki_cli.config.sections import RunConfig
from conki_cli.config.switches import MODALITY_SWITCHES
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import Ragged, Utterances
from conki_cli.model.absence import Absence, masked_when_empty
from conki_cli.model.batches import Batches
from conki_cli.model.mixing import MixedBatches
from conki_cli.model.zoo import model_class
from conki_cli.system.errors import SettingsError, StoreError
from conki_cli.text.context import Context, tokenize_with_context

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Inputs:
    """The opened stores of a run and derived facts; the stage decides which of the two stores is trained on."""

    target: FeatureStore
    external: FeatureStore | None
    """None in stage 2, and if no stage 1 is needed."""
    modalities: tuple[str, ...]
    limits: Mapping[str, int]
    """Longest audio and vision sequences, in frames, that the encoders have positions for."""
    tokenizer: "PreTrainedTokenizerBase | None"
    max_tokens: int
    rescales: bool
    """Whether external scores are converted to the target's range."""
    states: Mapping[str, Mapping[str, Ragged]] = field(default_factory=dict)
    """Cached states of a frozen text encoder, by split of the store that this stage trains on, and name."""
    bucket: bool = False
    """Whether training batches hold clips of similar length."""
    threshold: float | None = None
    """The run's score that separates two classes."""
    limit: int = 0
    """Largest number of clips per split; 0: all."""
    masks_empty: frozenset[str] = frozenset()
    """Modalities that a clip without frames or words lacks."""
    context: Context = field(default_factory=Context)
    """Neighbouring clips whose texts are read behind a clip's own."""
    parts: tuple["Inputs", ...] = ()
    """With several external data sets, the inputs of each; then `external` is None."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Their weights, by data set."""
    _tokens: dict[str, tuple[list[np.ndarray], int]] = field(default_factory=dict)

    @property
    def sources(self) -> tuple["Inputs", ...]:
        """The inputs of every data set that this stage trains on."""
        return self.parts or (self,)

    @property
    def learnt(self) -> FeatureStore:
        """The store that this stage trains on: the external one in stage 1; of several, ask `sources`."""
        assert not self.parts
        return self.external or self.target

    def clips(self, split: str) -> Utterances:
        """Return the clips of a split of that store, up to the run's limit."""
        return self.learnt.split(split).limited(self.limit)

    @property
    def external_widths(self) -> dict[str, int]:
        """Feature widths of the external set that differ from the target's and so need a bridge layer."""
        if self.external is None:
            each = {part.learnt.dataset: part.external_widths for part in self.parts}
            return {f"{dataset}/{name}": width for dataset, widths in each.items() for name, width in widths.items()}
        widths = {name: self.external.widths[name] for name in self.limits}
        return {name: width for name, width in widths.items() if width != self.target.widths[name]}

    @property
    def score_range(self) -> tuple[float, float]:
        """Range of the scores that the model learns to predict."""
        return self.target.score_range if self.rescales else self.learnt.score_range

    def batches(
        self,
        split: str,
        *,
        batch_size: int,
        seed: int | None = None,
        shares: Mapping[str, float] = MappingProxyType({}),
    ) -> Batches:
        """Return the batches of a split of what this stage trains on; shuffled if a seed is given.

        In shuffled batches, a share of the clips loses a modality, drawn per epoch.
        """
        if self.parts:
            parts = {
                part.learnt.dataset: part.batches(split, batch_size=batch_size, seed=seed, shares=shares)
                for part in self.parts
            }
            return MixedBatches.of(parts, self.weights)
        utterances = self.clips(split)
        return Batches(
            utterances,
            self.token_ids(split),
            self.limits,
            batch_size,
            seed=seed,
            states=self.states.get(split, {}),
            bucket=self.bucket,
            score_range=self.score_range,
            rescale=_rescale(self.learnt.score_range, self.score_range),
            threshold=self.threshold,
            absence=Absence(masks_empty=self.masks_empty, shares=shares),
        )

    def _key(self, split: str) -> str:
        return f"{self.learnt.path}/{split}/{self.limit}"

    def token_ids(self, split: str) -> list[np.ndarray] | None:
        """Return the token ids that the text encoder reads, computed once; None if the run has no text."""
        if self.tokenizer is None:
            return None
        return self.contexts(split)[0] if self.context else self.tokens([split])[split][0]

    def contexts(self, split: str) -> tuple[list[np.ndarray], int]:
        """Return the token ids of a split's clips with their contexts, and the number of truncated contexts."""
        assert self.tokenizer is not None
        key = f"{self._key(split)}/{self.context.before}/{self.context.after}"
        if key not in self._tokens:
            clips = self.clips(split)
            self._tokens[key] = tokenize_with_context(self.tokenizer, clips, self.context, max_length=self.max_tokens)
        return self._tokens[key]

    def tokens(self, splits: Sequence[str]) -> dict[str, tuple[list[np.ndarray], int]]:
        """Return token ids of the clips' own texts, and the number of truncated texts; {} if the run has no text."""
        if self.tokenizer is None:
            return {}
        from conki_cli.text import tokenize

        for split in splits:
            if (key := self._key(split)) not in self._tokens:
                texts = self.clips(split).texts
                self._tokens[key] = tokenize(self.tokenizer, texts, max_length=self.max_tokens)
        return {split: self._tokens[self._key(split)] for split in splits}

    def sharing(self, tokens: dict[str, tuple[list[np.ndarray], int]]) -> "Inputs":
        """Return these inputs with a store of token ids that is shared with other inputs of the same tokenizer."""
        return replace(self, _tokens=tokens, parts=tuple(part.sharing(tokens) for part in self.parts))

    def cut(self, split: str) -> dict[str, int]:
        """Count the sequences of a split that exceed their limit, by modality."""
        frames = [part.clips(split).frames for part in self.sources]
        limits = self.limits.items()
        return {name: sum(int((part[name].lengths > limit).sum()) for part in frames) for name, limit in limits}


def _rescale(stored: tuple[float, float], wanted: tuple[float, float]) -> tuple[float, float]:
    """Return factor and shift that map one score range to another."""
    factor = (wanted[1] - wanted[0]) / (stored[1] - stored[0])
    return factor, wanted[0] - factor * stored[0]


def open_inputs(
    config: RunConfig,
    target: FeatureStore,
    external: FeatureStore | Sequence[FeatureStore] | None,
    encoder: str,
    *,
    reader: "Callable[[str], tuple[PreTrainedTokenizerBase, int]] | None" = None,
) -> Inputs:
    """Prepare the inputs of a run.

    Args:
        config: the resolved configuration.
        target: the store of the target data set.
        external: the external stores, or the only one, if this run needs their lengths or clips.
        encoder: name or folder of the text encoder.
        reader: returns the tokenizer of a text encoder and its longest sequence; None: they are loaded.

    Raises:
        StoreError: the external store lacks a modality that the run uses, or two stores are of one data set.
        SettingsError: no modality remains.
    """
    from conki_cli.text import load_reader

    modalities = available_modalities(target.modalities, config.model.drop)
    if not modalities:
        raise SettingsError(
            f"the store {target.path.name} has {', '.join(target.modalities)} but the run drops all of them",
            advice="drop less, or prepare a store with more modalities",
        )
    frames = [name for name in modalities if name != "text"]
    externals = [] if external is None else [external] if isinstance(external, FeatureStore) else [*external]
    _check_names([target, *externals])
    for store in externals:
        if lacking := [name for name in frames if name not in store.widths]:
            raise StoreError(
                f"the target {target.dataset} has {lacking[0]} but the external store {store.path} has none",
                advice=f"prepare {store.dataset} from a file with {lacking[0]}, or give --drop-modality {lacking[0]}",
            )
    learns_external = config.run.stage == "pretrain"
    tokenizer, max_tokens = (reader or load_reader)(encoder) if "text" in modalities else (None, 0)
    crosses = config.transfers_whole or not config.dropped("handover") or len(externals) > 1
    opened = Inputs(
        target,
        externals[0] if learns_external and len(externals) == 1 else None,
        modalities,
        _limits(config, target, externals, frames),
        tokenizer,
        max_tokens,
        rescales=crosses,
        bucket=config.compute.bucket,
        threshold=config.data.threshold,
        limit=config.data.limit,
        masks_empty=masked_when_empty(config, model_class(config.model.name).optional_modalities),
        context=Context.of(config),
    )
    if not learns_external or len(externals) < 2:
        return opened
    asked = external_weights(config.data.external).values()  # a store's file may have another name than its data set
    weights = {store.dataset: weight for store, weight in zip(externals, asked, strict=True)}
    return replace(opened, parts=tuple(replace(opened, external=store) for store in externals), weights=weights)


def _check_names(stores: Sequence[FeatureStore]) -> None:
    """Refuse two stores of one data set: a run tells its stores apart by that name."""
    paths: dict[str, Path] = {}
    for store in stores:
        if (first := paths.setdefault(store.dataset, store.path)) != store.path:
            raise StoreError(
                f"the stores of a run must be of different data sets, but {first} and {store.path} are both of "
                f"{store.dataset}",
                advice="prepare one of them again with --dataset and a name of its own",
            )


def _limits(
    config: RunConfig, target: FeatureStore, externals: Sequence[FeatureStore], frames: Sequence[str]
) -> dict[str, int]:
    """Return the longest audio and vision sequences that the encoders get positions for, in frames."""
    cap = config.data.max_frames
    stores = [target, *([] if config.data.cut_external else externals)]
    longest = {name: max(store.longest(name, "train") for store in stores) for name in frames}
    return {name: max(1, min(cap, length)) for name, length in longest.items()}


def available_modalities(stored: Sequence[str], drop: Sequence[str]) -> tuple[str, ...]:
    """Return the modalities of a run: those of the target's store that are not dropped, in the order t, v, a."""
    return tuple(name for name in MODALITIES if name in stored and MODALITY_SWITCHES[name] not in drop)

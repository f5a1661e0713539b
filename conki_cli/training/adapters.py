"""Adapters from an exported folder, which replace a stage 1: check that they fit a target, load them into its network.

Weights that depend on the frames of another data set start untrained: the input projection of an encoder whose frames
have another width (stage 1's bridge layers are not exported either), and positions beyond those that were learnt.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from conki_cli.config.resolving import from_toml
from conki_cli.config.sections import RunConfig
from conki_cli.model.contract import SentimentModel
from conki_cli.model.inputs import Inputs
from conki_cli.runs.exported import Manifest, adapters_at
from conki_cli.system.errors import RunError
from conki_cli.system.observer import Observer
from conki_cli.text import encoder_identity, encoder_sizes
from conki_cli.training import checkpoint

_SHAPING = ("num_layers", "num_heads", "adapter_width")
"""Settings of `[model]` that decide what the weights of encoders and adapters mean."""
_PROJECTION, _POSITIONS = ".projection.", ".positions"


@dataclass(frozen=True)
class GivenAdapters:
    """An exported folder of adapters that a run starts from."""

    folder: Path
    manifest: Manifest
    config: RunConfig

    @classmethod
    def of(cls, config: RunConfig) -> Self:
        """Open the folder that a configuration names.

        Raises:
            RunError: it names none, the folder was changed, or it is not the one that the run started with.
        """
        wanted = config.model.adapters_checksum
        if not config.model.adapters:
            raise RunError(
                f"the run starts from adapters with the checksum {wanted[:12]}", advice="give --adapters FOLDER"
            )
        folder = Path(config.model.adapters)
        manifest = adapters_at(folder)
        if manifest.checksum != wanted:
            raise RunError(
                f"{folder} must hold the adapters with the checksum {wanted[:12]} that the run started with, found "
                f"{manifest.checksum[:12]}",
                advice="restore that folder, or give --adapters to start another run",
            )
        return cls(folder, manifest, from_toml(folder / "config.toml"))

    def check(self, inputs: Inputs, encoder: str, config: RunConfig) -> None:
        """Refuse adapters that do not fit the settings, the text encoder or the modalities of a target.

        Raises:
            RunError: they do not.
        """
        for name in _SHAPING:
            here, there = getattr(config.model, name), getattr(self.config.model, name)
            if here != there:
                raise RunError(
                    f"the adapters in {self.folder} were trained with model.{name} = {there} and this run has {here}",
                    advice=f"give --set model.{name}={there}",
                )
        for seed in config.run.seeds:
            self._seed_for(seed)
        _, facts = self._load(config.run.seeds[0])
        sizes = _sizes(facts, self.folder)
        if missing := [name for name in inputs.modalities if name not in sizes["modalities"]]:
            raise RunError(
                f"the adapters in {self.folder} are for {', '.join(sizes['modalities'])} and the target also has "
                f"{missing[0]}",
                advice=f"give --drop-modality {missing[0]}",
            )
        self._check_encoder(encoder, sizes, reads_text="text" in inputs.modalities)

    def _check_encoder(self, encoder: str, sizes: Mapping[str, Any], *, reads_text: bool) -> None:
        here = encoder_sizes(encoder, reads_text=reads_text)
        if here != (sizes["width"], sizes["text_layers"]):
            raise RunError(
                f"the adapters in {self.folder} fit a text encoder of width {sizes['width']} with "
                f"{sizes['text_layers']} layers, and {encoder} has width {here[0]} and {here[1]}",
                advice="give --encoder",
            )
        known = self.manifest.about.get("text_encoder")
        there = known.get("identity") if isinstance(known, Mapping) else None
        found = encoder_identity(encoder) if reads_text else there
        kinds = {str(name).startswith("folder-") for name in (there, found)}
        if there and len(kinds) == 1 and there != found:  # a hub name and a folder cannot be compared
            raise RunError(
                f"the adapters in {self.folder} were trained with the text encoder {str(there)[:60]} and this run has "
                f"{found}",
                advice="give that one as --encoder",
            )

    def give(self, model: SentimentModel, seed: int, observer: Observer) -> None:
        """Copy the adapters, and the encoders that they were trained with, into the network of a seed.

        Raises:
            RunError: they do not fit the network.
        """
        stored, _ = self._load(seed)
        state = model.state_dict()
        parts = [f"{part}.{name}." for part in ("adapters", "encoders") for name in model.architecture.modalities]
        wanted = {name: tensor for name, tensor in stored.items() if name.startswith(tuple(parts))}
        needed = tuple(part for part in parts if part != "encoders.text.")  # that one is the pretrained encoder
        if missing := [name for name in state if name.startswith(needed) and name not in wanted]:
            raise RunError(f"the adapters in {self.folder} lack {missing[0]}", advice="export them again")
        fresh = {
            name.split(".")[1]
            for name, tensor in wanted.items()
            if name.startswith("encoders.") and _PROJECTION in name and _differs(state.get(name), tensor)
        }
        with torch.no_grad():
            for name, tensor in wanted.items():
                own = state.get(name)
                if own is not None and name.endswith(_POSITIONS) and own.shape[1:] == tensor.shape[1:]:
                    rows = min(len(own), len(tensor))
                    own[:rows] = tensor[:rows]
                elif not (_PROJECTION in name and name.split(".")[1] in fresh):
                    checkpoint.restore(model, {name: tensor}, str(self.folder))
        where = f"{self.folder} (seed {self._seed_for(seed)}, {self.manifest.checksum[:12]})"
        rest = f"; the input layers of {', '.join(sorted(fresh))} start untrained: other widths" if fresh else ""
        observer.say(f"seed {seed} starts from the adapters in {where}{rest}")

    def _seed_for(self, seed: int) -> int:
        """Return the folder's seed for a seed of the run: the same one, or the only one."""
        seeds = self.manifest.seeds
        if seed not in seeds and len(seeds) > 1:
            raise RunError(
                f"the adapters in {self.folder} are of seeds {', '.join(map(str, seeds))}, and seed {seed} must be one "
                "of them",
                advice="choose --seeds among them, or export one seed alone, which serves every seed",
            )
        return seed if seed in seeds else seeds[0]

    def _load(self, seed: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return checkpoint.load(self.folder / f"seed-{self._seed_for(seed)}" / "adapters.safetensors")


def _differs(own: Tensor | None, stored: Tensor) -> bool:
    return own is not None and own.shape != stored.shape


def _sizes(facts: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """Return the sizes of a seed's network as its file states them."""
    sizes = facts.get("architecture")
    wanted = {"modalities": list, "width": int, "text_layers": int}
    if not isinstance(sizes, dict) or not all(isinstance(sizes.get(key), kind) for key, kind in wanted.items()):
        raise RunError(
            f"the adapters in {folder} must state the sizes of their network but do not", advice="export them again"
        )
    return sizes

"""The ten models by name: their classes, imported on demand.

Nothing here imports torch until a class is requested, so that listing the models is fast.
"""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, cast

from conki_cli import MODALITIES
from conki_cli.config.nearest import unknown_model
from conki_cli.config.sections import RunConfig
from conki_cli.config.switches import MODALITY_SWITCHES
from conki_cli.system.errors import SettingsError

if TYPE_CHECKING:
    from conki_cli.model.contract import Architecture, SentimentModel
    from conki_cli.model.text_encoder import TextEncoder

    Make = Callable[[RunConfig, Architecture, TextEncoder | None], SentimentModel]

MODELS = {
    "conki": "conki_cli.model.conki:ConKI",
    "tfn": "conki_cli.model.baselines.tfn:Tfn",
    "lmf": "conki_cli.model.baselines.lmf:Lmf",
    "mult": "conki_cli.model.baselines.mult:Mult",
    "iccn": "conki_cli.model.baselines.iccn:Iccn",
    "misa": "conki_cli.model.baselines.misa:Misa",
    "mag-bert": "conki_cli.model.baselines.mag_bert:MagBert",
    "self-mm": "conki_cli.model.baselines.self_mm:SelfMm",
    "hycon": "conki_cli.model.baselines.hycon:Hycon",
    "mmim": "conki_cli.model.baselines.mmim:Mmim",
}
"""Name -> "module:class"; ConKI, then the other systems in the order of Table 2."""


def model_class(name: str) -> "type[SentimentModel]":
    """Import the class of a model.

    Raises:
        SettingsError: there is no model of that name.
    """
    if name not in MODELS:
        raise unknown_model(name, MODELS)
    module, _, attribute = MODELS[name].partition(":")
    found: type[SentimentModel] = getattr(import_module(module), attribute)
    return found


def build(config: RunConfig, architecture: "Architecture", text_encoder: "TextEncoder | None") -> "SentimentModel":
    """Build the model of a configuration, with random weights from torch's generator except for its text encoder.

    Raises:
        SettingsError: the model needs a modality that the run lacks.
    """
    name = config.model.name
    found = model_class(name)
    missing = [part for part in MODALITIES if part in found.required_modalities - set(architecture.modalities)]
    if missing:
        switches = ", ".join(MODALITY_SWITCHES[part] for part in missing)
        them = "it" if len(missing) == 1 else "them"
        raise SettingsError(
            f"{name} needs {' and '.join(missing)}, but this run has only {', '.join(architecture.modalities)}",
            advice=f"do not drop {switches}, prepare a store that has {them}, or choose another --model",
        )
    model = cast("Make", found)(config, architecture, text_encoder)
    model.precision = config.compute.precision
    return model

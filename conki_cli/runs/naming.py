"""How runs are named: digests of settings, folder names."""

import hashlib
import re
from typing import Any

from conki_cli.config.externals import NO_EXTERNAL
from conki_cli.config.sections import RunConfig
from conki_cli.runs.differences import learnt_settings
from conki_cli.system.errors import RunError
from conki_cli.system.workspace import BUILT_IN_ENCODER
from conki_cli.text import encoder_identity


def digest_of(config: RunConfig) -> str:
    """Return 8 hex digits of everything in the configuration that changes what is learnt.

    It leaves out seeds, device, name, settings that only decide whether a run is refused, the threshold between two
    classes, the encoder's path (the encoder's content counts), and `[pretraining]` for a run without stage 1.
    """
    name = config.model.text_encoder
    identity = name if name == BUILT_IN_ENCODER else encoder_identity(name, reads_text=not config.dropped("T"))
    flat = {**learnt_settings(config), "model.text_encoder": identity}
    flat |= {f"model.{key}": value for key, value in _handover_of_version_1(config).items()}
    return hashlib.sha256(repr(sorted(flat.items())).encode()).hexdigest()[:8]


def _handover_of_version_1(config: RunConfig) -> dict[str, Any]:
    """Return the switches, with `start_from` instead of the switch `handover`, so that version 1's digests stay."""
    drop = tuple(switch for switch in config.model.drop if switch != "handover")
    is_conki = not (config.is_baseline or config.dropped("plain-transfer"))
    hands_over = is_conki and config.data.external != NO_EXTERNAL and not config.dropped("handover")
    if hands_over or (config.run.recipe == "released" and not config.is_baseline and not config.dropped("handover")):
        return {"drop": drop, "start_from": "all"}
    if "C2" in drop:  # without external data, version 1 named only C2, not C1
        drop = tuple(switch for switch in drop if switch != "C1")
    return {"drop": drop, "start_from": "adapters"}


def default_name(config: RunConfig) -> str:
    """Name a run after its data sets, model, switches and digest, so the same command finds the same run."""
    switches = f"-wo-{'+'.join(config.model.drop)}" if config.model.drop else ""
    if "plain-transfer" in config.model.drop:
        rest = [switch for switch in config.model.drop if switch != "plain-transfer"]
        switches = "-plain-transfer" + (f"-wo-{'+'.join(rest)}" if rest else "")
    data = config.data.dataset
    if config.run.stage == "pretrain":
        data = f"pretrain-{'+'.join(config.externals)}-for-{config.data.dataset}"
    return f"{data}-{config.model.name}{switches}-{digest_of(config)}"


def check_name(name: str) -> str:
    """Return a run name that is safe as a folder name.

    Raises:
        RunError: it could point outside the folder of runs, is too long, or its lock would be that of a seed.
    """
    if re.search(r"\.seed-\d+$", name):
        found = f"a run name must not end like a seed's folder, found '{name[:120]}'"
        raise RunError(found, "choose another one, or rename the run's folder")
    if name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", name):
        raise RunError(
            f"a run name must consist of letters, digits, '.', '_', '+' and '-' (100 at most), found '{name[:120]}'"
        )
    return name

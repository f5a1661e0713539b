"""Settings: one frozen dataclass per section, TOML in and out, presets, switches.

They travel default < preset < `--config FILE` < flags and `--set section.key=value` -> frozen `RunConfig`.
"""

from conki_cli.config.resolving import (
    ADDED_LATER,
    CONKI_ONLY,
    as_tables,
    canonical,
    from_toml,
    parse_switches,
    resolve,
    setting_fields,
    setting_type,
    stage_one,
    to_toml,
)
from conki_cli.config.sections import (
    BASELINES,
    MODEL_NAMES,
    NO_EXTERNAL,
    SECTIONS,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainingConfig,
    RunConfig,
    RunSection,
)
from conki_cli.config.setting import BaselineSection

__all__ = [
    "ADDED_LATER",
    "BASELINES",
    "CONKI_ONLY",
    "MODEL_NAMES",
    "NO_EXTERNAL",
    "SECTIONS",
    "BaselineSection",
    "DataConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PretrainingConfig",
    "RunConfig",
    "RunSection",
    "as_tables",
    "canonical",
    "from_toml",
    "parse_switches",
    "resolve",
    "setting_fields",
    "setting_type",
    "stage_one",
    "to_toml",
]

"""Settings: one frozen dataclass per section, TOML in and out, presets, switches.

They travel default < preset < `--config FILE` < flags and `--set section.key=value` -> frozen `RunConfig`.
"""

"""The demo: ConKI and the models that it is compared with, on two built-in corpora."""

from conki_cli.config.resolving import resolve
from conki_cli.config.sections import RunConfig
from conki_cli.config.words import switch_label

DEMO_ROWS: tuple[tuple[str, ...], ...] = (("C1",), ("C2",), ("plain-transfer",))
"""The switches of the models that the demo compares with ConKI."""
REAL_ENCODER_RATES = {"pretraining.learning_rate": 2e-4, "optimizer.lr_encoders": 5e-5}
"""The demo's own rates suit its small BERT; a large pretrained encoder would forget everything."""


def demo_rows(encoder: str | None, seeds: tuple[int, ...], device: str) -> dict[str, RunConfig]:
    """Return the demo's configurations by label: with its own small text encoder, or with a real one."""
    flags = {"data.dataset": "demo", "model.text_encoder": encoder, "run.seeds": seeds, "run.device": device}
    rows = {}
    for drop in ((), *DEMO_ROWS):
        rates = REAL_ENCODER_RATES if encoder is not None else {}
        if rates and "plain-transfer" in drop:
            rates = {**rates, "pretraining.lr_encoders": rates["optimizer.lr_encoders"]}
        rows[switch_label(drop)] = resolve(flags={**flags, **rates}, extra_drop=drop)
    return rows

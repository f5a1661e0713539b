"""Which weights a finished seed must have, to compare with its checkpoints."""

from collections.abc import Mapping
from typing import Any

import torch

from conki_cli.config.sections import RunConfig
from conki_cli.runs import Run
from conki_cli.training.inference import stored_architecture, stored_network


def needed_weights(run: Run, config: RunConfig, facts: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """Name the weights that a finished seed must have, by file: best, frozen, encoder.

    The network is built without values, as before training. Stage 1 needs only the weights that it hands over.

    Raises:
        Exception: any kind, if the checkpoint's facts or the folder `encoder` are damaged.
    """
    with torch.device("meta"):
        model = stored_network(run, config, stored_architecture(facts), facts)
    trained, kept = (frozenset(names) for names in model.stored_names())
    if config.run.stage == "pretrain":
        handed = frozenset(model.handed_over())
        return {"best": trained & handed, "frozen": kept & handed, "encoder": frozenset()}
    rest = frozenset(model.state_dict()) - trained - kept if model.text_is_frozen else frozenset()
    return {"best": trained, "frozen": kept, "encoder": rest}

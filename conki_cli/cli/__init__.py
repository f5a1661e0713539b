"""The commands: each reads its options, calls one function, shows one table. torch is imported when work starts."""

from collections.abc import Callable

from conki_cli.cli.data import inspect_store, prepare
from conki_cli.cli.extraction import extract
from conki_cli.cli.figures import plot
from conki_cli.cli.loudness import with_loudness
from conki_cli.cli.models import compare, models
from conki_cli.cli.program import app, main
from conki_cli.cli.reports import report
from conki_cli.cli.results import evaluate, predict, runs
from conki_cli.cli.sharing import export, pull, push
from conki_cli.cli.submitting import SubmitCommand, submit
from conki_cli.cli.sweeping import sweep
from conki_cli.cli.training import ablate, demo, finetune, pretrain, settings
from conki_cli.cli.upkeep import doctor

__all__ = ["COMMANDS", "app", "main"]

COMMANDS: dict[str, Callable[..., None]] = {
    "prepare": prepare,
    "extract": extract,
    "inspect": inspect_store,
    "pretrain": pretrain,
    "finetune": finetune,
    "evaluate": evaluate,
    "plot": plot,
    "runs": runs,
    "doctor": doctor,
    "ablate": ablate,
    "compare": compare,
    "sweep": sweep,
    "submit": submit,
    "report": report,
    "predict": predict,
    "export": export,
    "push": push,
    "pull": pull,
    "models": models,
    "settings": settings,
    "demo": demo,
}
"""Every command under its name, in the order of the help page."""

for _name, _command in COMMANDS.items():
    _is_submit = _name == "submit"
    _takes_command = {"allow_interspersed_args": False} if _is_submit else None
    app.command(_name, cls=SubmitCommand if _is_submit else None, context_settings=_takes_command)(
        with_loudness(_command)
    )

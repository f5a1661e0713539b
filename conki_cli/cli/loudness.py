"""The options `--quiet` and `--verbose`, which every command has."""

import functools
import inspect
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Annotated, Any, Literal

import typer

from conki_cli.system.errors import ConkiError, SettingsError, reason_of

Loudness = Literal["quiet", "normal", "verbose"]
LOUDNESS: ContextVar[Loudness] = ContextVar("loudness", default="normal")
"""The loudness of the running command."""

_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")]
_Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Also print a line for every epoch of training, and the cause of an error."),
]


def with_loudness(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options `--quiet` and `--verbose`."""

    @functools.wraps(command)
    def loud(quiet: bool, verbose: bool, **options: Any) -> None:
        if quiet and verbose:
            raise SettingsError("give --quiet or --verbose, not both")
        token = LOUDNESS.set("quiet" if quiet else "verbose" if verbose else "normal")
        try:
            command(**options)
        except ConkiError as error:
            if verbose and (cause := error.__cause__) is not None:
                sys.stderr.write(f"cause: {type(cause).__name__}: {reason_of(cause, 1000)}\n")
            raise
        finally:
            LOUDNESS.reset(token)

    own = list(inspect.signature(command).parameters.values())
    kind = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter(name, kind, default=False, annotation=annotation)
        for name, annotation in (("quiet", _Quiet), ("verbose", _Verbose))
    ]
    parameters = [parameter.replace(kind=kind) for parameter in (*own, *added)]
    loud.__dict__["__signature__"] = inspect.Signature(parameters)
    loud.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return loud

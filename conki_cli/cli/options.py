"""The options that several commands share, and how they become the configuration of a run."""

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from conki_cli import MODALITIES
from conki_cli.config.declarations import Field, flagged, setting_type
from conki_cli.config.switches import MODALITY_SWITCHES, SWITCHES
from conki_cli.system.errors import SettingsError

if TYPE_CHECKING:
    from conki_cli.config.sections import RunConfig

_SWITCH_HELP = ";\n\n".join(f"{name}: {meaning}" for name, meaning in SWITCHES.items())

_AS_WORDS = ("model.name", "run.seeds")
"""Settings whose option is read as plain text, because our message about a wrong value says more than Typer's."""


def flag_of(path: str) -> Any:
    """Return a setting's own option; help and default are those that it declares."""
    field = flagged()[path]
    help_text = str(field.metadata["help"])
    if isinstance(field.default, str) and field.default:
        help_text += f". Default: {field.default}"
    return typer.Option(field.metadata["flag"], help=f"{help_text[0].upper()}{help_text[1:]}.")


def _annotation_of(path: str) -> Any:
    """Return a setting's option as Typer needs it: its type or choices, and the option."""
    limits, kind = flagged()[path].metadata, str if path in _AS_WORDS else setting_type(path)
    if "choices" in limits and path not in _AS_WORDS:
        kind = Literal[limits["choices"]]
    return Annotated[kind | None, flag_of(path)]


ThresholdOption = Annotated[float | None, flag_of("data.threshold")]
EpochsOption = Annotated[int | None, flag_of("optimizer.num_epochs")]
StageOneEpochsOption = Annotated[int | None, flag_of("pretraining.num_epochs")]
WorkspaceOption = Annotated[
    Path, typer.Option(envvar="CONKI_WORKSPACE", help="Folder with data/, features/ and runs/.", file_okay=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, everything else on stderr.")]
ProtocolOption = Annotated[
    Literal["all", "nonzero"],
    typer.Option(help="MAE and Corr over all clips, or over those whose score is not 0."),
]
ExportOption = Annotated[Path | None, typer.Option(help="Also write the table to FILE.md, .csv or .tex.")]
CorruptOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODALITY:KIND=VALUES",
        help="Damage every clip: audio:noise=20dB,10dB, vision:drop=0.5, text:asr=0.2; joined by +. Repeatable.",
    ),
]
CorruptSeedOption = Annotated[int | None, typer.Option(min=0, help="Seed of the damage. Default: 0.")]
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite/--resume",
        help="Discard the run and start over (its stage-1 run is kept), or resume it where it stopped.",
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Show the steps, their parameters, epochs, disk and time; change nothing."),
]
TrackOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TRACKER", help="Follow the training in tensorboard, trackio, wandb or mlflow. Repeatable, or A,B."
    ),
]
JobsOption = Annotated[
    int,
    typer.Option(
        "--jobs", min=1, metavar="N", help="Train N seeds or rows side by side, each with its share of the threads."
    ),
]
DropOption = Annotated[
    list[str] | None,
    typer.Option(help=f"Leave parts out, combined as C1+C4. Repeatable.\n\n{_SWITCH_HELP}.", metavar="SWITCHES"),
]


_MANY = {
    "drop_modality": Annotated[
        list[str] | None, typer.Option(help="Leave out text, vision or audio (Table 4). Repeatable.")
    ],
    "seed": Annotated[int | None, typer.Option(help="One random seed. Default: 1.")],
    "config": Annotated[Path | None, typer.Option(help="TOML file with settings, such as a run's config.toml.")],
    "set": Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="SECTION.KEY=VALUE", help="Any setting; `conki settings` lists them. Repeatable."
        ),
    ],
}
"""The options of a run that do not stand for a single setting."""
_BY_HAND = ("--drop", "--epochs")
"""Flags that their commands declare themselves, because they treat them differently."""


@functools.cache
def run_parameters() -> dict[str, tuple[str, Any]]:
    """Return the options of a run: by parameter, its setting (empty for those of many) and its annotation."""
    known = {_parameter_of(field): (path, field) for path, field in flagged().items()}
    own = {name: (path, _annotation_of(path)) for name, (path, field) in known.items() if _is_shared(field)}
    return own | {name: ("", annotation) for name, annotation in _MANY.items()}


def _is_shared(field: Field) -> bool:
    return field.metadata["flag"] not in _BY_HAND


def _parameter_of(field: Field) -> str:
    return str(field.metadata["flag"]).removeprefix("--").replace("-", "_")


def gathered(given: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the given options of a run into the arguments of `config.resolving.resolve`."""
    from conki_cli.config.words import parse_seeds

    seed, seeds, modalities = given["seed"], given["seeds"], given["drop_modality"] or []
    if seed is not None and seeds is not None:
        raise SettingsError("give --seed or --seeds, not both")
    if unknown := [modality for modality in modalities if modality not in MODALITIES]:
        raise SettingsError(f"--drop-modality takes {', '.join(MODALITIES)}; found '{unknown[0]}'")
    flags = {path: given[name] for name, (path, _) in run_parameters().items() if path}
    flags["run.seeds"] = (seed,) if seed is not None else parse_seeds(seeds) if seeds is not None else None
    letters = tuple(MODALITY_SWITCHES[modality] for modality in modalities)
    return {"config_file": given["config"], "assignments": given["set"] or [], "flags": flags, "extra_drop": letters}


def training_options(settings: Mapping[str, Any]) -> list[str]:
    """Name the given options that decide how a run is trained, which a finished run does not take."""
    fields = flagged()
    paths = [path for path, value in settings["flags"].items() if value is not None]
    names = [fields[path].metadata["flag"] for path in paths if not fields[path].metadata["of_results"]]
    others = {
        "--drop-modality": settings["extra_drop"],
        "--config": settings["config_file"],
        "--set": settings["assignments"],
    }
    return [*names, *(option for option, value in others.items() if value)]


def adapter_flags(folder: Path, flags: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run that starts from a folder of exported adapters, which is verified.

    Raises:
        SettingsError: an external data set was given as well.
        RunError: the folder holds no adapters, or was changed.
    """
    from conki_cli.runs.exported import adapters_at

    if flags["data.external"] not in (None, "none"):
        raise SettingsError("--adapters replaces --external", advice="give only one of the two")
    given = {"model.adapters": str(folder.resolve()), "model.adapters_checksum": adapters_at(folder).checksum}
    return {"data.external": "none", **given}


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a run; it receives them gathered, as `settings`."""
    shared = {name: annotation for name, (_, annotation) in run_parameters().items()}

    @functools.wraps(command)
    def with_settings(**options: Any) -> None:
        settings = gathered({name: options.pop(name) for name in shared})
        command(settings=settings, **options)

    kind = inspect.Parameter.KEYWORD_ONLY
    own = inspect.signature(command).parameters
    rest = [parameter.replace(kind=kind) for name, parameter in own.items() if name != "settings"]
    first = [inspect.Parameter(name, kind, default=None, annotation=shared[name]) for name in shared]
    with_settings.__dict__["__signature__"] = inspect.Signature([*first, *rest])
    with_settings.__annotations__ = {p.name: p.annotation for p in (*first, *rest)}
    return with_settings


def resolved(
    settings: dict[str, Any],
    say: Callable[[str], None],
    *,
    epochs: tuple[str, int | None],
    drop: list[str] | None = None,
    is_row: bool = False,
) -> "RunConfig":
    """Resolve gathered options, a stage's `--epochs` as (setting, value), and the switches of `--drop`.

    The options of `is_row` are for other rows as well, which may read what this one does not.
    """
    from conki_cli.config.resolving import parse_switches, refuse_unread_by_transfer, resolve

    flags = {**settings["flags"], epochs[0]: epochs[1]}
    switches = (*settings["extra_drop"], *(switch for words in drop or [] for switch in parse_switches(words)))
    config = resolve(
        config_file=settings["config_file"], assignments=settings["assignments"], flags=flags, extra_drop=switches
    )
    if not is_row:
        refuse_unread_by_transfer(config, [line.partition("=")[0].strip() for line in settings["assignments"]])
    if "N1" in switches and not config.dropped("N1"):
        say("without adapters there are no inter-knowledge pairs: N1 has no effect here")
    return config

"""The options that several commands share, and how they become the configuration of a run."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from conki_cli import MODALITIES
from conki_cli.config.switches import MODALITY_SWITCHES, SWITCHES
from conki_cli.system.errors import SettingsError

if TYPE_CHECKING:
    from conki_cli.config.sections import RunConfig

_SWITCH_HELP = ";\n\n".join(f"{name}: {meaning}" for name, meaning in SWITCHES.items())

WorkspaceOption = Annotated[
    Path, typer.Option(envvar="CONKI_WORKSPACE", help="Folder with data/, features/ and runs/.", file_okay=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, all else on stderr.")]
ProtocolOption = Annotated[
    Literal["all", "nonzero"],
    typer.Option(help="MAE and Corr over all clips, or over those whose score is not 0."),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(help="Score that separates the two classes of Acc-2 and F1. Default: 0, if inside the range."),
]
ExportOption = Annotated[Path | None, typer.Option(help="Also write the table to FILE.md, .csv or .tex.")]
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite/--resume",
        help="Discard the run and start over (its stage-1 run is kept), or continue it where it stopped.",
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Show the steps, their parameters, epochs, disk and time; change nothing."),
]
DropOption = Annotated[
    list[str] | None,
    typer.Option(help=f"Leave parts out, combined as C1+C4. Repeatable.\n\n{_SWITCH_HELP}.", metavar="SWITCHES"),
]


def _run_settings(
    dataset: Annotated[str | None, typer.Option(help="Target data set: a store in features/. Default: mosi.")] = None,
    external: Annotated[
        str | None, typer.Option(help="External data set, or none. Default: mosei (for mosei: mosi).")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="conki, or a system of Table 2; `conki models` lists them. Default: conki.")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Text encoder: Hugging Face name or folder. Default: bert-base-uncased.")
    ] = None,
    drop_modality: Annotated[
        list[str] | None, typer.Option(help="Leave out text, vision or audio (Table 4). Repeatable.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="One random seed. Default: 1.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Several seeds: 1..5 or 1,4,9.")] = None,
    recipe: Annotated[
        Literal["paper", "released"] | None, typer.Option(help="As the paper says, or as the authors' code does.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings, such as a run's config.toml.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="SECTION.KEY=VALUE", help="Any setting; `conki settings` lists them. Repeatable."
        ),
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Where to compute.")] = None,
    precision: Annotated[
        Literal["fp32", "tf32", "bf16"] | None, typer.Option(help="Numbers to compute with. Default: fp32.")
    ] = None,
    bucket: Annotated[
        bool | None, typer.Option("--bucket", help="Batches of clips of similar length; other clips then meet.")
    ] = None,
    cache: Annotated[
        Literal["fp32", "fp16", "off"] | None,
        typer.Option(help="Keep what a frozen text encoder says of each text below frozen/. Default: fp32."),
    ] = None,
    compile_: Annotated[
        bool | None, typer.Option("--compile", help="Fuse operations with torch.compile; for GPUs, slow to start.")
    ] = None,
    threshold: ThresholdOption = None,
    name: Annotated[str | None, typer.Option(help="Folder name below runs/. Default: made from the settings.")] = None,
) -> dict[str, Any]:
    """Gather the options that decide a run; the options of `pretrain`, `finetune` and `ablate` are these."""
    from conki_cli.config.words import parse_seeds

    if seed is not None and seeds is not None:
        raise SettingsError("give --seed or --seeds, not both")
    unknown = [modality for modality in drop_modality or [] if modality not in MODALITIES]
    if unknown:
        raise SettingsError(f"--drop-modality takes {', '.join(MODALITIES)}; found '{unknown[0]}'")
    chosen = (seed,) if seed is not None else parse_seeds(seeds) if seeds is not None else None
    flags = {
        "data.dataset": dataset,
        "data.external": external,
        "data.threshold": threshold,
        "model.name": model,
        "model.text_encoder": encoder,
        "run.recipe": recipe,
        "run.device": device,
        "run.cache": cache,
        "run.compile": compile_,
        "compute.precision": precision,
        "compute.bucket": bucket,
        "run.name": name,
        "run.seeds": chosen,
    }
    letters = tuple(MODALITY_SWITCHES[modality] for modality in drop_modality or [])
    return {"config_file": config, "assignments": set_ or [], "flags": flags, "extra_drop": letters}


def adapter_flags(folder: Path, flags: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run that starts from a folder of exported adapters, which is verified.

    Raises:
        SettingsError: an external data set is named too.
        RunError: the folder holds no adapters, or was changed.
    """
    from conki_cli.runs.exported import adapters_at

    if flags["data.external"] not in (None, "none"):
        raise SettingsError("--adapters takes the place of --external: give one of the two")
    given = {"model.adapters": str(folder.resolve()), "model.adapters_checksum": adapters_at(folder).checksum}
    return {"data.external": "none", **given}


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `_run_settings`; it receives them gathered, as `settings`."""
    shared = inspect.signature(_run_settings).parameters
    own = inspect.signature(command).parameters

    @functools.wraps(command)
    def with_settings(**options: Any) -> None:
        gathered = _run_settings(**{key: options.pop(key) for key in shared})
        command(settings=gathered, **options)

    rest = [parameter for key, parameter in own.items() if key != "settings"]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in [*shared.values(), *rest]]
    with_settings.__dict__["__signature__"] = inspect.Signature(parameters)
    with_settings.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_settings


def resolved(
    settings: dict[str, Any],
    say: Callable[[str], None],
    *,
    epochs: tuple[str, int | None],
    drop: list[str] | None = None,
) -> "RunConfig":
    """Resolve gathered options, a stage's `--epochs` as (setting, value), and the switches of `--drop`."""
    from conki_cli.config.resolving import parse_switches, resolve

    flags = {**settings["flags"], epochs[0]: epochs[1]}
    switches = (*settings["extra_drop"], *(switch for words in drop or [] for switch in parse_switches(words)))
    config = resolve(
        config_file=settings["config_file"], assignments=settings["assignments"], flags=flags, extra_drop=switches
    )
    if "N1" in switches and not config.dropped("N1"):
        say("without adapters there are no inter-knowledge pairs: N1 changes nothing here")
    return config

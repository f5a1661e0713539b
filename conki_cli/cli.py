"""The commands: each reads its options, calls one function, shows one table. Imports no torch until work begins."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from conki_cli import MODALITIES, __version__
from conki_cli.config import (
    MODALITY_SWITCHES,
    SWITCHES,
    RunConfig,
    parse_seeds,
    parse_switches,
    resolve,
    setting_fields,
    setting_type,
)
from conki_cli.errors import SettingsError
from conki_cli.screen import OneLineErrors, Screen

if TYPE_CHECKING:
    from conki_cli.runs import Run, Workspace
    from conki_cli.tables import Row

SWITCH_HELP = "; ".join(f"{name}: {meaning}" for name, meaning in SWITCHES.items())

app = typer.Typer(
    cls=OneLineErrors,
    name="conki",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help=(
        "Multimodal sentiment analysis with ConKI (Contrastive Knowledge Injection, ACL Findings 2023).\n\n"
        "A usual day: `conki prepare --dataset mosi`, `conki prepare --dataset mosei`, "
        "`conki finetune --external mosei --seeds 1..5`, `conki evaluate`, `conki ablate --drop C4`. "
        "To see all of it in a few minutes without any data: `conki demo`."
    ),
)

WorkspaceOption = Annotated[
    Path, typer.Option(envvar="CONKI_WORKSPACE", help="Folder with data/, features/ and runs/.", file_okay=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, all else on stderr.")]
ProtocolOption = Annotated[
    Literal["all", "nonzero"],
    typer.Option(help="MAE and Corr over all clips, or over those whose score is not 0."),
]
ExportOption = Annotated[Path | None, typer.Option(help="Also write the table to FILE.md, .csv or .tex.")]
DropOption = Annotated[
    list[str] | None, typer.Option(help=f"Leave parts out, combined as C1+C4. {SWITCH_HELP}.", metavar="SWITCHES")
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"conki {__version__}")
        raise typer.Exit


@app.callback()
def _conki(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _run_settings(
    dataset: Annotated[str | None, typer.Option(help="Target data set; a store in features/. Default: mosi.")] = None,
    external: Annotated[
        str | None, typer.Option(help="External data set, or none. Default: mosei (mosi for mosei).")
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
    config: Annotated[Path | None, typer.Option(help="TOML with settings, such as a run's config.toml.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any setting; `conki settings` lists them."),
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Where to compute.")] = None,
    name: Annotated[str | None, typer.Option(help="Folder name below runs/. Default: made from the settings.")] = None,
) -> dict[str, Any]:
    """Gather the options that decide a run; the options of `pretrain`, `finetune` and `ablate` are these."""
    if seed is not None and seeds is not None:
        raise SettingsError("give --seed or --seeds, not both")
    unknown = [modality for modality in drop_modality or [] if modality not in MODALITIES]
    if unknown:
        raise SettingsError(f"--drop-modality takes {', '.join(MODALITIES)}; found '{unknown[0]}'")
    chosen = (seed,) if seed is not None else parse_seeds(seeds) if seeds is not None else None
    flags = {
        "data.dataset": dataset,
        "data.external": external,
        "model.text_encoder": encoder,
        "run.recipe": recipe,
        "run.device": device,
        "run.name": name,
        "run.seeds": chosen,
    }
    letters = tuple(MODALITY_SWITCHES[modality] for modality in drop_modality or [])
    return {"config_file": config, "assignments": set_ or [], "flags": flags, "extra_drop": letters}


def _takes_run_settings(command: Callable[..., None]) -> Callable[..., None]:
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


def _resolved(settings: dict[str, Any], *, epochs: tuple[str, int | None], drop: list[str] | None = None) -> RunConfig:
    flags = {**settings["flags"], epochs[0]: epochs[1]}
    switches = (*settings["extra_drop"], *(switch for words in drop or [] for switch in parse_switches(words)))
    return resolve(
        config_file=settings["config_file"], assignments=settings["assignments"], flags=flags, extra_drop=switches
    )


def _workspace(root: Path) -> "Workspace":
    from conki_cli.runs import Workspace

    return Workspace(root)


@app.command()
def prepare(
    dataset: Annotated[str, typer.Option(help="mosi, mosei, sims, demo, demo-external, or a name of your own.")],
    source: Annotated[Path | None, typer.Option(help="File to read. Default: searched below data/.")] = None,
    out: Annotated[Path | None, typer.Option(help="Store to write. Default: features/<dataset>.h5.")] = None,
    score_range: Annotated[
        str | None, typer.Option(metavar="LOW..HIGH", help="Range of the scores, for a data set of your own.")
    ] = None,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Read a data set as it is distributed, check it, and write one clean feature store (HDF5)."""
    from conki_cli.sources import parse_score_range, read_corpus
    from conki_cli.store import FeatureStore, describe, write_store
    from conki_cli.tables import store_tables

    screen = Screen(json=json)
    bounds = parse_score_range(score_range) if score_range is not None else None
    with screen.steps(f"reading {dataset}", 0):
        corpus = read_corpus(dataset, workspace=workspace, source=source, score_range=bounds)
    path = out or _workspace(workspace).store(dataset)
    with screen.steps(f"writing {path}", 0):
        write_store(path, corpus)
    with FeatureStore(path) as store:
        description = describe(store)
    screen.show(*store_tables(description))
    screen.answer(description)


@app.command("inspect")
def inspect_store(
    store: Annotated[Path, typer.Argument(help="A feature store: a file, or the name of a prepared data set.")],
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Show what is in a feature store: sizes, widths, lengths, scores, repairs, origin."""
    from conki_cli.store import FeatureStore, describe
    from conki_cli.tables import store_tables

    screen = Screen(json=json)
    with FeatureStore(_store_path(store, workspace)) as opened:
        description = describe(opened)
    screen.show(*store_tables(description))
    screen.answer(description)


def _store_path(store: Path, workspace: Path) -> Path:
    named = _workspace(workspace).store(str(store))
    return named if not store.exists() and named.exists() else store


@app.command()
@_takes_run_settings
def pretrain(
    settings: dict[str, Any],
    drop: DropOption = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of stage 1.")] = None,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Stage 1: pretrain the adapters on the external data set (Algorithm 1)."""
    from conki_cli.experiments import pretrain as work

    screen = Screen(json=json)
    config = _resolved(settings, epochs=("pretraining.num_epochs", epochs), drop=drop)
    run = work(config, _workspace(workspace), screen)
    _show_finished(screen, run, split="valid")


@app.command()
@_takes_run_settings
def finetune(
    settings: dict[str, Any],
    drop: DropOption = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of stage 2; stage 1 keeps its own.")] = None,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Stage 2: fine-tune on the target data set, after the stage 1 it needs; finished work is reused."""
    from conki_cli.experiments import finetune as work

    screen = Screen(json=json)
    config = _resolved(settings, epochs=("optimizer.num_epochs", epochs), drop=drop)
    run = work(config, _workspace(workspace), screen)
    _show_finished(screen, run, split="test")


def _show_finished(screen: Screen, run: "Run", split: str) -> None:
    screen.say(f"run: {run.path}")
    _show_table(screen, [(run.result["label"], run)], split=split, protocol="all", export=None)
    screen.answer({"run": run.name, "path": run.path, **run.result})


@app.command()
def evaluate(
    run: Annotated[str | None, typer.Argument(help="Run to evaluate. Default: the newest fine-tuning run.")] = None,
    split: Annotated[Literal["train", "valid", "test"], typer.Option(help="Split to evaluate.")] = "test",
    protocol: ProtocolOption = "all",
    export: ExportOption = None,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Show the metrics of a run (MAE, Corr, Acc-7, Acc-2, F1) over its seeds, beside the paper's."""
    from conki_cli.runs import evaluate_run, find_run

    screen = Screen(json=json)
    found = find_run(_workspace(workspace), run)
    if not found.predictions_exist(split):
        from conki_cli.experiments import predict_split

        predict_split(found, split, _workspace(workspace), screen)
    _show_table(screen, [(found.result["label"], found)], split=split, protocol=protocol, export=export)
    screen.answer(evaluate_run(found, split, protocol))


def _show_table(
    screen: Screen, rows: "list[tuple[str, Run]]", *, split: str, protocol: str, export: Path | None
) -> None:
    from conki_cli.runs import evaluate_run
    from conki_cli.tables import TableInfo, export_table, metric_table

    results = [(label, run, evaluate_run(run, split, protocol)) for label, run in rows]
    first = results[0][2]
    info = TableInfo(
        dataset=first["dataset"],
        split=split,
        protocol=protocol,
        seeds=max((result["seeds"] for _, _, result in results), key=len),
        n=first["n"],
        n_nonzero=first.get("n_nonzero"),
    )
    table_rows = [_row(label, run, result) for label, run, result in results]
    screen.show(metric_table(table_rows, info, width=screen.results.width))
    if export is not None:
        export_table(table_rows, info, export)
        screen.say(f"table written to {export}")


def _row(label: str, run: "Run", result: dict[str, Any]) -> "Row":
    from conki_cli.tables import Row, published_row

    values = {name: summary["values"] for name, summary in result["metrics"].items()}
    published = published_row(result["dataset"], run.config.model.drop) if result["split"] == "test" else None
    return Row(label, values, published=published, undefined=result["undefined"])


@app.command()
def runs(workspace: WorkspaceOption = Path(), json: JsonOption = False) -> None:
    """List the runs of the workspace: state, seeds, test metrics, size."""
    from conki_cli.runs import describe_runs
    from conki_cli.tables import runs_table

    screen = Screen(json=json)
    entries = describe_runs(_workspace(workspace))
    screen.show(runs_table(entries))
    screen.answer({"runs": entries})


@app.command()
@_takes_run_settings
def ablate(
    settings: dict[str, Any],
    drop: DropOption = None,
    table: Annotated[int | None, typer.Option(help="All rows of the paper's Table 4 or 5.", min=4, max=5)] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of stage 2; stage 1 keeps its own.")] = None,
    protocol: ProtocolOption = "all",
    export: ExportOption = None,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Compare the full model with versions that lack a part; trains what is missing (Tables 4 and 5)."""
    from conki_cli.experiments import ablate as work

    if not drop and table is None:
        raise SettingsError("say what to leave out: --drop C4 (repeatable, combined as C1+C4), or --table 4 or 5")
    screen = Screen(json=json)
    paper_rows = {None: [], 4: [("T",), ("V",), ("A",)], 5: [("C1",), ("C2",), ("C3",), ("C4",), ("N1",)]}[table]
    drops = [*paper_rows, *(parse_switches(words) for words in drop or [])]
    config = _resolved(settings, epochs=("optimizer.num_epochs", epochs))
    rows = work(config, drops, _workspace(workspace), screen)
    _show_comparison(screen, rows, protocol=protocol, export=export)


def _show_comparison(
    screen: Screen, rows: "list[tuple[str, Run]]", *, protocol: str, export: Path | None, **more: Any
) -> None:
    from conki_cli.runs import evaluate_run

    _show_table(screen, rows, split="test", protocol=protocol, export=export)
    results = [{"label": label, **evaluate_run(run, "test", protocol)} for label, run in rows]
    screen.answer({"rows": results, **more})


@app.command()
def predict(
    run: Annotated[str, typer.Argument(help="A fine-tuning run: its name, or its folder.")],
    store: Annotated[Path | None, typer.Argument(help="A feature store with new clips.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="A sentence to score. Repeatable.")] = None,
    source: Annotated[Path | None, typer.Option(help="CSV file with a column `text`, and `id` if you like.")] = None,
    split: Annotated[Literal["train", "valid", "test"], typer.Option(help="Split of the store.")] = "test",
    export: Annotated[Path | None, typer.Option(help="Also write the scores to FILE.csv.")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")] = "auto",
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Score new utterances: the mean over a run's seeds, and each seed."""
    from conki_cli.experiments import predict_new, read_new
    from conki_cli.runs import find_run, write_scores
    from conki_cli.tables import scores_table

    if sum(given is not None for given in (store, text, source)) != 1:
        raise SettingsError("say what to score with one of --text, --source FILE.csv or a feature store")
    screen = Screen(json=json)
    found = find_run(_workspace(workspace), run)
    with read_new(text, source, _store_path(store, workspace) if store else None, split) as utterances:
        scored = predict_new(found, utterances, device)
    screen.show(scores_table(scored))
    screen.answer(scored)
    if export is not None:
        write_scores(export, scored)
        screen.say(f"scores written to {export}")


@app.command()
def settings(json: JsonOption = False) -> None:
    """List every setting: name, type, default and meaning (for --set and --config)."""
    from conki_cli.tables import settings_table

    screen = Screen(json=json)
    entries = [
        {"setting": path, "type": str(setting_type(path)), "default": field.default, "help": field.metadata["help"]}
        for path, field in setting_fields().items()
    ]
    screen.show(settings_table(entries))
    screen.answer({"settings": entries})


@app.command()
def demo(
    encoder: Annotated[
        str | None, typer.Option(help="A real text encoder: Hugging Face name or folder. Default: a small one, built.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Random seeds: 1..5 or 1,4,9.")] = "1",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")] = "auto",
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """See everything once, on two small built-in corpora: prepare, pretrain, fine-tune, evaluate, compare."""
    from conki_cli.experiments import DEMO_ROWS
    from conki_cli.experiments import ablate as work

    screen = Screen(json=json)
    flags = {"data.dataset": "demo", "model.text_encoder": encoder, "run.seeds": parse_seeds(seeds)}
    config = resolve(flags={**flags, "run.device": device})
    place = _workspace(workspace)
    rows = work(config, list(DEMO_ROWS), place, screen)
    _show_comparison(screen, rows, protocol="all", export=None, workspace=place.root.resolve())
    screen.say(f"features: {place.store('demo').parent.resolve()}")
    for _, run in rows:
        screen.say(f"run: {run.path.resolve()}")
    screen.say(f"next: conki evaluate {rows[0][1].name}; conki predict {rows[0][1].name} ...; conki runs")


def main() -> None:
    """Run the program."""
    app()

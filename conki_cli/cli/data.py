"""The commands about data: write a feature store, inspect one."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from conki_cli.cli.extraction import ExtractionFlags, extraction_options, failures_shown
from conki_cli.cli.options import JsonOption, WorkspaceOption
from conki_cli.cli.program import ON_INTERRUPTION, screen_for, store_path, workspace_at
from conki_cli.cli.streams import note_written
from conki_cli.system.errors import SettingsError


@extraction_options
def prepare(
    context: typer.Context,
    extraction_flags: ExtractionFlags,
    dataset: Annotated[
        str | None, typer.Option(help="mosi, mosei, sims, simsv2, demo, demo-external (-a, -b), or a name of your own.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option(help="File or folder to read. Default: looked for below data/.")
    ] = None,
    format_: Annotated[
        str | None, typer.Option("--format", metavar="NAME", help="Its format. Default: detected from the content.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="label.csv with what is missing from the source: texts, scores, splits, times.")
    ] = None,
    text: Annotated[Path | None, typer.Option(help="File whose texts replace those of the source, by id.")] = None,
    audio: Annotated[
        Path | None, typer.Option(help="File, or folder with a file per clip, whose audio replaces that of the source.")
    ] = None,
    vision: Annotated[Path | None, typer.Option(help="The same for vision.")] = None,
    text_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Column or key with the texts, such as text_en.")
    ] = None,
    translate: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Translate the texts: a MarianMT model's folder or NAME@REVISION."),
    ] = None,
    align: Annotated[
        Literal["words"] | None, typer.Option(help="Average frames over each word (CMU sequences only).")
    ] = None,
    normalize: Annotated[
        Literal["none", "zscore"], typer.Option(help="Normalise the columns of audio and vision by the training split.")
    ] = "none",
    score_range: Annotated[
        str | None, typer.Option(metavar="LOW..HIGH", help="Range of the scores, for a data set of your own.")
    ] = None,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Prepare clips for `conki predict`: read no scores and no splits.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Store to write. Default: features/<dataset>.h5.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Treat warnings as errors and write nothing.")] = False,
    list_formats: Annotated[
        bool, typer.Option("--list-formats", help="List and explain the formats, then exit.")
    ] = False,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Read a data set as it is distributed, check it, and write one clean feature store (HDF5).

    Formats are detected from the content; nothing in a file is ever executed. Without --source, files are looked for
    below data/, such as data/MOSI/Processed/unaligned_50.pkl. The report says what was found, repaired and left out.

    conki prepare --dataset mosi
    conki prepare --dataset mosi --source mosi_data.pkl --labels label.csv
    conki prepare --dataset sims --translate MODEL@REVISION
    conki prepare --dataset mine --source label.csv --audio frames/audio --score-range -3..3
    conki prepare --dataset new --source clips.csv --audio frames/audio --unlabelled
    conki prepare --dataset talks --source videos/ --score-range -3..3
    """
    if list_formats:
        return _list_formats(json)
    if dataset is None:
        context.fail("Missing option '--dataset'.")
    context.meta[ON_INTERRUPTION] = "no store was made or changed"
    from conki_cli.data.preparation import Preparation
    from conki_cli.data.preparation import prepare as work
    from conki_cli.data.sources import parse_score_range
    from conki_cli.data.sources.request import Options

    overrides = {"text": text, "audio": audio, "vision": vision}
    options = Options(
        format=format_,
        labels=labels,
        overrides={modality: path for modality, path in overrides.items() if path is not None},
        text_column=text_column,
        align_words=align == "words",
        unlabelled=unlabelled,
        extraction=extraction_flags.extraction(workspace),
    )
    task = Preparation(
        dataset=dataset,
        workspace=workspace_at(workspace),
        source=source,
        out=out,
        score_range=parse_score_range(score_range) if score_range is not None else None,
        options=options,
        translate=translate,
        normalize=normalize,
        strict=strict,
    )
    _check_store_path(task.path)
    before = _identity(task.path)
    try:
        screen = screen_for(json)
        with failures_shown(screen):
            made = work(task, screen)
        note_written(str(made))
        _describe(made, json)
    finally:
        if _identity(task.path) != before:
            context.meta[ON_INTERRUPTION] = f"{task.path} is new and complete"
    return None


def _identity(path: Path) -> int | None:
    """Return a file's identity, which changes when the file is replaced; None if there is no file."""
    return path.stat().st_ino if path.exists() else None


def _list_formats(json: bool) -> None:
    from conki_cli.data.sources import unsupported
    from conki_cli.data.sources.formats import families
    from conki_cli.reporting.tables.formats import format_list

    screen = screen_for(json)
    explained = [{"formats": dict(family.FORMATS), "description": family.__doc__ or ""} for family in families()]
    explained.append({"formats": {"refused": "known, but not read"}, "description": unsupported.__doc__ or ""})
    screen.show(*format_list(explained))
    screen.answer({"families": explained})


def _check_store_path(path: Path) -> None:
    from conki_cli.system.files import check_writable

    check_writable(path)
    if path.exists() and path.suffix != ".h5":
        raise SettingsError(
            f"{path} exists and is not an .h5 file, so it is not overwritten", advice="give --out another name"
        )


def _describe(path: Path, json: bool) -> None:
    from conki_cli.data.store.describing import describe
    from conki_cli.data.store.reading import FeatureStore
    from conki_cli.reporting.tables.stores import store_tables

    screen = screen_for(json)
    with FeatureStore(path) as store:
        description = describe(store)
    screen.show(*store_tables(description))
    screen.answer(description)


def inspect_store(
    store: Annotated[
        str, typer.Argument(help="A feature store: a prepared data set's name, or a file (./FILE, FILE.h5).")
    ],
    features: Annotated[bool, typer.Option("--features", help="Show every column of audio and vision.")] = False,
    clip: Annotated[str | None, typer.Option(metavar="ID", help="Show one clip.")] = None,
    compare: Annotated[str | None, typer.Option(metavar="STORE", help="Show how another store differs.")] = None,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Show what is in a feature store: sizes, widths, lengths, scores, repairs, origin.

    conki inspect mosi
    conki inspect mosi --features
    conki inspect mosi --clip '03bSnISJMiM$_$11'
    conki inspect mosi --compare features/mosi-aligned.h5
    """
    if features + (clip is not None) + (compare is not None) > 1:
        raise SettingsError("give one of --features, --clip and --compare")
    path = store_path(store, workspace)
    if not features and clip is None and compare is None:
        return _describe(path, json)
    from conki_cli.data.store.describing import compare_stores, describe_clip, describe_features
    from conki_cli.data.store.reading import FeatureStore
    from conki_cli.reporting.tables.stores import clip_tables, comparison_tables, feature_tables

    screen = screen_for(json)
    with FeatureStore(path) as opened:
        if compare is not None:
            with FeatureStore(store_path(compare, workspace)) as other:
                found = compare_stores(opened, other)
            parts = comparison_tables(found)
        elif clip is not None:
            found = describe_clip(opened, clip)
            parts = clip_tables(found)
        else:
            found = describe_features(opened)
            parts = feature_tables(found)
    screen.show(*parts)
    screen.answer(found)
    return None

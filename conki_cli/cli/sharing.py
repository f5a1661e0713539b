"""The commands that share trained models: export, push, pull."""

from pathlib import Path
from typing import Annotated

import typer

from conki_cli.cli.options import JsonOption, WorkspaceOption
from conki_cli.cli.program import ON_INTERRUPTION, screen_for, workspace_at
from conki_cli.cli.streams import note_written
from conki_cli.system.errors import SettingsError

_RepoArgument = Annotated[str, typer.Argument(metavar="OWNER/NAME[@REVISION]", help="A model on the Hugging Face hub.")]


def export(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="A finished run: its name, or its folder.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="New folder to write.")],
    seed: Annotated[int | None, typer.Option(help="Export only this seed. Default: every finished one.")] = None,
    all_seeds: Annotated[bool, typer.Option("--all-seeds", help="Refuse a run that has an unfinished seed.")] = False,
    adapters_only: Annotated[
        bool, typer.Option("--adapters-only", help="Export the adapters of stage 1, for `finetune --adapters`.")
    ] = False,
    license_: Annotated[
        str, typer.Option("--license", metavar="ID", help="Licence of the weights, as the hub names it.")
    ] = "other",
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Export a trained model, or its adapters alone, as a folder that works anywhere.

    It holds weights (safetensors), settings, tokenizer, normalisation and a
    model card; no texts, predictions or paths of this machine.

    conki export mosi-conki-1a2b3c4d --out my-model --license mit
    conki export mosi-conki-1a2b3c4d --out my-adapters --adapters-only
    """
    from conki_cli.reporting.export.card import check_license
    from conki_cli.reporting.export.folders import Export, export_adapters, export_model
    from conki_cli.runs import Runs

    context.meta[ON_INTERRUPTION] = "nothing was exported"
    if seed is not None and all_seeds:
        raise SettingsError("give --seed or --all-seeds, not both")
    screen = screen_for(json)
    place = workspace_at(workspace)
    if out.resolve().is_relative_to(place.runs.resolve()):
        raise SettingsError(f"--out must not be below {place.runs}, which holds runs", advice="name another folder")
    found = Runs(place).find(run)
    seeds = (seed,) if seed is not None else found.record.seeds if all_seeds else None
    work = export_adapters if adapters_only else export_model
    manifest = work(Export(found, seeds, check_license(license_)), out, place, screen)
    note_written(str(out))
    screen.say(f"exported: {out}")
    screen.say(f"next: conki {'finetune --adapters' if adapters_only else 'predict'} {_as_path(out)}")
    facts = {"kind": manifest.kind, "seeds": manifest.seeds, "size": manifest.size, "checksum": manifest.checksum}
    screen.answer({"folder": out.resolve(), **facts, "files": sorted(manifest.files)})


def push(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="A folder that `conki export` wrote.")],
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME[@BRANCH]", help="Where it goes on the Hugging Face hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    message: Annotated[str, typer.Option(help="Message of the commit.")] = "Upload with conki",
    json: JsonOption = False,
) -> None:
    """Upload an exported folder to the Hugging Face hub.

    Every file is verified first. Log in once with `hf auth login`.

    conki push my-model me/mosi-conki --private
    """
    from conki_cli.reporting.export.hub import parse_repo
    from conki_cli.reporting.export.hub import push as work

    context.meta[ON_INTERRUPTION] = f"{name} may have only some of the files: run the command again"
    screen = screen_for(json)
    done = work(folder, parse_repo(name), screen, private=private, message=message)
    note_written(done["url"])
    screen.say(f"pushed: {done['url']}")
    screen.say(f"pinned: {done['repository']}@{done['commit']}")
    screen.answer(done)


def pull(
    context: typer.Context,
    name: _RepoArgument,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="New folder to write. Default: ./NAME.")] = None,
    json: JsonOption = False,
) -> None:
    """Download an exported model or adapters from the Hugging Face hub into a folder.

    Only the files of an exported folder are fetched, and every checksum is
    verified. A branch, tag or commit after @ pins the revision.

    conki pull me/mosi-conki
    conki pull me/mosi-conki@v1.0 --out my-model
    """
    from conki_cli.reporting.export.hub import parse_repo
    from conki_cli.reporting.export.hub import pull as work

    context.meta[ON_INTERRUPTION] = "no folder was made"
    screen = screen_for(json)
    repo = parse_repo(name)
    place = out if out is not None else Path(repo.name.rpartition("/")[2])
    done = work(repo, place, screen)
    note_written(str(place))
    screen.say(f"pulled: {place}")
    screen.answer(done)


def _as_path(folder: Path) -> str:
    """Return a folder in a form that commands read as a path, not as a name."""
    text = str(folder)
    return text if "/" in text else f"./{text}"

"""Options about videos that several commands share, the table of what failed, and `conki extract`."""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conki_cli.cli.options import JsonOption, WorkspaceOption
from conki_cli.cli.program import check_export_option, screen_for, workspace_at
from conki_cli.cli.streams import note_written
from conki_cli.system.errors import SettingsError

if TYPE_CHECKING:
    from conki_cli.cli.screen import Screen
    from conki_cli.data.extraction.cache import Clip, Extracted, Extraction

_PANEL = "Videos"


@dataclasses.dataclass(frozen=True)
class ExtractionFlags:
    """What the options about videos say; None: the default."""

    audio_features: str | None = None
    vision_features: str | None = None
    fps: str | None = None
    face_models: Path | None = None
    workers: int | None = None
    skip_failed: bool = False
    transcribe: str | None = None

    def extraction(self, workspace: Path) -> "Extraction":
        """Return how features are made, with the cache of a workspace."""
        from conki_cli.data.extraction.cache import EXTRACTED, Extraction
        from conki_cli.data.extraction.recipe import Recipe, parse_fps

        given: dict[str, Any] = {"audio": self.audio_features, "vision": self.vision_features}
        given["face_models"] = self.face_models
        if self.fps is not None:
            if self.vision_features == "none":
                raise SettingsError(
                    "--fps says how often faces are looked at", advice="leave it out with --vision-features none"
                )
            given["fps"] = parse_fps(self.fps)
        recipe = Recipe(**{key: value for key, value in given.items() if value is not None or key == "fps"})
        cache = workspace_at(workspace).root / EXTRACTED
        return Extraction(cache, recipe, self.workers, self.skip_failed, self.transcribe)


def _flags(
    audio_features: Annotated[
        str | None,
        typer.Option(
            metavar="covarep|MODEL|none",
            help="Of sound; MODEL[#LAYER] is an encoder. Default: covarep.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    vision_features: Annotated[
        str | None,
        typer.Option(
            metavar="mesh|MODEL|none",
            help="Of faces; MODEL[#LAYER] is an encoder. Default: mesh.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    fps: Annotated[
        str | None,
        typer.Option(
            metavar="N|own", help="Rows of vision per second, or the video's own. Default: 10.", rich_help_panel=_PANEL
        ),
    ] = None,
    face_models: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE.task", help="Where the model files that find faces lie.", rich_help_panel=_PANEL
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that extract. Default: one per core.", rich_help_panel=_PANEL)
    ] = None,
    skip_failed: Annotated[
        bool, typer.Option("--skip-failed", help="Leave out clips that cannot be extracted.", rich_help_panel=_PANEL)
    ] = False,
    transcribe: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Write down what is said: a Whisper-type model.", rich_help_panel=_PANEL),
    ] = None,
) -> ExtractionFlags:
    return ExtractionFlags(audio_features, vision_features, fps, face_models, workers, skip_failed, transcribe)


def extraction_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options about videos, gathered as its parameter `extraction_flags`."""
    shared, own = inspect.signature(_flags).parameters, inspect.signature(command).parameters

    @functools.wraps(command)
    def with_flags(**options: Any) -> None:
        gathered = _flags(**{key: options.pop(key) for key in shared})
        command(extraction_flags=gathered, **options)

    rest = [parameter for key, parameter in own.items() if key != "extraction_flags"]
    place = next((i for i, parameter in enumerate(rest) if parameter.name == "workspace"), len(rest))
    ordered = [*rest[:place], *shared.values(), *rest[place:]]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in ordered]
    with_flags.__dict__["__signature__"] = inspect.Signature(parameters)
    with_flags.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_flags


@contextlib.contextmanager
def failures_shown(screen: "Screen") -> Iterator[None]:
    """Show the table of clips that failed before the error's one line."""
    try:
        yield
    except Exception as error:
        failures = getattr(error, "failures", ())
        if failures:
            show_failures(screen, failures)
        raise


def show_failures(screen: "Screen", failures: Any) -> None:
    """Show which clips failed, why, and what to do."""
    from conki_cli.reporting.tables.failures import failure_table

    screen.messages.print(failure_table(failures))


@extraction_options
def extract(
    extraction_flags: ExtractionFlags,
    clips: Annotated[list[Path], typer.Argument(metavar="CLIP...", help="Videos or sound, or folders with them.")],
    out: Annotated[
        Path, typer.Option(help="Folder for one .npz per clip, or FILE.h5 for a store to be scored.")
    ] = Path(),
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Also draw what was seen and heard in the first clip.")
    ] = None,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Extract features of sound and faces from videos, without labels.

    Each clip becomes CLIP.npz with audio and vision, their column names, and a
    note of how they were made; or all become a store for `conki predict`.

    conki extract clip.mp4
    conki extract clips/*.mp4 --out features --vision-features none
    conki extract clip.mp4 --plot clip.png
    """
    from conki_cli.data.extraction.cache import ExtractionError, extract_clips
    from conki_cli.data.sources.loose_videos import clips_of, write_archives, write_to_score
    from conki_cli.data.sources.videos import failed_line
    from conki_cli.reporting.tables.failures import extracted_table

    screen = screen_for(json)
    check_export_option(plot, ".png", ".pdf", ".svg")
    wanted = clips_of(clips)
    extraction = dataclasses.replace(extraction_flags.extraction(workspace), observer=screen)
    done, failures = extract_clips(wanted, extraction)
    written: list[Path] = []
    if out.suffix == ".h5" and done:
        write_to_score(out, done, extraction)
        written = [out]
    elif done:
        written = write_archives(out, done, extraction.provenance())
    note_written(", ".join(map(str, written[:3])))
    if done:
        screen.show(extracted_table(done, written))
    screen.answer(
        {
            "clips": [{"id": one.id, **one.result} for one in done],
            "files": written,
            "failures": [failure.to_json() for failure in failures],
        }
    )
    if failures:
        show_failures(screen, failures)
    if plot is not None and done:
        _draw_first(plot, done[0], wanted, extraction)
    if failures and not extraction.skip_failed:
        raise ExtractionError(failed_line(failures, len(wanted)), failures)


def _draw_first(path: Path, extracted: "Extracted", clips: "Sequence[Clip]", extraction: "Extraction") -> None:
    """Draw the first clip that was extracted, after table and JSON, which a problem here must not cost."""
    from conki_cli.data.extraction.showing import pictures_shown
    from conki_cli.reporting.video_figures import draw_clip

    clip = next(clip for clip in clips if clip.id == extracted.id)
    shown = pictures_shown(extracted, clip, extraction.recipe)
    for line in draw_clip(path, extracted, clip, extraction.provenance(), shown):
        extraction.observer.say(line)
    extraction.observer.say(f"drawn: {path}")

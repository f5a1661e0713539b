"""`conki predict --video`: scores of whole videos, or of their segments over time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conki_cli.cli.extraction import ExtractionFlags, failures_shown
from conki_cli.cli.program import screen_for, workspace_at
from conki_cli.cli.streams import note_written
from conki_cli.system.errors import SettingsError, one_line

if TYPE_CHECKING:
    from conki_cli.cli.screen import Screen


@dataclass(frozen=True)
class VideoWords:
    """What the options of `conki predict` say about videos."""

    videos: Sequence[Path]
    texts: Sequence[str]
    segments: str | None
    plot: Path | None
    export: Path | None
    device: str


def predict_videos(run: str, words: VideoWords, flags: ExtractionFlags, workspace: Path, screen: "Screen") -> None:
    """Score videos and show the scores."""
    from conki_cli.experiments.videos import VideoTask, parse_segments, score_videos
    from conki_cli.reporting.export.hub import exported_model
    from conki_cli.reporting.tables.screen import scores_table
    from conki_cli.runs import Runs, write_scores

    place = workspace_at(workspace)
    if exported_model(place, run) is not None:
        raise SettingsError(
            f"--video needs a run of the workspace, found an exported model, {one_line(run)[:80]}",
            advice="name the run that it was exported from, which knows how its features were made",
        )
    seconds = None if words.segments is None else parse_segments(words.segments)
    if words.plot is not None and seconds is None:
        raise SettingsError("--plot draws scores over time", advice="give --segments, such as --segments 5s")
    task = VideoTask(words.videos, flags.extraction(workspace), words.texts, seconds, words.device)
    with failures_shown(screen):
        scored = score_videos(Runs(place).find(run), task, place, screen)
    if words.export is not None:
        write_scores(words.export, scored)
        note_written(str(words.export))
        screen.say(f"scores written to {words.export}")
    if words.plot is not None:
        from conki_cli.reporting.video_figures import draw_time_line

        draw_time_line(words.plot, scored)
        screen.say(f"drawn: {words.plot}")
    for clip in scored["clips"]:
        for warning in clip["warnings"]:
            screen.say(f"warning: {clip['id']}: {warning}")
    screen.show(scores_table(scored, width=screen.results.width))
    screen.answer(scored)


def show_demo_video(seeds: str, device: str, encoder: str | None, workspace: Path, json: bool) -> None:
    """Make videos, train on them, and show the metrics and the score of one clip."""
    from conki_cli.config.words import parse_seeds, run_label
    from conki_cli.experiments.demo_video import demo_video
    from conki_cli.reporting.tables.screen import scores_table

    if encoder is not None:
        raise SettingsError("--video trains on vision and audio, without texts", advice="leave --encoder out")
    screen, place = screen_for(json), workspace_at(workspace)
    run, scored = demo_video(place, parse_seeds(seeds), device, screen)
    note_written(str(place.runs))
    shown = screen.compare([(run_label(run.config), run)], "test")
    screen.show(scores_table(scored, width=screen.results.width))
    screen.say(f"run: {run.path.resolve()}")
    screen.say(f"next: conki predict {run.name} --video CLIP.mp4 --segments 0.5s --plot scores.png")
    screen.answer({"rows": shown, "scored": scored, "workspace": place.root.resolve()})

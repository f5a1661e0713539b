"""The kinds of figures: what each shows and which runs it takes; fast to import."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from conki_cli.config.models import label_of
from conki_cli.config.nearest import nearest
from conki_cli.runs import Run
from conki_cli.system.errors import RunError, SettingsError, one_line
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Form = Literal["svg", "png", "pdf"]
FORMS: tuple[Form, ...] = get_args(Form)
COLUMN, PAGE = 77.0, 160.0
"""Widths in millimetres: one column and the whole text of a page in the proceedings of the ACL."""


@dataclass(frozen=True)
class Choices:
    """The options of a figure besides its runs."""

    split: str = "test"
    """Split whose stored predictions and clips are shown."""
    intervals: tuple[int, int] | None = None
    """Two sentiment intervals; None: -2 and 1 where both have clips, else the lowest and the highest that have."""
    seed: int | None = None
    """Seed whose weights are used; None: the first finished one."""
    num_clips: int | None = None
    """pairs: clips in the batch, by default 3; tsne: clips of an interval that are drawn at most, by default 50."""
    corruptions: tuple[str, ...] = ()
    """robustness: the damage, as `--corrupt` takes it; empty: a curve for each kind."""
    corrupt_seed: int = 0
    """robustness: seed of the damage."""
    protocol: str = "all"
    """Of the metrics that kinds for several runs show, see `metrics.sentiment_metrics`; the others show all clips."""
    threshold: float | None = None
    """The score that separates two classes, instead of the runs' own."""
    workspace: Workspace | None = None
    """The workspace of the feature stores; None: the folder that holds `runs/`."""
    observer: Observer = field(default_factory=Observer)
    """Is notified of what is left out, and of the progress."""

    def workspace_of(self, run: Run) -> Workspace:
        """Return the workspace in which the feature store of a run lies."""
        return self.workspace or Workspace(run.path.absolute().parent.parent)


@dataclass(frozen=True)
class Kind:
    """A kind of figure."""

    name: str
    title: str
    shows: str
    """One line for the help page."""
    least: int = 1
    """Runs that it takes, at least."""
    most: int = 1
    """Runs that it takes, at most."""
    needs_weights: bool = False
    """Whether it loads checkpoints and computes: seconds to minutes."""
    baselines: bool = True
    """Whether it can be drawn of models other than ConKI."""
    stage_1: bool = False
    """Whether it can be drawn of a stage-1 run."""
    needs_predictions: bool = True
    """Whether it reads the stored predictions of a split."""
    takes_intervals: bool = False
    """Whether two intervals and a number of clips can be chosen."""


@dataclass(frozen=True)
class Drawn:
    """A finished figure."""

    content: bytes
    """The file."""
    title: str
    caption: str
    """Says in plain text what is shown, of what."""
    numbers: dict[str, Any]
    """What is drawn, ready for JSON; undefined numbers are nan."""


@dataclass(frozen=True, eq=False)
class Plot:
    """A figure that is drawn but not yet written."""

    figure: "Figure"
    caption: str
    numbers: dict[str, Any]


_MANY = 12
_SERIES = 8
"""Lines that can be told apart."""

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "curves",
            "Training curves",
            "every loss term and the validation MAE per epoch",
            stage_1=True,
            needs_predictions=False,
        ),
        Kind(
            "tsne",
            "Representations (t-SNE)",
            "the six representations of clips of two intervals (Figure 5); one or two runs",
            most=2,
            needs_weights=True,
            baselines=False,
            needs_predictions=False,
            takes_intervals=True,
        ),
        Kind(
            "pairs",
            "Contrastive pairs",
            "positive and negative pairs of a few clips (Figure 4)",
            baselines=False,
            takes_intervals=True,
        ),
        Kind("confusion", "Confusion of classes", "predicted classes against true ones"),
        Kind("calibration", "Calibration", "true scores against predicted ones, per interval"),
        Kind("errors", "Errors", "absolute error by interval, length and video"),
        Kind(
            "modalities",
            "Modalities",
            "one run: error when a modality is shuffled; several: error by modalities trained on",
            most=_MANY,
            needs_weights=True,
        ),
        Kind(
            "robustness",
            "Robustness",
            "error on clips that are damaged on purpose: noise, lost frames, misheard words",
            most=_SERIES,
            needs_weights=True,
        ),
        Kind("seeds", "Seeds", "metrics of every seed, the same seeds of several runs joined", most=_MANY),
        Kind("ablation", "Ablation", "MAE and its difference from the first run, with intervals", least=2, most=_MANY),
        Kind("compare", "Comparison", "the same for different models", least=2, most=_MANY),
    )
}


def kind_called(name: str) -> Kind:
    """Return the kind of that name.

    Raises:
        SettingsError: there is none.
    """
    if name not in KINDS:
        advice = nearest(name, KINDS) or f"choose one of {', '.join(KINDS)}"
        raise SettingsError(f"unknown kind of figure '{one_line(name)[:40]}': {advice}")
    return KINDS[name]


def check_runs(kind: str, runs: Sequence[Run]) -> None:
    """Refuse runs that a kind of figure cannot be drawn of, before any work.

    Raises:
        SettingsError: the kind is not known, or it takes another number of runs.
        RunError: a run is given twice, damaged, not finished, or lacks what is drawn.
    """
    found = kind_called(kind)
    if not found.least <= len(runs) <= found.most:
        span = f"{found.least}" if found.least == found.most else f"{found.least} to {found.most}"
        raise SettingsError(f"a figure of kind {kind} takes {span} run{'s' * (found.most > 1)}, found {len(runs)}")
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise RunError(f"each run can be given only once, found {', '.join(run.name for run in runs)}")
    for run in runs:
        _check_run(found, run)


def _check_run(kind: Kind, run: Run) -> None:
    if run.problem:
        raise RunError(run.problem)
    if not run.finished_seeds():
        raise RunError(
            f"run {run.name} has no finished seed", advice="give the command that started it again to resume it"
        )
    if run.record.stage != "finetune" and not kind.stage_1:
        raise RunError(
            f"{run.name} is a stage-1 run, of which only curves can be drawn",
            advice=f"name a fine-tuned run for {kind.name}",
        )
    config = run.config
    if config.is_baseline and not kind.baselines:
        raise RunError(
            f"{kind.name} shows the representations O_m and A_m, which only ConKI has; {run.name} is "
            f"{label_of(config.model.name)}",
            advice="name a run of conki",
        )
    if kind.name == "pairs" and config.dropped("C4"):
        raise RunError(f"{run.name} was trained without the contrastive loss (w/o C4), so it has no pairs to draw")

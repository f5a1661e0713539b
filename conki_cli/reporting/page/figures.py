"""The figures of a report: which fit the runs, drawn as SVG; where one cannot be drawn, why."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from conki_cli.reporting.page.choices import PageChoices
from conki_cli.reporting.page.content import Figure
from conki_cli.runs import Run
from conki_cli.system.errors import ConkiError, SettingsError
from conki_cli.system.observer import Observer
from conki_cli.system.workspace import Workspace

if TYPE_CHECKING:
    from conki_cli.reporting.figures import Kind

STORED, ALL, NONE = "stored", "all", "none"
"""Words in place of kinds: those that stored files are enough for, those that fit, no figure."""


_SLOW = {"modalities", "robustness"}
"""The kinds that predict all clips again and again; only where they are asked for."""


def chosen_kinds(words: str | None) -> tuple[str, ...] | None:
    """Return the kinds of figures that a user names: `all`, `stored`, `none`, or kinds with commas between.

    Nothing named, which is None here too, means those that fit and are not slow.

    Raises:
        SettingsError: there is no such kind.
    """
    if words is None or words == NONE:
        return None if words is None else ()
    from conki_cli.reporting.figures import KINDS

    if words == ALL:
        return tuple(KINDS)
    if words == STORED:
        return tuple(name for name, kind in KINDS.items() if not kind.needs_weights)
    names = tuple(dict.fromkeys(word.strip() for word in words.split(",")))
    if unknown := [name for name in names if name not in KINDS]:
        raise SettingsError(
            f"--figures takes {ALL}, {STORED}, {NONE}, or kinds of figures separated by commas "
            f"({', '.join(KINDS)}), found '{unknown[0]}'"
        )
    return names


def draw_figures(
    runs: Sequence[Run], labels: Sequence[str], workspace: Workspace, choices: PageChoices, observer: Observer
) -> list[Figure]:
    """Draw every kind of figure that fits: of all runs together where it takes several, else of the first."""
    if choices.figures == ():
        return []
    from conki_cli.reporting.figures import KINDS, PAGE, Choices, check_runs, draw_figure

    found = []
    settings = Choices(
        split=choices.split,
        protocol=choices.protocol,
        threshold=choices.threshold,
        workspace=workspace,
        observer=observer,
    )
    wanted = [*_fitting(KINDS, runs, choices.figures)]
    with observer.steps("figures", len(wanted)) as advance:
        for kind, drawn_runs in wanted:
            title = (
                kind.title
                if len(drawn_runs) == len(runs)
                else f"{kind.title}: {' and '.join(labels[: len(drawn_runs)])}"
            )
            try:
                check_runs(kind.name, drawn_runs)
                drawn = draw_figure(kind.name, drawn_runs, form="svg", width=PAGE, choices=settings)
                found.append(Figure(kind.name, drawn.title, drawn.caption, drawn.content))
            except ConkiError as error:
                if choices.figures is not None:  # one that was asked for
                    found.append(Figure(kind.name, title, "", problem=str(error).replace(f"{workspace.root}/", "")))
            advance(1, kind.name)
    return found


def _fitting(
    kinds: Mapping[str, "Kind"], runs: Sequence[Run], wanted: Sequence[str] | None
) -> Iterator[tuple["Kind", Sequence[Run]]]:
    chosen = set(kinds) - _SLOW if wanted is None else set(wanted)
    if chosen >= {"ablation", "compare"}:  # which draw the same
        chosen.discard("ablation" if any(run.config.is_baseline for run in runs) else "compare")
    for name, kind in kinds.items():
        if name in chosen and len(runs) >= kind.least:
            yield kind, runs[: kind.most]

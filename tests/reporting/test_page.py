"""The report as a file: what stands in it, what hostile clips do there (nothing), what it refuses."""

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from page_support import HOSTILE, SEEDS, make_run, make_space
from typer.testing import CliRunner, Result

from conki_cli.cli import app
from conki_cli.metrics import sentiment_metrics
from conki_cli.reporting import figures
from conki_cli.reporting.comparison import compare, read_systems
from conki_cli.reporting.page import PageChoices, make_page
from conki_cli.reporting.page.gathering import gather
from conki_cli.runs import Run, read_predictions
from conki_cli.system.errors import SettingsError
from conki_cli.system.files import write_json
from conki_cli.system.observer import Observer
from conki_cli.system.untrusted import visible
from conki_cli.system.workspace import Workspace

NO_FIGURES = PageChoices(figures=())
FIXTURE = Path(__file__).parents[1] / "fixtures" / "version_1"


class Page(HTMLParser):
    """A parsed page: its elements, and the text of every table row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.parts: dict[str, str] = {"script": "", "style": ""}
        self._inside = ""
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in self.parts else ""
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.parts[self._inside] += data
        elif self._in_cell:
            self.rows[-1][-1] += data

    def rows_of(self, name: str) -> list[list[str]]:
        return [row for row in self.rows if row and row[0] == name]


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with two runs; tests only read it."""
    found = make_space(tmp_path_factory.mktemp("page"))
    make_run(found, "full", 0.5)
    make_run(found, "without", 1.0, drop="C4")
    return found


@pytest.fixture(scope="module")
def text(space: Workspace) -> str:
    return make_page([Run(space.runs / "full"), Run(space.runs / "without")], space, NO_FIGURES, Observer())


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def conki(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["report", *arguments], env={"COLUMNS": "80"})


def test_hostile_texts_are_shown_and_are_nothing_but_text(page: Page) -> None:
    shown = [row[1] for row in page.rows if row and "$_$" in row[0]]
    for hostile in HOSTILE[:-1]:
        assert visible(hostile).strip() in shown
    assert any(cell.count("x") == 10_000 for cell in shown)
    names = [tag for tag, _ in page.tags]
    assert (names.count("script"), names.count("style"), names.count("img")) == (1, 1, 0)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on") or name == "style"]


def test_a_long_text_unfolds_behind_a_whole_word_and_stays_whole_for_the_search(tmp_path: Path) -> None:
    long = " ".join(f"unmistakable{n}" for n in range(40))
    space = make_space(tmp_path, [long, "y" * 300])
    page = make_page([make_run(space, "one", 0.5)], space, NO_FIGURES, Observer())
    assert {long, "y" * 300} <= {row[1] for row in Page(page).rows if len(row) > 1}
    assert "unmistakable18 </summary>unmistakable19" in page
    assert f"<summary>{'y' * 280}</summary>{'y' * 20}</details>" in page


def test_no_control_character_and_no_mark_of_direction_is_in_the_file(text: str) -> None:
    assert not set(text) & set("\x00\x1b\u202e\u2066")


def test_nothing_is_loaded_from_elsewhere(page: Page, text: str) -> None:
    links = [value or "" for _, found in page.tags for name, value in found.items() if name in ("href", "src")]
    assert {link.split(":")[0] if ":" in link else link[:1] for link in links} <= {"data", "#"}
    assert "url(" not in page.parts["style"]
    assert "://" not in text


def test_the_policy_allows_this_script_and_this_style_alone(page: Page) -> None:
    policy = next(found["content"] for _, found in page.tags if found.get("http-equiv") == "Content-Security-Policy")
    hashes = [
        base64.b64encode(hashlib.sha256(page.parts[tag].encode()).digest()).decode() for tag in ("script", "style")
    ]
    assert policy is not None
    assert policy.startswith(f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}';")
    assert "unsafe" not in policy


def test_a_quick_look_is_called_one_with_the_clips_that_it_used(space: Workspace) -> None:
    run = make_run(space, "quick", 0.5)
    path = run.path / "config.toml"
    path.write_text(path.read_text(encoding="utf-8").replace("limit = 0", "limit = 3"), encoding="utf-8")
    text = make_page([Run(run.path)], space, NO_FIGURES, Observer())
    rows = {row[0]: row[1] for row in Page(text).rows if len(row) == 2}
    assert "a quick look: at most 3 clips of each split were used (--limit)" in text
    assert rows["trained on"] == "mosi, train split, 3 of 4 clips (--limit)"
    assert rows["selected by"] == "the lowest MAE on mosi, valid split, 2 clips"


def test_figures_are_of_the_protocol_and_of_the_threshold_of_the_report(space: Workspace) -> None:
    choices = PageChoices(protocol="nonzero", threshold=0.3, figures=("ablation",))  # one clip's score is 0.3
    runs = [Run(space.runs / "full"), Run(space.runs / "without")]
    (figure,) = gather(runs, space, choices, Observer()).figures
    assert "n = 12 (MAE and Corr: 11 of them, protocol nonzero)" in figure.caption
    with pytest.raises(SettingsError, match="must be inside the range"):
        figures.draw_figure("seeds", runs[:1], choices=figures.Choices(threshold=9.0))


def test_two_versions_of_an_external_store_are_named_and_have_a_column_each(space: Workspace) -> None:
    runs = [make_run(space, name, 0.5, external=content) for name, content in (("v1", "1" * 64), ("v2", "2" * 64))]
    report = gather(runs, space, NO_FIGURES, Observer())
    assert report.data.headers[2:] == ["mosei (ConKI, run v1)", "mosei (ConKI, run v2)"]
    assert report.data.rows[-1][2:] == ["1" * 64, "2" * 64]
    assert "trained on another version of the store mosei than ConKI, run v1: ConKI, run v2" in report.grid.notes


def test_the_same_runs_give_the_same_bytes(space: Workspace, text: str) -> None:
    runs = [Run(space.runs / "full"), Run(space.runs / "without")]
    assert make_page(runs, space, NO_FIGURES, Observer()) == text


def test_clips_stand_with_the_mean_over_the_seeds_and_the_largest_error_first(space: Workspace) -> None:
    found = Page(make_page([Run(space.runs / "full")], space, NO_FIGURES, Observer()))
    stored = [read_predictions(space.runs / "full" / f"seed-{seed}" / "predictions" / "test.csv") for seed in SEEDS]
    values = np.array([one.predictions for one in stored], dtype=np.float64)
    errors = np.abs(values.mean(axis=0) - stored[0].scores)
    rows = [row for row in found.rows if row and "$_$" in row[0]]
    worst = int(errors.argmax())
    numbers = [float(cell) for cell in rows[0][2:]]
    assert rows[0][0] == stored[0].ids[worst]
    assert numbers == pytest.approx(
        [stored[0].scores[worst], values[:, worst].mean(), errors[worst], *values[:, worst]], abs=0.0051
    )
    assert [float(row[4]) for row in rows] == sorted((float(row[4]) for row in rows), reverse=True)


def test_errors_of_sims_are_those_of_mae_within_the_range(tmp_path: Path) -> None:
    space = make_space(tmp_path)
    run = make_run(space, "sims", 1.0)
    for place, changed in (
        (run.path, {"score_range": [-1, 1]}),
        *((run.seed_folder(s), {"metrics": {}}) for s in SEEDS),
    ):
        write_json(place / "result.json", json.loads((place / "result.json").read_text()) | changed)
    clips = gather([Run(run.path)], space, NO_FIGURES, Observer()).clips.clips
    means, scores = [clip.means[0] for clip in clips], [clip.score for clip in clips]
    assert max(map(abs, means)) > 1
    errors = [clip.errors[0] for clip in clips]
    assert np.mean(errors) == pytest.approx(sentiment_metrics(means, scores, score_range=(-1, 1))["mae"])
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize(
    ("seeds", "used", "words"),
    [
        ((3, 4, 5), ((1, 2), (3, 4)), "seeds 3, 4 against seeds 1, 2"),
        ((2, 3), ((2,), (2,)), "seed 2 of both"),
        ((1, 2, 3), ((1, 2),) * 2, "seeds 1, 2 of both"),
    ],
)
def test_a_difference_is_over_the_seeds_in_common_or_over_equally_many_of_each(
    seeds: tuple[int, ...], used: tuple[tuple[int, ...], ...], words: str, tmp_path: Path
) -> None:
    space = make_space(tmp_path)
    runs = [make_run(space, "one", 0.5), make_run(space, "other", 1.0, drop="C4", seeds=seeds)]
    found = figures.draw_figure("ablation", runs)
    errors = []
    for run, own in zip(runs, used, strict=True):
        stored = [read_predictions(run.predictions_path(seed, "test")) for seed in own]
        mean = np.mean([one.predictions for one in stored], axis=0, dtype=np.float64)
        errors.append(np.abs(mean - stored[0].scores).mean())
    assert found.numbers["rows"][1]["difference"]["difference"] == pytest.approx(errors[1] - errors[0], abs=1e-6)
    assert f"the mean prediction over seeds ({words}), with" in found.caption


def test_metrics_stand_beside_the_papers_and_beside_constant_predictions(page: Page, space: Workspace) -> None:
    assert page.rows_of("paper")[0][1] == "0.681"
    median, mean = page.rows_of("predicting the training median"), page.rows_of("predicting the training mean")
    scores = read_predictions(space.runs / "full" / "seed-1" / "predictions" / "test.csv").scores
    assert float(median[0][1]) == pytest.approx(np.abs(scores - 0.5).mean(), abs=5e-4)  # of -1, 0, 1, 2
    assert mean[0][1:] == median[0][1:]


def test_tests_are_those_of_the_comparison(page: Page, space: Workspace) -> None:
    compared = compare(read_systems([Run(space.runs / "full"), Run(space.runs / "without")], "test", "all"))
    cell = (compared.verdicts[0].cells or {})["mae"]
    assert cell["paired_t"] is not None
    row = next(row for row in page.rows_of("MAE↓") if len(row) == 8)
    assert row[1:4] == [
        f"{cell['difference']:+.3f}",
        f"{cell['paired_t']['p']:.3f}",
        f"{cell['paired_t']['cohen_d']:+.2f}",
    ]


def test_the_command_leaves_out_what_holds_for_one_machine(text: str) -> None:
    assert "conki finetune --seeds 1..2 --name full\n" in text
    assert "/home/me" not in text


def test_tests_are_named_after_the_classes_of_a_threshold(space: Workspace) -> None:
    runs = [Run(space.runs / "full"), Run(space.runs / "without")]
    (sheet,) = gather(runs, space, PageChoices(threshold=1.0, figures=()), Observer()).tests
    names = [row[0] for row in sheet.rows if row[0].startswith("Acc-2")]
    assert names == ["Acc-2↑, below 1 or 1 and above", "Acc-2↑, below 1 or above 1"]


def test_the_words_of_a_submitted_job_are_no_command(space: Workspace) -> None:
    run = make_run(space, "job", 0.5)
    for seed in SEEDS:
        words = ["/x/conki_cli/cli/job.py", "/home/me/jobs/1", "0", str(seed)]
        write_json(run.seed_folder(seed) / "environment.json", {"command": words})
    text = make_page([run], space, NO_FIGURES, Observer())
    assert "/home/me" not in text


def test_a_warning_that_clips_share_their_text_is_shown(tmp_path: Path) -> None:
    space = make_space(tmp_path, ["said again and again"] * 9)
    said = [line for _, line in gather([make_run(space, "one", 0.5)], space, NO_FIGURES, Observer()).cautions]
    assert any("9 clips share their text with another clip" in line for line in said)


def test_stage_1_is_warned_of_for_the_seeds_that_a_run_starts_from(space: Workspace) -> None:
    first, run = make_run(space, "first", 0.5, seeds=(1, 2, 3)), make_run(space, "from-first", 0.5)
    for seed, stage, changed in ((2, first, {"best_epoch": 9}), (3, first, {"best_epoch": 9}), (2, run, {})):
        path = stage.seed_folder(seed) / "result.json"
        write_json(path, {"metrics": {"valid": {}}, "epochs": 9, **changed, "stage_1": "first"})
    said = [line for _, line in gather([Run(run.path)], space, NO_FIGURES, Observer()).cautions]
    assert [line[:22] for line in said if line.startswith("stage 1")] == ["stage 1, seed 2 may no"]


def test_the_settings_can_be_taken_from_the_page(page: Page, space: Workspace) -> None:
    link = next(found for tag, found in page.tags if tag == "a" and found.get("download") == "full.toml")
    content = base64.b64decode((link["href"] or "").partition("base64,")[2]).decode()
    assert content == (space.runs / "full" / "config.toml").read_text(encoding="utf-8")


def test_a_report_can_leave_all_texts_out(space: Workspace) -> None:
    choices = PageChoices(figures=(), with_texts=False)
    found = make_page([Run(space.runs / "full")], space, choices, Observer())
    assert "said plainly" not in found
    assert "xxxx" not in found
    assert "video-0$_$0" in found


def test_what_speaks_against_the_numbers_is_said(tmp_path: Path) -> None:
    space = make_space(tmp_path, ["train clip 1 said THIS"])
    text = make_page([make_run(space, "bad", 9.0)], space, NO_FIGURES, Observer())
    assert "seeds 1, 2: the test MAE" in text
    assert "is not below that of predicting the training median (1.683)" in text
    assert "1 clip of the test split has a text that occurs in the train split" in text
    assert "2 seeds: the numbers change with the seeds" in text


def test_without_its_store_a_report_has_no_texts_and_says_why(space: Workspace, tmp_path: Path) -> None:
    shutil.copytree(space.runs, tmp_path / "runs")
    text = make_page([Run(tmp_path / "runs" / "full")], Workspace(tmp_path), NO_FIGURES, Observer())
    assert "Without texts: there is no feature store features/mosi.h5" in text
    assert "whether mosi shares videos or texts between splits: its store could not be read here" in text
    assert str(tmp_path) not in text
    assert "video-0$_$0" in text


def test_names_of_hostile_folders_are_nothing_but_text(space: Workspace, tmp_path: Path) -> None:
    names = ["<img src=x onerror=alert(1)>", "};*{color:red}"]
    for name in names:
        shutil.copytree(space.runs / "full", tmp_path / "runs" / name)
    found = Page(make_page([Run(tmp_path / "runs" / name) for name in names], space, NO_FIGURES, Observer()))
    assert "img" not in [tag for tag, _ in found.tags]
    assert "color:red" not in found.parts["style"]
    assert any(names[0] in cell for row in found.rows for cell in row)


def test_a_run_of_version_1_has_a_report() -> None:
    run = Run(FIXTURE / "runs" / "tiny-conki-35bc4a82")
    found = Page(make_page([run], Workspace(FIXTURE), NO_FIGURES, Observer()))
    assert found.rows_of("predicting the training median")
    assert found.rows_of("conki")[0][1] == "0.1.0"


# ---- the command ----


def test_the_command_writes_the_file_and_says_where_it_lies(space: Workspace, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    done = conki("full", "--workspace", str(space.root), "--out", str(out), "--figures", "none", "--json")
    assert json.loads(done.stdout) == {"report": str(out), "runs": ["full"], "texts": True}
    assert f"report: {out}" in done.stderr.replace("\n", "")
    assert "--no-texts" in done.stderr
    assert out.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["full", "--out", "page.txt"], "ends in .html"),
        (["full", "--out", "x.html", "--figures", "none,pie"], "--figures takes all, stored, none, or kinds"),
        (["nothing", "--out", "x.html"], "no run 'nothing'"),
        ([], "is not a report of conki, so it is not overwritten"),
    ],
)
def test_what_cannot_be_reported_is_refused_in_one_line(space: Workspace, arguments: list[str], what: str) -> None:
    (space.root / "report.html").write_text("mine", encoding="utf-8")
    done = conki(*arguments, "--workspace", str(space.root))
    assert (done.exit_code, done.stdout) == (1, "")
    assert re.fullmatch(r"error: .*\n", done.stderr)
    assert what in done.stderr
    assert (space.root / "report.html").read_text(encoding="utf-8") == "mine"


def test_a_report_replaces_an_earlier_one(tmp_path: Path) -> None:
    space = make_space(tmp_path)
    make_run(space, "full", 0.5)
    for _ in range(2):
        assert conki("full", "--workspace", str(tmp_path), "--figures", "none").exit_code == 0
    assert "full.toml" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_named_file_of_others_is_not_overwritten(tmp_path: Path) -> None:
    make_run(make_space(tmp_path), "full", 0.5)
    foreign = tmp_path / "foreign.html"
    foreign.write_text("mine", encoding="utf-8")
    done = conki("full", "--workspace", str(tmp_path), "--figures", "none", "--out", str(foreign))
    assert (done.exit_code, foreign.read_text(encoding="utf-8")) == (1, "mine")
    assert "is not a report of conki, so it is not overwritten" in done.stderr

"""Tables: what they say on a screen of 80 and of 100 columns, and in exported files."""

import csv
import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console, RenderableType

from conki_cli.data.store.describing import describe
from conki_cli.data.store.reading import FeatureStore
from conki_cli.data.store.records import Corpus, Sample
from conki_cli.data.store.writing import write_store
from conki_cli.reporting.tables.export import export_table
from conki_cli.reporting.tables.grid import Row, TableInfo, build_grid, published_row
from conki_cli.reporting.tables.screen import metric_table, runs_table, scores_table, settings_table
from conki_cli.reporting.tables.stores import store_tables
from conki_cli.system.errors import ConkiError

INFO = TableInfo("mosi", "test", "all", (1, 2, 3), 686)
VALUES = {
    "mae": [0.70, 0.72, 0.74],
    "corr": [0.80, 0.80, 0.80],
    "acc7": [0.45, 0.46, 0.47],
    "acc5": [0.50, 0.51, 0.52],
    "acc3": [0.70, 0.71, 0.72],
    "acc2_nonneg": [0.82, 0.83, 0.84],
    "acc2_pos": [0.84, 0.85, 0.86],
    "f1_nonneg": [0.82, 0.83, 0.84],
    "f1_pos": [0.84, 0.85, 0.86],
}
OURS = Row("ConKI", VALUES, published_row("mosi"), seeds=INFO.seeds)


def drawn(*parts: RenderableType, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(*parts, sep="\n")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def words(text: str) -> str:
    return " ".join(text.split())


# ---- the paper's numbers ----


def test_the_papers_rows_hold_fractions_and_unscaled_errors() -> None:
    assert published_row("mosi") == {
        "mae": 0.681,
        "corr": 0.816,
        "acc7": 0.4843,
        "acc2_nonneg": 0.8437,
        "acc2_pos": 0.8613,
        "f1_nonneg": 0.8433,
        "f1_pos": 0.8613,
    }


def test_sims_has_one_accuracy_and_one_f1() -> None:
    assert published_row("sims") == {"mae": 0.454, "corr": 0.542, "acc2": 0.7794, "f1": 0.7817}


@pytest.mark.parametrize(
    ("dataset", "drop", "mae", "f1_pos"),
    [
        ("mosei", (), 0.529, 0.8615),
        ("mosi", ("T",), 1.408, 0.5324),
        ("mosi", ("V",), 0.700, 0.8416),
        ("mosi", ("A",), 0.718, 0.8486),
        ("mosi", ("C1",), 0.734, 0.8422),
        ("mosi", ("C2",), 0.753, 0.8389),
        ("mosi", ("C3",), 0.710, 0.8480),
        ("mosi", ("C4",), 0.683, 0.8599),
        ("mosi", ("N1",), 0.689, 0.8574),
    ],
)
def test_every_row_of_tables_2_4_and_5_is_found(dataset: str, drop: tuple[str, ...], mae: float, f1_pos: float) -> None:
    row = published_row(dataset, drop)
    assert row is not None
    assert (row["mae"], row["f1_pos"]) == (mae, f1_pos)


@pytest.mark.parametrize(("dataset", "drop"), [("demo", ()), ("mosei", ("C1",)), ("mosi", ("C1", "C4"))])
def test_what_the_paper_did_not_measure_has_no_row(dataset: str, drop: tuple[str, ...]) -> None:
    assert published_row(dataset, drop) is None
    assert published_row(dataset, drop, "misa") is None


@pytest.mark.parametrize(
    ("dataset", "model", "external", "expected"),
    [
        ("mosi", "tfn", None, (0.901, 0.698, 34.9, None, 80.8, None, 80.7)),
        ("mosi", "lmf", None, (0.917, 0.695, 33.2, None, 82.5, None, 82.4)),
        ("mosi", "mult", None, (0.861, 0.711, None, 81.5, 84.1, 80.6, 83.9)),
        ("mosi", "iccn", None, (0.862, 0.714, 39.0, None, 83.0, None, 83.0)),
        ("mosi", "misa", None, (0.804, 0.764, None, 80.79, 82.10, 80.77, 82.03)),
        ("mosi", "mag-bert", None, (0.727, 0.781, 43.62, 82.37, 84.43, 82.50, 84.61)),
        ("mosi", "self-mm", None, (0.712, 0.795, 45.79, 82.54, 84.77, 82.68, 84.91)),
        ("mosi", "hycon", None, (0.713, 0.790, 46.6, None, 85.2, None, 85.1)),
        ("mosi", "mmim", None, (0.700, 0.800, 46.65, 84.14, 86.06, 84.00, 85.98)),
        ("mosei", "tfn", None, (0.593, 0.700, 50.2, None, 82.5, None, 82.1)),
        ("mosei", "lmf", None, (0.623, 0.677, 48.0, None, 82.0, None, 82.1)),
        ("mosei", "mult", None, (0.580, 0.703, None, None, 82.5, None, 82.3)),
        ("mosei", "iccn", None, (0.565, 0.713, 51.6, None, 84.2, None, 84.2)),
        ("mosei", "misa", None, (0.568, 0.724, None, 82.59, 84.23, 82.67, 83.97)),
        ("mosei", "mag-bert", None, (0.543, 0.755, 52.67, 82.51, 84.82, 82.77, 84.71)),
        ("mosei", "self-mm", None, (0.529, 0.767, 53.46, 82.68, 84.96, 82.95, 84.93)),
        ("mosei", "hycon", None, (0.601, 0.776, 52.8, None, 85.4, None, 85.6)),
        ("mosei", "mmim", None, (0.526, 0.772, 54.24, 82.24, 85.97, 82.66, 85.94)),
        ("mosi", "misa", "mosei", (0.711, 0.804, 44.96, 82.04, 83.99, 81.98, 84.0)),
        ("mosi", "self-mm", "mosei", (0.712, 0.798, 45.51, 83.59, 85.18, 83.47, 85.12)),
        ("mosi", "mmim", "mosei", (0.716, 0.791, 45.42, 81.81, 83.54, 81.67, 83.46)),
    ],
)
def test_the_other_systems_have_the_rows_of_tables_2_and_6(
    dataset: str, model: str, external: str | None, expected: tuple[float | None, ...]
) -> None:
    names = ("mae", "corr", "acc7", "acc2_nonneg", "acc2_pos", "f1_nonneg", "f1_pos")
    scales = (1, 1, 100, 100, 100, 100, 100)
    printed = {n: v / s for n, v, s in zip(names, expected, scales, strict=True) if v is not None}
    assert published_row(dataset, (), model, external) == pytest.approx(printed)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("tfn", (0.488, 0.496, 75.27, 75.56)),
        ("lmf", (0.487, 0.502, 75.36, 75.78)),
        ("mult", (0.485, 0.504, 75.62, 75.84)),
        ("misa", (0.472, 0.542, 75.49, 75.85)),
        ("mag-bert", (0.553, 0.242, 71.43, 63.68)),
        ("self-mm", (0.458, 0.535, 77.37, 77.54)),
        ("mmim", (0.607, None, 69.37, 58.00)),
        ("iccn", None),
        ("hycon", None),
    ],
)
def test_the_other_systems_have_the_rows_of_table_3(model: str, expected: tuple[float | None, ...] | None) -> None:
    found = published_row("sims", model=model)
    pairs = zip(("mae", "corr", "acc2", "f1"), expected or (), (1, 1, 100, 100), strict=expected is not None)
    assert (found or {}) == pytest.approx({name: v / scale for name, v, scale in pairs if v is not None})


def test_a_system_without_a_row_in_table_6_has_none_with_external_data() -> None:
    assert published_row("mosi", (), "tfn", "mosei") is None
    assert published_row("mosi", (), "misa", "sims") is None
    assert published_row("mosi", ("A",), "misa", "mosei") is None


# ---- on the screen ----


def test_the_title_names_data_set_split_protocol_seeds_and_n() -> None:
    assert "mosi, test split, protocol all, seeds 1..3, n = 686" in drawn(metric_table([OURS], INFO))


def test_under_protocol_nonzero_both_counts_are_named() -> None:
    info = TableInfo("mosi", "test", "nonzero", (4, 7), 686, 656)
    text = words(drawn(metric_table([OURS], info)))
    assert "protocol nonzero, seeds 4, 7, n = 686 (MAE and Corr: the 656 with a score other than 0)" in text


def test_errors_are_unscaled_and_shares_are_percents_with_left_and_right_in_one_cell() -> None:
    text = drawn(metric_table([OURS], INFO, width=200), width=200)
    assert "0.720 ± 0.020" in text
    assert "46.00 ± 1.00" in text
    assert "83.00/85.00 ± 1.00/1.00" in text


def test_the_papers_row_stands_below_ours() -> None:
    lines = drawn(metric_table([OURS], INFO, width=200), width=200).splitlines()
    ours = next(number for number, line in enumerate(lines) if line.startswith("ConKI"))
    assert lines[ours + 1].split() == ["paper", "0.681", "0.816", "48.43", "-", "-", "84.37/86.13", "84.33/86.13"]


@pytest.mark.parametrize("width", [80, 100])
def test_nothing_is_cut_off_on_common_screens(width: int) -> None:
    label = "plain transfer, with a label that is far too long for its column"
    rows = [OURS, Row(label, VALUES, note="a note", seeds=INFO.seeds)]
    text = drawn(metric_table(rows, INFO, width=width), width=width)
    assert text.count("83.00/85.00") == 4
    assert text.count("±1.00/1.00") == 4
    assert all(word in text for word in label.split())
    assert "¹ a note" in text
    assert all(len(line) <= width for line in text.splitlines())


def test_one_seed_has_no_deviation() -> None:
    one = Row("ConKI", {name: values[:1] for name, values in VALUES.items()}, seeds=(5,))
    text = drawn(metric_table([one], TableInfo("mosi", "valid", "all", [5], 229)))
    assert "valid split, protocol all, seed 5, n = 229" in text
    assert "±" not in text


def test_columns_that_no_row_fills_are_left_out() -> None:
    text = drawn(
        metric_table(
            [Row("ConKI", {"mae": [0.5], "acc2": [0.75]}, seeds=(1,))], TableInfo("sims", "test", "all", [1], 9)
        )
    )
    assert "Acc-2" in text
    assert "Acc-7" not in text


@pytest.mark.parametrize("missing", [math.nan, None])
def test_an_undefined_mean_is_explained_below_the_table(missing: float | None) -> None:
    row = Row("mean", {**VALUES, "corr": [missing] * 3}, undefined={"corr": "constant predictions"}, seeds=INFO.seeds)
    text = drawn(metric_table([row], INFO))
    assert "undef.¹" in text
    assert "¹ undefined: constant predictions" in text


def test_seeds_for_which_a_metric_is_undefined_are_named() -> None:
    row = Row("ConKI", {**VALUES, "corr": [0.8, math.nan, 0.7]}, seeds=INFO.seeds)
    assert "undefined: constant predictions or scores (seed 2)" in drawn(metric_table([row], INFO))


def test_one_undefined_half_leaves_the_other_half_visible() -> None:
    row = Row("ConKI", {**VALUES, "acc2_pos": [math.nan] * 3}, seeds=INFO.seeds)
    text = drawn(metric_table([row], INFO))
    assert "83.00/undef.¹" in text
    assert "¹ undefined: every score is 0" in text


def test_a_row_with_fewer_seeds_than_the_title_says_so() -> None:
    fewer = Row("w/o C1", {name: values[:2] for name, values in VALUES.items()}, seeds=(1, 2))
    text = drawn(metric_table([OURS, fewer], INFO))
    assert "w/o C1¹" in text
    assert "¹ seeds 1, 2" in text


def test_equal_notes_share_one_footnote() -> None:
    text = drawn(
        metric_table(
            [Row("a", VALUES, note="same", seeds=INFO.seeds), Row("b", VALUES, note="same", seeds=INFO.seeds)], INFO
        )
    )
    assert "a¹" in text
    assert "b¹" in text
    assert text.count("¹ same") == 1


@pytest.mark.parametrize("width", [20, 200])
def test_names_and_notes_of_others_do_not_steer_the_terminal(width: int) -> None:
    hostile = "x\x1b]0;pwn\x07\x1b[31mred\u202e"
    info = replace(INFO, dataset=hostile, notes=[hostile])
    row = replace(OURS, label=hostile, note=hostile, undefined={"mae": hostile}, values={"mae": [math.nan] * 3})
    text = drawn(metric_table([row], info, width=width), width=width)
    assert not set(text) & set("\x1b\x07\u202e")
    assert words(text).replace(" ", "").count("x?]0;pwn??[31mred?") >= 5


def test_brackets_in_a_label_are_not_markup() -> None:
    assert "[bold]x" in drawn(metric_table([Row("[bold]x", VALUES, seeds=INFO.seeds)], INFO))


@pytest.mark.parametrize("width", [50, 62, 80, 100])
def test_a_narrow_screen_has_room_for_labels_and_numbers(width: int) -> None:
    label = "Self-MM, run mosi-self-mm-1789cddf"
    text = drawn(metric_table([Row(label, VALUES, seeds=INFO.seeds), OURS], INFO, width=width), width=width)
    assert {"mosi-self-mm-1789cddf", "ConKI"} <= set(text.split())
    assert text.replace("/\n", "/").count("0.720") == 2
    assert "85.00" in text
    assert all(len(line) <= width for line in text.splitlines())


def test_a_row_of_other_seeds_than_the_table_names_its_own() -> None:
    rows = [Row("a", VALUES, seeds=(1, 2, 3)), Row("b", {"corr": [0.5, math.nan, 0.5]}, seeds=(2, 4, 6))]
    text = drawn(metric_table(rows, TableInfo("mosi", "test", "all", (1, 2, 3, 4, 6), 686)))
    assert "a¹" in text
    assert "¹ seeds 1..3" in text
    assert "² seeds 2, 4, 6" in text
    assert "undefined: constant predictions or scores (seed 4)" in text


# ---- marks ----

MARKED = Row("MISA", VALUES, {"mae": 0.804, "acc2_pos": 0.821}, signs={"mae": "†‡", "acc2_pos": "§"}, seeds=INFO.seeds)
EXPLAINED = TableInfo("mosi", "test", "all", (1, 2, 3), 686, notes=("† one & only", "§ another_test"))


def test_signs_stand_behind_the_means_they_belong_to_and_notes_below_the_table() -> None:
    text = drawn(metric_table([OURS, MARKED], EXPLAINED, width=200), width=200)
    assert "0.720†‡ ± 0.020" in text
    assert "83.00/85.00§ ± 1.00/1.00" in text
    assert text.index("paper: as published") < text.index("† one & only") < text.index("§ another_test")


def test_signs_and_notes_reach_every_kind_of_file(tmp_path: Path) -> None:
    texts = {}
    for ending in ("md", "csv", "tex"):
        export_table([OURS, MARKED], EXPLAINED, tmp_path / f"table.{ending}")
        texts[ending] = (tmp_path / f"table.{ending}").read_text()
    assert "| **0.720†‡** ± 0.020 |" in texts["md"]
    assert texts["md"].endswith("† one & only\n\n§ another\\_test\n")
    marks = {(row["label"], row["metric"]): row["marks"] for row in csv.DictReader(texts["csv"].splitlines())}
    assert {key: value for key, value in marks.items() if value} == {("MISA", "mae"): "†‡", ("MISA", "acc2_pos"): "§"}
    assert r"\textbf{0.720\textdagger{}\textdaggerdbl{}} $\pm$ 0.020" in texts["tex"]
    assert r"\textdagger{} one \& only. \S{} another\_test." in texts["tex"]


# ---- exported ----


def test_csv_holds_fractions_with_one_line_per_system_and_metric(tmp_path: Path) -> None:
    export_table([OURS, Row("mean", {"corr": [math.nan]}, seeds=(1,))], INFO, tmp_path / "table.csv")
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert len(rows) == 10
    acc7 = next(row for row in rows if row["metric"] == "acc7")
    assert (acc7["dataset"], acc7["seeds"]) == ("mosi", "1 2 3")
    assert float(acc7["mean"]) == pytest.approx(0.46)
    assert float(acc7["std"]) == pytest.approx(0.01)
    assert (float(acc7["paper"]), float(acc7["value_3"])) == (0.4843, 0.47)
    assert (rows[-1]["mean"], rows[-1]["std"], rows[-1]["paper"], rows[-1]["value_2"]) == ("nan", "", "", "")


def test_csv_names_the_run_and_holds_every_value_below_its_own_seed(tmp_path: Path) -> None:
    rows = [Row("LMF", {"mae": [0.1, 0.2]}, run="lmf5", seeds=(1, 2)), Row("LMF", {"mae": [0.3]}, run="b", seeds=(4,))]
    export_table(rows, TableInfo("mosi", "test", "all", (1, 2, 4), 686), tmp_path / "table.csv")
    one, two = csv.DictReader((tmp_path / "table.csv").read_text().splitlines())
    assert (one["run"], one["seeds"], two["run"], two["seeds"]) == ("lmf5", "1 2", "b", "4")
    assert [one[f"value_{seed}"] for seed in (1, 2, 4)] == ["0.1", "0.2", ""]
    assert [two[f"value_{seed}"] for seed in (1, 2, 4)] == ["", "", "0.3"]


def test_markdown_is_one_table_with_title_and_footnotes(tmp_path: Path) -> None:
    export_table([OURS, Row("a|b_c", VALUES, note="x*y", seeds=INFO.seeds)], INFO, tmp_path / "table.md")
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0] == "**mosi, test split, protocol all, seeds 1..3, n = 686**"
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 5
    assert all(line.replace("\\|", "").count("|") == 9 for line in table)
    assert table[2].startswith("| ConKI | **0.720** ± 0.020 | **0.800** ± 0.000 | **46.00** ± 1.00 |")
    assert table[3].startswith("| *paper* | 0.681 |")
    assert table[4].startswith("| a\\|b\\_c¹ |")
    assert lines[-1] == "¹ x\\*y"


def test_latex_escapes_what_latex_reads(tmp_path: Path) -> None:
    export_table([Row("[a] 50% & b_c\\{~^<", VALUES, note="#1", seeds=INFO.seeds)], INFO, tmp_path / "table.tex")
    text = (tmp_path / "table.tex").read_text()
    label = r"{[}a] 50\% \& b\_c\textbackslash{}\{\textasciitilde{}\textasciicircum{}\textless{}\textsuperscript{1}"
    assert f"\n{label} & 0.720 $\\pm$ 0.020 & " in text
    assert r"\textsuperscript{1} \#1." in text
    assert r"\caption{mosi, test split, protocol all, seeds 1..3, n = 686. Acc and F1 in percent" in text
    assert "±" not in text


def test_latex_lines_have_as_many_cells_as_columns(tmp_path: Path) -> None:
    export_table([OURS], INFO, tmp_path / "table.TEX")
    text = (tmp_path / "table.TEX").read_text()
    assert r"\begin{tabular}{lrrrrrrr}" in text
    assert [line.count("&") for line in text.splitlines() if line.endswith(r"\\")] == [7, 7, 7]


@pytest.mark.parametrize("name", ["table.docx", "table"])
def test_another_ending_is_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConkiError, match=rf"exported as \.md, \.csv, \.tex, found '{name}'"):
        export_table([OURS], INFO, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


# ---- runs and stores ----


def a_run(**changes: Any) -> dict[str, Any]:
    run = {
        "name": "pretrain-mosei-for-mosi-conki-1a2b3c4d",
        "kind": "finetune",
        "state": "finished",
        "seeds": [1, 2, 3],
        "finished_seeds": [1, 2, 3],
        "metrics": {"mae": {"mean": 0.7, "std": 0.1, "values": []}, "corr": {"mean": None}},
        "size": 438_000_000,
        "changed": "2025-01-02 03:04",
    }
    return {**run, **changes}


@pytest.mark.parametrize("width", [80, 100])
def test_the_list_of_runs_shows_all_columns(width: int) -> None:
    text = drawn(
        runs_table([a_run(), a_run(name="x", state="unfinished", finished_seeds=[1], metrics={})]), width=width
    )
    assert "2 runs" in text
    assert "finetune finished 3 0.700 - 417.7 MiB 2025-01-02" in words(text)
    assert "x finetune unfinished 1/3 - - 417.7 MiB 2025-01-02" in words(text)


@pytest.mark.parametrize("width", [40, 62, 80, 120])
def test_the_list_of_runs_breaks_no_name(width: int) -> None:
    text = drawn(runs_table([a_run(), a_run(name="mosi-self-mm-1789cddf")], width=width), width=width)
    words_of_lines = [line.split()[0] for line in text.splitlines() if line.strip()]
    assert {a_run()["name"], "mosi-self-mm-1789cddf"} <= set(words_of_lines)


def test_on_a_narrow_screen_every_run_has_its_facts_below_its_name() -> None:
    lines = drawn(runs_table([a_run()], width=80)).splitlines()
    assert lines[2] == a_run()["name"]
    assert lines[3].split() == ["finetune", "finished", "3", "0.700", "-", "417.7", "MiB", "2025-01-02"]


@pytest.fixture
def description(tmp_path: Path) -> dict[str, Any]:
    def samples(split: str, n: int) -> list[Sample]:
        frames = [np.array([[0.0, 1.0]] * (1 + i % 4), dtype=np.float32) for i in range(n)]
        frames[0][0, 0] = np.nan
        return [Sample(f"v{i % 3}$_${split}{i}", "a few words", i % 7 - 3, vision=frames[i]) for i in range(n)]

    splits = {"train": samples("train", 30), "valid": samples("valid", 5), "test": samples("test", 9)}
    corpus = Corpus("mosi", (-3.0, 3.0), splits, "raw.pkl", "MMSA pickle", "0" * 64, notes=("mind the [gap]",))
    write_store(tmp_path / "s.h5", corpus)
    with FeatureStore(tmp_path / "s.h5") as store:
        return describe(store)


@pytest.mark.parametrize("width", [80, 100])
def test_a_store_is_described_by_origin_sizes_lengths_and_scores(description: dict[str, Any], width: int) -> None:
    text = drawn(*store_tables(description), width=width)
    assert "raw.pkl (MMSA pickle)" in text
    assert "vision 2" in text
    assert "train 30 1284 3" in words(text)
    assert "train vision 1 2 4 4 2.4" in words(text)
    assert all(len(line) <= width for line in text.splitlines())


def test_bars_show_the_share_of_every_score(description: dict[str, Any]) -> None:
    text = drawn(*store_tables(description))
    assert "-3 5 ████████████" in words(text)  # five of thirty training clips, the largest count
    assert "3 4 █████████▋" in words(text)


def test_one_clip_among_thousands_is_seen(description: dict[str, Any]) -> None:
    description["splits"]["train"]["scores"]["histogram"]["counts"] = [1, 0, 0, 5000, 0, 0, 0]
    text = words(drawn(*store_tables(description)))
    assert "-3 1 ▏" in text
    assert "-2 0 ▏" not in text


def test_a_line_of_many_ids_is_shortened(description: dict[str, Any]) -> None:
    text = words(drawn(*store_tables({**description, "notes": ["missing " + "v$_$1 " * 200]})))
    assert "v$_$1 ... (all: --json)" in text
    assert text.count("v$_$1 ") < 60


def test_all_that_is_odd_about_a_store_is_warned_of(description: dict[str, Any]) -> None:
    text = words(drawn(*store_tables(description)))
    assert "! mind the [gap]" in text
    assert "! vision: 3 NaN values became 0" in text
    assert "! train and test share 3 videos" in text
    assert "! 30/5/9 clips in train/valid/test, published are 1284/229/686" in text


def test_what_was_mended_is_said_in_words_and_what_is_harmless_is_no_warning(description: dict[str, Any]) -> None:
    counts = {"inf": 1, "too_large": 2, "clips_with_junk": 30, "junk_frames": 1505, "lengths_clamped": 1}
    text = words(drawn(*store_tables({**description, "repaired": {"audio": counts}}), width=100))
    assert "! audio: 1 infinite and 2 too large (beyond float32) values became 0" in text
    assert "- audio: 30 clips with values after their length: 1,505 frames dropped" in text
    assert "- audio: 1 clip with a length beyond the array: the whole array was used" in text


def test_a_store_from_before_reports_is_warned_of_as_it_was(description: dict[str, Any]) -> None:
    text = words(drawn(*store_tables({**description, "report": {}, "notes": ["mind the [gap]"]})))
    assert "! mind the [gap]" in text
    assert "! train/test share 3 videos" in text
    assert "! the split sizes differ from the published ones" in text


def test_a_store_of_an_own_data_set_has_no_published_sizes(description: dict[str, Any]) -> None:
    text = drawn(*store_tables({**description, "published_sizes": None, "notes": []}))
    assert "published" not in text


def test_new_scores_are_shown_as_mean_and_by_seed() -> None:
    clips = [{"id": "1", "text": "a fine [film]", "prediction": 1.25, "by_seed": {"1": 1.0, "2": 1.5}}]
    text = words(drawn(scores_table({"run": "mine", "seeds": [1, 2], "score_range": [-3.0, 3.0], "clips": clips})))
    assert "mine: scores from -3 to 3, mean over seeds 1, 2, n = 1" in text
    assert "1 a fine [film] 1.250 1.000 1.500" in text


def test_long_texts_and_many_seeds_fold_and_lose_nothing() -> None:
    by_seed = {str(seed): seed / 8 for seed in range(12)}
    clips = [{"id": "video-7$_$3", "text": "so it goes " * 30, "prediction": 0.6875, "by_seed": by_seed}]
    text = drawn(scores_table({"run": "mine", "seeds": [*range(12)], "score_range": [-3.0, 3.0], "clips": clips}))
    assert all(f"{score:.3f}" in text for score in by_seed.values())
    assert text.count("goes") == 30
    assert "video-7$_$3" in text


def test_settings_are_listed_with_their_defaults_as_toml_takes_them() -> None:
    entries = [{"setting": "model.drop", "type": "tuple", "default": ("C1",), "help": "what is left out"}]
    text = words(drawn(settings_table(entries)))
    assert 'model.drop ["C1"] what is left out' in text


def test_the_best_value_of_each_column_is_marked_and_so_are_ties_but_not_the_constant() -> None:
    info = TableInfo("mosi", "test", "all", (1,), 686, threshold=0.0)
    rows = [
        Row("a", {"mae": [0.7001], "corr": [0.8], "acc2_nonneg": [0.81], "acc2_pos": [0.85]}, seeds=(1,)),
        Row("b", {"mae": [0.7004], "corr": [0.7], "acc2_nonneg": [0.82], "acc2_pos": [0.84]}, seeds=(1,)),
        Row("c", {"mae": [0.1], "corr": [math.nan], "acc2_nonneg": [0.9], "acc2_pos": [0.9]}, seeds=(), is_aside=True),
    ]
    grid = build_grid(rows, info)
    assert grid.headers == ("", "MAE↓", "Corr↑", "Acc-2↑")
    assert [cell.best for cell in grid.lines[0].cells[1:]] == [(True,), (True,), (False, True)]
    assert [cell.best for cell in grid.lines[1].cells[1:]] == [(True,), (False,), (True, False)]
    assert not any(any(cell.best) for cell in grid.lines[2].cells)
    assert grid.lines[1].cells[3].parts() == [("82.00", True), ("/", False), ("84.00", False)]


def test_a_single_row_has_no_best() -> None:
    grid = build_grid(
        [Row("a", {"mae": [0.7]}, seeds=(1,))], TableInfo("mosi", "test", "all", (1,), 686, threshold=0.0)
    )
    assert not any(grid.lines[0].cells[1].best)

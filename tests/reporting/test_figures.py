"""Figures: what is drawn is what was measured, equal input gives equal bytes, and labels of others do no harm."""

import itertools
import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from conftest import Trained
from run_support import slowly

from conki_cli.data.extraction.cache import Clip, Extracted
from conki_cli.data.store.reading import FeatureStore
from conki_cli.reporting.figures import KINDS, Choices, check_runs, draw_figure, tsne
from conki_cli.reporting.figures.canvas import label
from conki_cli.reporting.figures.confusion import classes_of
from conki_cli.reporting.figures.representations import network_and_batches, represent, strange_order, training_clips
from conki_cli.reporting.figures.stored import intervals_of
from conki_cli.reporting.figures.vectors import Labels, mean_cosines
from conki_cli.reporting.video_figures import draw_clip, steps_of
from conki_cli.runs import Run, evaluate_run, stored_predictions
from conki_cli.system.errors import ConkiError, RunError, SettingsError, StoreError
from conki_cli.system.files import to_json, write_json

CHEAP = ("curves", "pairs", "confusion", "calibration", "errors", "seeds")
MakeCopy = Callable[..., Run]


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> MakeCopy:
    """Return a function that copies the trained run into a workspace of the test's own, its settings changed."""

    def make(name: str = "copy", **changed: str) -> Run:
        run = Run(tmp_path / "runs" / name)
        shutil.copytree(trained.run.path, run.path)
        text = (run.path / "config.toml").read_text()
        for one, other in changed.items():
            text = re.sub(rf"^{one} = .*$", f"{one} = {other}", text, count=1, flags=re.MULTILINE)
        (run.path / "config.toml").write_text(text)
        return run

    return make


def content_of(kind: str, runs: Sequence[Run], **options: Any) -> bytes:
    return draw_figure(kind, runs, **options).content


def refusal(kind: str, *runs: Run, choices: Choices | None = None) -> str:
    with pytest.raises(ConkiError) as caught:
        content_of(kind, runs, choices=choices)
    assert str(caught.value).isprintable()
    return str(caught.value)


# ---- files ----


@pytest.mark.parametrize("kind", slowly(CHEAP, CHEAP[:2]))
def test_the_same_run_gives_the_same_bytes_whatever_the_user_set_matplotlib_to(kind: str, trained: Trained) -> None:
    first = content_of(kind, [trained.run])
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "svg.hashsalt": None}):
        assert content_of(kind, [trained.run]) == first


@pytest.mark.parametrize(("form", "begins"), [("png", b"\x89PNG"), ("pdf", b"%PDF-")])
def test_png_and_pdf_repeat_byte_by_byte_and_name_no_time(form: Any, begins: bytes, trained: Trained) -> None:
    found = content_of("confusion", [trained.run], form=form)
    assert found.startswith(begins)
    assert b"CreationDate" not in found
    assert b"Matplotlib" not in found
    assert found == content_of("confusion", [trained.run], form=form)


def test_svgs_in_one_page_share_no_id_and_bring_no_style_script_or_link(trained: Trained) -> None:
    texts = [content_of(kind, [trained.run]).decode() for kind in ("confusion", "calibration")]
    ids = [set(re.findall(r' id="([^"]+)"', text)) for text in texts]
    assert ids[0]
    assert not ids[0] & ids[1]
    for text, own in zip(texts, ids, strict=True):
        assert text.startswith("<svg ")
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', text)) == own
        assert not re.search(r"<style|<script|<!--|<metadata|href=\"[^#]", text)


def test_the_width_of_the_file_is_the_one_asked_for(trained: Trained) -> None:
    found = content_of("seeds", [trained.run], width=127.0).decode()
    assert re.search(r'width="360pt"', found)


@pytest.mark.parametrize("width", [10.0, 1000.0, float("nan")])
def test_an_illegible_width_is_refused(width: float, trained: Trained) -> None:
    with pytest.raises(SettingsError, match="50 to 400 millimetres"):
        content_of("seeds", [trained.run], width=width)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x00b\x1b[31m", "a?b?[31m"),
        ("$\\frac{1}{$", "$\\frac{1}{$"),
        ("one\u202etwo", "one?two"),
        ("\u05d0\u0628", "??"),
        ("\u4e2d", "?"),
        ("two\nlines", "two lines"),
        ("", "?"),
        ("x" * 10_000, "x" * 14 + "…" + "x" * 13),
    ],
)
def test_a_hostile_name_becomes_a_harmless_label(text: str, shown: str) -> None:
    assert label(text) == shown


def test_hostile_ids_are_drawn_as_they_are_and_get_into_no_file(copied: MakeCopy) -> None:
    run = copied()
    for seed in (1, 2):
        path = run.predictions_path(seed, "test")
        lines = path.read_text().splitlines(keepends=True)
        wild = "<script>alert(1)</script>$x^{" + "\u202e" + "y" * 10_000
        path.write_text("".join([lines[0], f"{wild}$_$1,{lines[1].split(',', 1)[1]}", *lines[2:]]))
    drawn = draw_figure("errors", [run])
    assert b"script" not in drawn.content
    assert "no store" not in drawn.caption
    assert "Not drawn by length" in drawn.caption


# ---- numbers ----


def test_confusion_counts_what_a_loop_counts_and_its_diagonal_is_acc_7(trained: Trained) -> None:
    numbers = draw_figure("confusion", [trained.run]).numbers
    stored = stored_predictions(trained.run, "test", [1, 2])
    pairs = Counter(
        (int(np.clip(np.round(t), -3, 3)) + 3, int(np.clip(np.round(p), -3, 3)) + 3)
        for found in stored.values()
        for t, p in zip(found.scores, found.predictions, strict=True)
    )
    assert {(i, j): n for i, row in enumerate(numbers["counts"]) for j, n in enumerate(row) if n} == dict(pairs)
    assert numbers["accuracy"] == pytest.approx(evaluate_run(trained.run, "test", "all").metrics["acc7"]["mean"])


def test_the_classes_of_sims_are_those_of_acc_3() -> None:
    values = np.array([-1, -0.1, -0.09, 0.1, 0.11, 1], dtype=np.float32)
    assert classes_of((-1, 1)).index(values).tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("score_range", "names", "value", "number"),
    [
        ((-3, 3), "−3 −2 −1 0 1 2 3", 0.5, 3),
        ((-3, 3), "−3 −2 −1 0 1 2 3", 9.0, 6),
        ((-1, 1), "−1 0 1", -0.6, 0),
        ((0, 7), "0 1 2 3 4 5 6 7", 2.5, 2),
        ((0, 70), "0–10 10–20 20–30 30–40 40–50 50–60 60–70", 65.0, 6),
    ],
)
def test_intervals_follow_the_range_of_the_scores(
    score_range: tuple[float, float], names: str, value: float, number: int
) -> None:
    intervals = intervals_of(score_range)
    assert " ".join(intervals.names) == names
    assert intervals.index([value])[0] == number


def test_calibration_is_of_the_mean_prediction_over_the_seeds(trained: Trained) -> None:
    rows = draw_figure("calibration", [trained.run]).numbers["intervals"]
    stored = stored_predictions(trained.run, "test", [1, 2])
    means = (stored[1].predictions.astype(np.float64) + stored[2].predictions) / 2
    inside = [float(t) for p, t in zip(means, stored[1].scores, strict=True) if np.round(p) == 0]
    middle = rows[3]
    assert (middle["interval"], middle["n"]) == ("0", len(inside))
    assert sum(row["n"] for row in rows) == len(means)
    assert not inside or middle["mean_score"] == pytest.approx(np.mean(inside))


def test_errors_of_intervals_lengths_and_videos_are_all_of_the_same_clips(trained: Trained) -> None:
    numbers = draw_figure("errors", [trained.run]).numbers
    assert numbers["length_unit"] == "words"
    for part in ("by_interval", "by_length", "by_video"):
        filled = [group for group in numbers[part] if group["n"]]
        assert sum(group["n"] for group in filled) == 6
        assert sum(group["n"] * group["mae"] for group in filled) / 6 == pytest.approx(numbers["mae"])


def test_errors_are_said_to_be_of_the_mean_prediction_where_there_are_several_seeds(copied: MakeCopy) -> None:
    run = copied()
    assert "mean absolute error of the mean prediction over the seeds ± its" in draw_figure("errors", [run]).caption
    (run.seed_folder(2) / "result.json").unlink()
    assert "mean absolute error ± its" in draw_figure("errors", [run]).caption


@pytest.mark.parametrize("kind", ["errors", "modalities"])
def test_errors_of_sims_are_measured_in_clipped_predictions(kind: str, copied: MakeCopy, stores: Path) -> None:
    run = copied()
    shutil.copytree(stores, run.path.parents[1] / "features")
    (run.seed_folder(2) / "result.json").unlink()
    for path, changed in ((run.path, {"score_range": [-1, 1]}), (run.seed_folder(1), {"metrics": {"valid": {}}})):
        write_json(path / "result.json", json.loads((path / "result.json").read_text()) | changed)
    run = Run(run.path)
    measured = evaluate_run(run, "test", "all").metrics["mae"]["values"]
    assert draw_figure(kind, [run]).numbers["mae"] == pytest.approx(measured if kind == "modalities" else measured[0])


def test_curves_hold_the_log_and_the_best_epoch_of_every_seed(trained: Trained) -> None:
    seeds = draw_figure("curves", [trained.run]).numbers["seeds"]
    lines = (trained.run.seed_folder(2) / "metrics.jsonl").read_text().splitlines()
    assert [s["seed"] for s in seeds] == [1, 2]
    assert seeds[1]["validation_mae"] == [json.loads(line)["validation"]["mae"] for line in lines]
    assert seeds[1]["best_epoch"] == trained.run.seed_result(2).best_epoch


def test_pairs_are_those_of_section_3_4(trained: Trained) -> None:
    numbers = draw_figure("pairs", [trained.run]).numbers
    intervals = [round(score) for score in numbers["scores"]]
    vectors = list(itertools.product(range(3), "OA", "tva"))  # clip, kind, modality
    for (row, p), (column, q) in itertools.product(enumerate(vectors), repeat=2):
        expected = 3
        if p == q:
            expected = 4
        elif p[1] != q[1]:
            expected = 2
        elif p[0] == q[0]:
            expected = 0
        elif intervals[p[0]] == intervals[q[0]]:
            expected = 1
        assert numbers["cells"][row][column] == expected
    assert sorted(Counter(intervals).values()) == [1, 2]


def test_two_clips_of_pairs_are_of_two_intervals(trained: Trained) -> None:
    scores = draw_figure("pairs", [trained.run], choices=Choices(num_clips=2)).numbers["scores"]
    assert len({round(score) for score in scores}) == 2


def test_mean_cosines_equal_the_loop_over_all_pairs() -> None:
    vectors = np.random.default_rng(0).normal(size=(18, 5))
    vectors[4] = 0
    labels = Labels(["a", "b", "c"], np.array([1, 1, -2]), ("O", "A"), ("text", "vision", "audio"))
    sums: dict[str, list[float]] = {}
    for i, j in itertools.permutations(range(18), 2):
        norms = np.linalg.norm(vectors[i]) * np.linalg.norm(vectors[j])
        cosine = float(vectors[i] @ vectors[j] / norms) if norms else 0.0
        one, other = i // 6, j // 6
        name = "within_sample" if one == other else "within_interval" if {one, other} == {0, 1} else "between_intervals"
        name = name if i % 6 // 3 == j % 6 // 3 else "between_knowledge"
        sums.setdefault(name, []).append(cosine)
    expected = {name: np.mean(values) for name, values in sums.items()}
    assert mean_cosines(vectors, labels) == pytest.approx(expected, abs=1e-12)


def test_representations_come_clip_by_clip_kind_by_kind_in_any_order_of_rows(trained: Trained) -> None:
    with training_clips(trained.run, Choices()) as clips:
        both = represent(trained.run, 1, clips, [4, 2], Choices()).reshape(2, 6, -1)
        one = represent(trained.run, 1, clips, [2], Choices()).reshape(1, 6, -1)
    np.testing.assert_allclose(both[1], one[0], atol=1e-5)
    assert not np.allclose(both[0], both[1])


def test_tsne_draws_the_same_places_again_and_its_numbers_beside_them(trained: Trained) -> None:
    first, second = (draw_figure("tsne", [trained.run]) for _ in range(2))
    found = first.numbers["runs"][0]
    assert first.content == second.content
    assert to_json(first.numbers) == to_json(second.numbers)
    assert set(found["mean_cosine"]) == {
        "within_sample",
        "within_interval",
        "between_intervals",
        "between_knowledge",
    }
    assert len(found["drawn"]) == 6 * sum(found["clips"])


def test_tsne_tells_the_clips_of_intervals_from_those_whose_cosines_are_taken(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FeatureStore(trained.workspace.store("tiny")) as store:
        scores = store.split("train").scores
        assert scores is not None
    (one, most), (other, fewer) = Counter(int(np.round(score)) for score in scores).most_common(2)
    monkeypatch.setattr(tsne, "_MOST_COMPARED", 1)
    found = draw_figure("tsne", [trained.run], choices=Choices("train", intervals=(one, other)))
    numbers = found.numbers["runs"][0]
    assert most > 1
    assert (numbers["clips"], numbers["compared"]) == ([most, fewer], [1, 1])
    assert f"of the {most} and {fewer} tiny train clips" in found.caption
    assert "the cosines do not depend on it and are of at most 1 clips of each" in found.caption


@pytest.mark.parametrize("count", [2, 3, 50])
def test_a_shuffled_modality_comes_from_another_clip(count: int) -> None:
    for seed in range(20):
        order = strange_order(count, seed)
        assert sorted(order) == list(range(count))
        assert not (order == np.arange(count)).any()


def test_figures_read_clips_as_a_run_with_modality_dropout_reads_them(trained: Trained, copied: MakeCopy) -> None:
    runs = [trained.run, copied(modality_dropout="[0.3]")]
    with FeatureStore(trained.workspace.store("tiny")) as store:
        found = [network_and_batches(run, 1, store.split("test"))[1].absence for run in runs]
    assert [set(absence.masks_empty) for absence in found if absence] == [{"text", "vision", "audio"}]


def test_unshuffled_modalities_give_the_stored_error(trained: Trained) -> None:
    numbers = draw_figure("modalities", [trained.run]).numbers
    stored = evaluate_run(trained.run, "test", "all").metrics["mae"]["values"]
    assert numbers["mae"] == pytest.approx(stored, abs=1e-5)
    assert [row["label"] for row in numbers["shuffled"]] == ["text", "vision", "audio"]


def test_an_ablation_shows_each_difference_from_the_first_run(copied: MakeCopy) -> None:
    runs = [copied("one"), copied("other", drop='["C4"]')]
    for run, seed in itertools.product(runs, (1, 2)):  # every clip is of another video
        path = run.predictions_path(seed, "test")
        path.write_text(path.read_text().replace("test$_$", "test"))
    found = draw_figure("ablation", runs)
    rows = found.numbers["rows"]
    assert [row["label"] for row in rows] == ["ConKI", "ConKI, w/o C4"]
    assert rows[0]["difference"] is None
    assert (rows[1]["difference"]["difference"], rows[1]["difference"]["p"]) == (0, 1)  # it is a copy
    assert "6 videos" in found.caption


def test_a_time_line_has_no_score_where_nobody_speaks() -> None:
    clips = [{"start": 0.5, "stop": 2.0}, {"start": 2.0, "stop": 3.0}, {"start": 7.0, "stop": 8.0}]
    values, edges = steps_of(clips, [1.0, -1.0, 0.5])
    assert values == pytest.approx([1.0, -1.0, math.nan, 0.5], nan_ok=True)
    assert edges == [0.5, 2.0, 3.0, 7.0, 8.0]


def test_a_clip_is_drawn_without_the_panels_of_which_an_encoder_has_no_columns(tmp_path: Path) -> None:
    np.save(tmp_path / "audio.npy", np.ones((5, 8), dtype=np.float32))
    np.save(tmp_path / "vision.npy", np.ones((5, 4), dtype=np.float32))
    clip = Extracted("a", tmp_path, {"audio_frames": 5, "vision_frames": 5, "seconds": 0.1})
    notes = {
        "audio": {"extractor": "hubert", "rate": 50.0, "columns": [f"h{number}" for number in range(8)]},
        "vision": {"extractor": "mesh", "rate": 10.0, "columns": ["yaw", "pitch", "roll", "face_present"]},
    }
    left_out = draw_clip(tmp_path / "a.png", clip, Clip("a", tmp_path / "a.mp4"), notes)
    assert left_out == [
        "not drawn: pitch, energy and voicing; the audio features of hubert have no column F0 or VUV or MCEP_0",
        "not drawn: mouth and blinks; the vision features of mesh have no column AU25_lips_apart or AU45_blink",
    ]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


# ---- refusals ----


def test_curves_of_stage_1_are_drawn_and_nothing_else_of_it(trained: Trained) -> None:
    check_runs("curves", [trained.first])
    assert "only curves" in refusal("confusion", trained.first)


def test_representations_of_a_baseline_are_refused(copied: MakeCopy) -> None:
    run = copied()
    path = run.path / "config.toml"
    path.write_text(path.read_text().replace('name = "conki"', 'name = "misa"'))
    assert "which only ConKI has; copy is MISA" in refusal("tsne", run)


def test_pairs_of_a_run_without_the_contrast_are_refused(copied: MakeCopy) -> None:
    assert "has no pairs" in refusal("pairs", copied(drop='["C4"]'))


def test_an_unfinished_run_is_refused(copied: MakeCopy) -> None:
    run = copied()
    for seed in (1, 2):
        (run.seed_folder(seed) / "result.json").unlink()
    assert "no finished seed" in refusal("curves", run)


def test_a_damaged_log_is_refused_in_one_line(copied: MakeCopy) -> None:
    run = copied()
    (run.seed_folder(2) / "metrics.jsonl").write_text('{"epoch": 1}\n')
    assert "one whole line per epoch" in refusal("curves", run)


def test_more_runs_than_a_kind_takes_and_a_run_twice_are_refused(trained: Trained, copied: MakeCopy) -> None:
    assert "takes 1 run, found 2" in refusal("curves", trained.run, copied())
    assert "takes 2 to 12 runs, found 1" in refusal("ablation", trained.run)
    assert "can be given only once" in refusal("seeds", trained.run, trained.run)


def test_an_interval_without_clips_is_refused_with_those_that_have_some(trained: Trained) -> None:
    for kind in ("pairs", "tsne"):
        assert "interval 7 has no clips" in refusal(kind, trained.run, choices=Choices(intervals=(7, 1)))
    assert "found 1 twice" in refusal("tsne", trained.run, choices=Choices(intervals=(1, 1)))


def test_a_missing_store_a_missing_split_and_a_missing_seed_are_refused(copied: MakeCopy) -> None:
    run = copied()
    with pytest.raises(StoreError, match="no feature store"):
        content_of("tsne", [run])
    assert "no stored predictions for train" in refusal("confusion", run, choices=Choices(split="train"))
    assert "seed 9" in refusal("tsne", run, choices=Choices(seed=9))


def test_runs_of_the_same_modalities_are_not_compared_by_them(trained: Trained, copied: MakeCopy) -> None:
    with pytest.raises(SettingsError, match="two have text, vision, audio"):
        content_of("modalities", [trained.run, copied()])


def test_an_unknown_kind_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(SettingsError, match="did you mean curves"):
        content_of("curve", [])
    assert set(KINDS) >= {"tsne", "ablation", "compare"}


def test_a_checkpoint_that_is_gone_is_refused(copied: MakeCopy) -> None:
    run = copied()
    for name in ("best", "last"):
        run.checkpoint(1, name).unlink(missing_ok=True)
    with pytest.raises(RunError, match="is missing"):
        content_of("pairs", [run])

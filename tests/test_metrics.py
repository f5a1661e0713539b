"""The metrics against the field's reference values, other libraries, and cases worked out by hand."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conki_cli.metrics import sentiment_metrics
from conki_cli.metrics.reasons import undefined_reasons
from conki_cli.metrics.summaries import summarize
from conki_cli.system.errors import ConkiError, SettingsError

DATA = Path(__file__).parents[2] / "shared" / "data"
GOLDEN = DATA / "golden" / "metrics.json"
SIMS_LABELS = DATA / "sims" / "label.csv"
REPRODUCIBLE = settings(derandomize=True, deadline=None, database=None)
GOLDEN_NAMES = {
    "mosi": {
        "MAE": "mae",
        "Corr": "corr",
        "Mult_acc_7": "acc7",
        "Mult_acc_5": "acc5",
        "Has0_acc_2": "acc2_nonneg",
        "Non0_acc_2": "acc2_pos",
        "Has0_F1_score": "f1_nonneg",
        "Non0_F1_score": "f1_pos",
    },
    "sims": {
        "MAE": "mae",
        "Corr": "corr",
        "Mult_acc_2": "acc2",
        "Mult_acc_3": "acc3",
        "Mult_acc_5": "acc5",
        "F1_score": "f1",
    },
}


def golden_cases() -> list[Any]:
    if not GOLDEN.is_file():
        return []
    return [
        pytest.param(case, dataset, id=f"{case['name']}-{dataset}")
        for case in json.loads(GOLDEN.read_text())["cases"]
        for dataset in ("mosi", "sims")
    ]


@pytest.mark.skipif(not GOLDEN.is_file(), reason="the golden file of the development folder is absent")
@pytest.mark.parametrize(("case", "dataset"), golden_cases())
def test_the_reference_values_are_met_to_four_digits(case: dict[str, Any], dataset: str) -> None:
    if not np.isfinite(np.array(case["y_pred"], dtype=float)).all():
        with pytest.raises(ConkiError, match="must be finite"):
            sentiment_metrics(case["y_pred"], case["y_true"], dataset=dataset)
        return
    ours = sentiment_metrics(case["y_pred"], case["y_true"], dataset=dataset)
    if "EXCEPTION" in case[dataset]:  # the reference fails where nothing is left after dropping the zeros
        assert math.isnan(ours["acc2_pos"])
        return
    for theirs, name in GOLDEN_NAMES[dataset].items():
        expected = math.nan if case[dataset][theirs] is None else case[dataset][theirs]
        assert ours[name] == pytest.approx(expected, abs=1e-4, nan_ok=True), name


def test_every_mosi_metric_of_a_small_case_is_as_counted_by_hand() -> None:
    metrics = sentiment_metrics([3.4, 0.5, -0.2, -1.5, 0.1], [3.0, 0.0, -1.0, -2.0, -0.4])
    assert metrics == pytest.approx(
        {
            "mae": (0.4 + 0.5 + 0.8 + 0.5 + 0.5) / 5,
            "corr": 13.544 / math.sqrt(13.052 * 14.128),
            "acc7": 4 / 5,  # 3=3, 0=0, 0 against -1, -2=-2, 0=0
            "acc5": 4 / 5,
            "acc3": 4 / 5,
            "acc2_nonneg": 4 / 5,
            "acc2_pos": 3 / 4,  # the second sample is left out
            "f1_nonneg": (2 * 4 / 5 + 3 * 4 / 5) / 5,
            "f1_pos": (1 * 2 / 3 + 3 * 4 / 5) / 4,
            "n": 5,
        }
    )


def test_every_sims_metric_of_a_small_case_is_as_counted_by_hand() -> None:
    metrics = sentiment_metrics([1.6, 0.1, -0.1, -0.7, 0.05], [1.0, 0.2, 0.0, -0.8, -0.2], dataset="sims")
    del metrics["corr"]
    assert metrics == pytest.approx(
        {
            "mae": (0 + 0.1 + 0.1 + 0.1 + 0.25) / 5,
            "acc2": 4 / 5,
            "acc3": 2 / 5,  # 1.6 and -0.7 only: 0.1 and 0.05 are neutral, -0.1 is negative
            "acc5": 2 / 5,
            "f1": (2 * 4 / 5 + 3 * 4 / 5) / 5,
            "n": 5,
        }
    )


def test_the_class_edges_of_sims_are_compared_in_float32() -> None:
    on_the_edges = [-0.7, -0.1, 0.1, 0.7]
    metrics = sentiment_metrics(on_the_edges, [-1.0, -0.5, 0.0, 0.5], dataset="sims")
    assert metrics["acc5"] == 1
    assert metrics["acc3"] == 1


@pytest.mark.skipif(not SIMS_LABELS.is_file(), reason="the labels of SIMS are not on this machine")
def test_a_model_that_finds_all_of_sims_negative_has_the_rates_of_its_majority() -> None:
    with SIMS_LABELS.open(encoding="utf-8") as lines:
        scores = [float(row["label"]) for row in csv.DictReader(lines) if row["mode"] == "test"]
    metrics = sentiment_metrics([-0.5] * len(scores), scores, dataset="sims")
    assert metrics["n"] == 457
    assert metrics["acc2"] == pytest.approx(317 / 457)
    assert round(100 * metrics["acc2"], 2) == 69.37
    assert round(100 * metrics["f1"], 2) == 56.82


def test_halves_are_rounded_to_the_even_class() -> None:
    assert sentiment_metrics([0.5, 1.5, 2.5, -0.5, -2.5], [0, 2, 2, 0, -2])["acc7"] == 1


def test_accuracies_clip_and_mae_does_not() -> None:
    metrics = sentiment_metrics([9.0, -9.0], [3.0, -3.0])
    assert (metrics["acc7"], metrics["mae"]) == (1, 6)


def test_zero_predictions_are_not_negative_and_not_positive() -> None:
    metrics = sentiment_metrics([0.0, 0.0, -0.0], [1.0, -1.0, 0.0])
    assert metrics["acc2_nonneg"] == pytest.approx(2 / 3)
    assert metrics["acc2_pos"] == pytest.approx(1 / 2)


def test_f1_is_weighted_by_the_true_classes_and_not_by_the_predicted_ones() -> None:
    metrics = sentiment_metrics([1, 1, 1, -1], [1, -1, -1, -1])
    assert metrics["f1_pos"] == pytest.approx((1 * 1 / 2 + 3 * 1 / 2) / 4)
    assert sentiment_metrics([1, -1, -1, -1], [1, 1, 1, -1])["f1_pos"] == pytest.approx((3 * 1 / 2 + 1 / 2) / 4)
    assert sentiment_metrics([1, 1, 1, 1], [1, 1, 1, -1])["f1_pos"] == pytest.approx(3 / 4 * 6 / 7)


def test_the_score_range_wins_over_the_name_of_the_data_set() -> None:
    by_range = sentiment_metrics([0.2, -1.4], [0.4, -1.0], dataset="mosi", score_range=(-1.0, 1.0))
    assert by_range == sentiment_metrics([0.2, -1.4], [0.4, -1.0], dataset="sims")


def test_other_ranges_have_no_interval_accuracies() -> None:
    metrics = sentiment_metrics([4, -2, 1], [5, -5, 0], dataset="ours", score_range=(-5, 5))
    assert set(metrics) == {"mae", "corr", "acc2_nonneg", "acc2_pos", "f1_nonneg", "f1_pos", "n"}
    assert metrics["mae"] == pytest.approx(5 / 3)


def test_an_unknown_data_set_asks_for_its_range() -> None:
    with pytest.raises(SettingsError, match=r"range of 'ours' is not known .* give score_range"):
        sentiment_metrics([1], [1], dataset="ours")


def test_protocol_nonzero_takes_mae_and_corr_without_zero_scores_and_nothing_else() -> None:
    p, t = [1.0, 2.0, -1.0, 0.5], [2.0, 0.0, -2.0, 1.0]
    every, nonzero = sentiment_metrics(p, t), sentiment_metrics(p, t, protocol="nonzero")
    assert nonzero["mae"] == pytest.approx(2.5 / 3)
    assert (nonzero.pop("n"), nonzero.pop("n_nonzero")) == (4, 3)
    for name in set(nonzero) - {"mae", "corr"}:
        assert nonzero[name] == every[name]


def test_protocol_nonzero_is_refused_for_sims() -> None:
    with pytest.raises(SettingsError, match=r"nonzero is not defined for scores in -1\.\.1"):
        sentiment_metrics([1], [1], dataset="sims", protocol="nonzero")


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(SettingsError, match="unknown protocol 'some': choose all or nonzero"):
        sentiment_metrics([1], [1], protocol="some")


@pytest.mark.parametrize(
    ("predictions", "scores", "reasons"),
    [
        ([0.7, 0.7, 0.7], [1.0, -1.0, 2.0], {"corr": "constant predictions"}),
        ([0.1, 0.2], [1.0, 1.0], {"corr": "constant scores"}),
        ([0.1], [1.0], {"corr": "a single sample"}),
        (
            [0.1, 0.3],
            [0.0, -0.0],
            {"corr": "constant scores", "acc2_pos": "every score is 0", "f1_pos": "every score is 0"},
        ),
        ([0.1, 0.3], [1.0, -1.0], {}),
    ],
)
def test_undefined_metrics_are_nan_and_have_a_reason(
    predictions: list[float], scores: list[float], reasons: dict[str, str]
) -> None:
    metrics = sentiment_metrics(predictions, scores)
    assert undefined_reasons(predictions, scores) == reasons
    assert {name for name, value in metrics.items() if math.isnan(value)} == set(reasons)


def test_without_any_nonzero_score_protocol_nonzero_is_undefined() -> None:
    metrics = sentiment_metrics([0.1, 0.3], [0.0, 0.0], protocol="nonzero")
    undefined = {"mae", "corr", "acc2_pos", "f1_pos"}
    assert {name for name, value in metrics.items() if math.isnan(value)} == undefined
    assert set(undefined_reasons([0.1, 0.3], [0.0, 0.0], protocol="nonzero")) == undefined


def test_sims_predictions_that_clip_to_a_constant_have_no_correlation() -> None:
    assert math.isnan(sentiment_metrics([1.5, 2.5], [0.2, 0.4], dataset="sims")["corr"])
    assert undefined_reasons([1.5, 2.5], [0.2, 0.4], dataset="sims") == {"corr": "constant predictions"}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e39])
def test_predictions_that_are_not_finite_are_counted_and_the_first_is_named(bad: float) -> None:
    with pytest.raises(ConkiError, match=r"predictions must be finite numbers, but 2 of 3 are not \(the first: 'b'"):
        sentiment_metrics([1.0, bad, bad], [1.0, 0.0, 2.0], ids=["a", "b", "c"])


def test_without_ids_the_position_of_the_first_bad_value_is_named() -> None:
    with pytest.raises(ConkiError, match=r"scores must be finite numbers, but 1 of 2 are not \(the first: sample 2"):
        sentiment_metrics([1.0, 1.0], [1.0, math.nan])


@pytest.mark.parametrize(
    ("predictions", "scores", "message"),
    [
        ([], [], "at least one sample"),
        ([1.0], [1.0, 2.0], r"one length, found \[1\] and \[2\]"),
        ([[1.0]], [1.0], "flat lists"),
        (["good"], [1.0], "must be numbers"),
    ],
)
def test_unusable_input_is_named(predictions: list[Any], scores: list[float], message: str) -> None:
    with pytest.raises(ConkiError, match=message):
        sentiment_metrics(predictions, scores)


def random_case(seed: int, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    t = generator.integers(-15, 16, n).astype(np.float32) / np.float32(5)
    return (t + generator.normal(0, 1, n)).astype(np.float32), t


@pytest.mark.parametrize("seed", range(3))
def test_other_libraries_agree(seed: int) -> None:
    from scipy.stats import pearsonr
    from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error

    p, t = random_case(seed)
    rest = t != 0
    metrics = sentiment_metrics(p, t)

    def classes(values: np.ndarray) -> np.ndarray:
        return np.array([round(max(-3.0, min(3.0, float(value)))) for value in values])

    assert metrics["corr"] == pytest.approx(pearsonr(p.astype(float), t.astype(float)).statistic, abs=1e-12)
    assert metrics["mae"] == pytest.approx(mean_absolute_error(t.astype(float), p.astype(float)))
    assert metrics["acc7"] == pytest.approx(accuracy_score(classes(t), classes(p)))
    assert metrics["acc2_pos"] == pytest.approx(accuracy_score(t[rest] > 0, p[rest] > 0))
    assert metrics["f1_nonneg"] == pytest.approx(f1_score(t >= 0, p >= 0, average="weighted"))


@given(labels=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_the_weighted_f1_is_scikit_learns_to_the_last_bit(labels: list[tuple[bool, bool]]) -> None:
    from sklearn.metrics import f1_score

    predicted, true = np.array(labels).T
    metrics = sentiment_metrics(np.where(predicted, 1.0, -1.0), np.where(true, 1.0, -1.0))
    assert metrics["f1_nonneg"] == f1_score(true, predicted, average="weighted", zero_division=0.0)


@pytest.mark.parametrize("dataset", ["mosi", "sims"])
@REPRODUCIBLE
@given(pairs=st.lists(st.tuples(st.floats(-5, 5, width=32), st.floats(-3, 3, width=32)), min_size=1, max_size=12))
def test_metrics_keep_their_bounds(pairs: list[tuple[float, float]], dataset: str) -> None:
    metrics = sentiment_metrics(*zip(*pairs, strict=True), dataset=dataset)
    assert 0 <= metrics.pop("mae") <= 8
    assert metrics.pop("n") == len(pairs)
    assert not abs(metrics.pop("corr")) > 1  # nan passes: it is undefined
    assert all(math.isnan(value) or 0 <= value <= 1 for value in metrics.values())


@REPRODUCIBLE
@given(
    pairs=st.lists(st.tuples(st.floats(-5, 5, width=32), st.floats(-3, 3, width=32)), min_size=1, max_size=12),
    random=st.randoms(use_true_random=False),
)
def test_the_order_of_the_samples_does_not_matter(pairs: list[tuple[float, float]], random: Any) -> None:
    shuffled = random.sample(pairs, len(pairs))
    before, after = (sentiment_metrics(*zip(*order, strict=True)) for order in (pairs, shuffled))
    assert after == pytest.approx(before, abs=1e-6, nan_ok=True)


def test_a_perfect_prediction_is_perfect() -> None:
    _, t = random_case(7)
    metrics = sentiment_metrics(t, t)
    del metrics["n"]
    assert metrics.pop("mae") == 0
    assert metrics == pytest.approx(dict.fromkeys(metrics, 1.0))


@pytest.mark.parametrize("container", [list, tuple, np.array, lambda values: np.array(values, dtype=np.float32)])
def test_any_flat_container_of_numbers_is_taken(container: Callable[[list[float]], Any]) -> None:
    assert sentiment_metrics(container([1.0, -1.0]), container([2.0, -1.0]))["mae"] == 0.5


def test_seeds_are_summed_up_by_mean_and_sample_deviation() -> None:
    summary = summarize([{"mae": 1.0, "n": 9}, {"mae": 2.0, "n": 9}, {"mae": 4.5, "n": 9}])
    assert set(summary) == {"mae"}
    assert summary["mae"]["mean"] == pytest.approx(2.5)
    assert summary["mae"]["std"] == pytest.approx(math.sqrt((1.5**2 + 0.5**2 + 2**2) / 2))
    assert summary["mae"]["values"] == [1.0, 2.0, 4.5]


def test_values_may_also_be_given_by_metric() -> None:
    assert summarize({"mae": [1.0, 2.0]}) == summarize([{"mae": 1.0}, {"mae": 2.0}])


def test_one_seed_has_a_mean_and_no_deviation() -> None:
    summary = summarize([{"mae": 1.5}])
    assert summary["mae"]["mean"] == 1.5
    assert math.isnan(summary["mae"]["std"])


def test_a_metric_undefined_for_one_seed_has_no_mean() -> None:
    assert math.isnan(summarize([{"corr": 0.5}, {"corr": math.nan}])["corr"]["mean"])


def test_seeds_with_different_metrics_are_refused() -> None:
    with pytest.raises(ValueError, match="same metrics"):
        summarize([{"mae": 1.0}, {"corr": 1.0}])


# ---- scores that never cross 0 ----


@pytest.mark.parametrize("score_range", [(1, 5), (0, 10), (0, 1), (-4, 0), (-5, -1)])
def test_two_classes_are_undefined_where_0_is_not_inside_the_range(score_range: tuple[float, float]) -> None:
    low, high = score_range
    p, t = [low, high, high], [high, low, high]
    metrics = sentiment_metrics(p, t, score_range=score_range)
    undefined = {"acc2_nonneg", "acc2_pos", "f1_nonneg", "f1_pos"}
    assert {name for name, value in metrics.items() if math.isnan(value)} == undefined
    assert metrics["mae"] == pytest.approx((high - low) * 2 / 3)
    reasons = undefined_reasons(p, t, score_range=score_range)
    assert reasons.keys() == undefined
    assert "--threshold" in reasons["acc2_pos"]


def test_a_threshold_is_the_zero_of_both_classes() -> None:
    p, t = [1.0, 4.0, 3.0, 5.0, 2.0], [2.0, 3.0, 4.0, 1.0, 2.0]
    metrics = sentiment_metrics(p, t, score_range=(1, 5), threshold=3)
    assert metrics["acc2_nonneg"] == 4 / 5  # below 3 against 3 and above: only the 5 against 1 is wrong
    assert metrics["acc2_pos"] == 2 / 4  # without the score of 3: the 3 is not above 3
    around_zero = sentiment_metrics(np.array(p) - 3, np.array(t) - 3, score_range=(-2, 2))
    assert metrics == pytest.approx(around_zero)


def test_a_threshold_is_compared_in_float32() -> None:
    assert sentiment_metrics([0.3, 0.1], [0.1, 0.3], score_range=(0, 1), threshold=0.1)["acc2_nonneg"] == 1


def test_a_threshold_counts_for_the_classes_of_sims_too() -> None:
    assert sentiment_metrics([0.4, -0.4], [0.6, -1.0], dataset="sims", threshold=0.5)["acc2"] == 0.5


@pytest.mark.parametrize("threshold", [1, 5, 0, math.nan])
def test_a_threshold_outside_the_range_is_refused(threshold: float) -> None:
    with pytest.raises(SettingsError, match="must be inside the range of the scores, 1 to 5"):
        sentiment_metrics([2.0], [3.0], score_range=(1, 5), threshold=threshold)


def test_protocol_nonzero_leaves_out_the_threshold_and_needs_one() -> None:
    with pytest.raises(SettingsError, match="nonzero"):
        sentiment_metrics([0.0, 1.0], [0.0, 9.0], score_range=(0, 10), protocol="nonzero")
    metrics = sentiment_metrics([1.0, 6.0], [0.0, 5.0], score_range=(0, 10), threshold=5, protocol="nonzero")
    assert (metrics["mae"], metrics["n_nonzero"]) == (1, 1)

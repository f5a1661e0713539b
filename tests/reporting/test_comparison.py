"""Tests of two systems over made-up runs: every statistic against its definition, and what is refused."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from conki_cli.config.resolving import resolve, to_toml
from conki_cli.metrics import sentiment_metrics
from conki_cli.reporting import comparison
from conki_cli.reporting.comparison import bootstrap, compare, explanation, holm, marks, paired_t, read_systems, welch_t
from conki_cli.reporting.comparison.videos import _draws
from conki_cli.runs import Predictions, Run, write_predictions
from conki_cli.system.errors import RunError
from conki_cli.system.files import write_json, write_text

RANGES = {"mosi": (-3.0, 3.0), "sims": (-1.0, 1.0), "other": (-5.0, 5.0)}
MakeRun = Callable[..., Run]


def clips(num_videos: int = 5, *, bound: float = 3, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Draw videos of 1 to 6 clips with scores of one decimal, some of them 0."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 7, size=num_videos)
    ids = [f"video-{v}$_${k}" for v, size in enumerate(sizes) for k in range(size)]
    return ids, draw.integers(-10, 11, size=len(ids)).astype(np.float32) * np.float32(bound / 10)


IDS, SCORES = clips()


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Return a function that writes a finished run: seed -> how noisy its predictions are."""

    def make(name: str, noise: dict[int, float], *, model: str = "conki", **changes: Any) -> Run:
        options = {"dataset": "mosi", "content": "c0", "stage": "finetune", "ids": IDS, "scores": SCORES}
        options |= {"range": (-3, 3), **changes}
        flags = {"data.dataset": options["dataset"], "model.name": model, "run.seeds": tuple(noise)}
        config = resolve(flags=flags | options.get("flags", {}))
        run = Run(tmp_path / "runs" / name)
        write_text(run.path / "config.toml", to_toml(config))
        found = {"schema": 1, "stage": options["stage"], "digest": "0", "dataset": options["dataset"], "label": "x"}
        found |= {
            "data": {options["dataset"]: options["content"]},
            "score_range": [*options["range"]],
            "state": "finished",
        }
        write_json(run.path / "result.json", {**found, "seeds": sorted(noise)})
        for seed, size in noise.items():
            column = noisy(size, seed, options["scores"])
            stored = Predictions(options["ids"], options["scores"], column)
            write_predictions(run.predictions_path(seed, "test"), stored)
            write_json(run.seed_folder(seed) / "result.json", {"metrics": {"test": {"n": len(column)}}})
        return run

    return make


def noisy(size: float, seed: int, scores: np.ndarray = SCORES) -> np.ndarray:
    """Return the scores with noise of a given size."""
    return (scores + size * np.random.default_rng([seed, round(100 * size)]).normal(size=len(scores))).astype(
        np.float32
    )


# ---- over the seeds ----

ONE, TWO = [0.71, 0.70, 0.74, 0.69], [0.73, 0.745, 0.75, 0.70]


def tail(t: float, df: float) -> float:
    """Integrate Student's density outside -t..t, in steps."""
    constant = math.gamma((df + 1) / 2) / (math.sqrt(df * math.pi) * math.gamma(df / 2))
    steps = np.linspace(-abs(t), abs(t), 20001)
    density = constant * (1 + steps**2 / df) ** (-(df + 1) / 2)
    return 1 - float(np.trapezoid(density, steps))


def mean_and_variance(values: Sequence[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    return mean, sum((value - mean) ** 2 for value in values) / (len(values) - 1)


def test_the_paired_t_test_is_that_of_the_differences() -> None:
    mean, variance = mean_and_variance([b - a for a, b in zip(ONE, TWO, strict=True)])
    found = paired_t(ONE, TWO)
    assert found is not None
    assert (found["statistic"], found["df"]) == (pytest.approx(mean / math.sqrt(variance / 4)), 3)
    assert found["p"] == pytest.approx(tail(found["statistic"], 3), rel=1e-5)
    assert found["cohen_d"] == pytest.approx(mean / math.sqrt(variance))


def test_welchs_t_test_has_its_own_degrees_of_freedom() -> None:
    (one, first), (two, second) = mean_and_variance(ONE), mean_and_variance(TWO)
    found = welch_t(ONE, TWO)
    assert found is not None
    spread = first / 4 + second / 4
    df = spread**2 / ((first / 4) ** 2 / 3 + (second / 4) ** 2 / 3)
    assert (found["statistic"], found["df"]) == (pytest.approx((two - one) / math.sqrt(spread)), pytest.approx(df))
    assert found["p"] == pytest.approx(tail(found["statistic"], df), rel=1e-5)
    assert found["cohen_d"] == pytest.approx((two - one) / math.sqrt((first + second) / 2))


def test_both_equal_scipys() -> None:
    t, welch = paired_t(ONE, TWO), welch_t(ONE, TWO)
    assert t is not None and welch is not None  # noqa: PT018
    assert t["p"] == scipy.stats.ttest_rel(TWO, ONE).pvalue
    assert welch["p"] == scipy.stats.ttest_ind(TWO, ONE, equal_var=False).pvalue


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_differences_that_do_not_vary_are_not_tested(shift: float) -> None:
    assert paired_t(ONE, [value + shift for value in ONE]) is None
    assert welch_t([0.5, 0.5], [0.5 + shift] * 2) is None


def test_a_seed_with_an_undefined_metric_leaves_the_cell_untested() -> None:
    assert paired_t([0.1, math.nan, 0.3], [0.2, 0.1, 0.4]) is None
    assert welch_t([0.1, 0.2, 0.3], [0.2, math.nan, 0.4]) is None


@pytest.mark.parametrize("seed", range(5))
def test_holms_correction_rejects_what_its_steps_reject(seed: int) -> None:
    p_values = (np.random.default_rng(seed).random(7) ** 3).tolist()
    corrected = holm(p_values)
    for level in (0.01, 0.05, 0.2):
        rejected, waiting = set(), sorted(range(7), key=lambda k: p_values[k])
        while waiting and p_values[waiting[0]] <= level / len(waiting):
            rejected.add(waiting.pop(0))
        assert {k for k in range(7) if corrected[k] <= level} == rejected


def test_holms_correction_keeps_order_and_stays_below_1() -> None:
    assert holm([0.01, 0.04, 0.03, 0.9]) == pytest.approx([0.04, 0.09, 0.09, 0.9])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


# ---- over the videos ----


def test_the_bootstrap_splits_two_classes_at_the_threshold() -> None:
    ids, scores = clips(seed=3)
    videos = np.array([int(name.partition("$")[0].removeprefix("video-")) for name in ids])
    pair = [noisy(0.8, 1, scores), noisy(1.4, 2, scores)]
    shifted = bootstrap(*(p + 4 for p in pair), scores + 4, videos, rules="other", threshold=4.0, num_draws=60)
    around_zero = bootstrap(*pair, scores, videos, rules="other", num_draws=60)
    for name in ("acc2_nonneg", "acc2_pos", "f1_nonneg", "f1_pos"):
        assert shifted[name] == pytest.approx(around_zero[name], abs=1e-6)
    without = bootstrap(*pair, scores, videos, rules="other", threshold=None, num_draws=60)
    assert set(without) == {"mae", "corr"}


CASES = [*itertools.product(RANGES, ["all", "nonzero"])]
CASES.remove(("sims", "nonzero"))


def naive(
    pair: Sequence[np.ndarray], scores: np.ndarray, names: Sequence[str], draws: np.ndarray, rules: str, protocol: str
) -> dict[str, list[float]]:
    """Put the clips of the drawn videos together and measure them, draw by draw."""
    differences: dict[str, list[float]] = {}
    for counts in draws:
        rows = [k for k, name in enumerate(names) for _ in range(int(counts[int(name)]))]
        one, two = (
            sentiment_metrics(p[rows], scores[rows], score_range=RANGES[rules], protocol=protocol) for p in pair
        )
        for metric in one.keys() & set(comparison.TESTED):
            differences.setdefault(metric, []).append(two[metric] - one[metric])
    return differences


@pytest.mark.parametrize(("rules", "protocol"), CASES)
def test_the_bootstrap_measures_the_clips_of_the_drawn_videos(rules: str, protocol: str) -> None:
    ids, scores = clips(bound=1 if rules == "sims" else 3, seed=3)
    names = [name.partition("$")[0].removeprefix("video-") for name in ids]
    pair = [noisy(0.8, 1, scores), noisy(1.4, 2, scores)]
    videos = np.array([int(name) for name in names])
    found = bootstrap(*pair, scores, videos, rules=rules, protocol=protocol, num_draws=60)
    draws = np.concatenate([*_draws(5, 60)])
    whole = naive(pair, scores, names, np.ones((1, 5)), rules, protocol)
    expected = naive(pair, scores, names, draws, rules, protocol)
    assert found.keys() == expected.keys()
    for metric, differences in expected.items():
        one, defined = found[metric], [value for value in differences if not math.isnan(value)]
        assert one is not None
        assert one["difference"] == pytest.approx(whole[metric][0], abs=1e-6)
        assert one["num_draws"] == len(defined)
        assert one["low"] == pytest.approx(np.quantile(defined, 0.025), abs=1e-6)
        assert one["high"] == pytest.approx(np.quantile(defined, 0.975), abs=1e-6)
        sides = [sum(d <= 1e-9 for d in defined), sum(d >= -1e-9 for d in defined)]
        assert one["p"] == pytest.approx(min(1, 2 * (min(sides) + 1) / (len(defined) + 1)))


def test_every_draw_is_of_as_many_videos_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conki_cli.reporting.comparison.videos._VALUES_AT_ONCE", 21)
    parts = [*_draws(7, 10)]
    assert [len(part) for part in parts] == [3, 3, 3, 1]
    assert {float(counts.sum()) for part in parts for counts in part} == {7.0}


def test_the_same_call_draws_the_same_videos() -> None:
    videos = np.arange(len(SCORES)) // 3
    calls = [bootstrap(noisy(0.5, 1), noisy(0.9, 2), SCORES, videos, num_draws=50) for _ in range(2)]
    assert calls[0] == calls[1]


def test_clips_of_one_video_that_err_alike_are_no_independent_evidence() -> None:
    scores = np.zeros(60, dtype=np.float32)
    better = np.zeros(60, dtype=np.float32)
    worse = np.where(np.arange(60) < 48, 0.5, 0.0).astype(np.float32)  # all the harm is done in one of two videos
    by_video = bootstrap(better, worse, scores, (np.arange(60) >= 48).astype(np.intp), num_draws=400)["mae"]
    by_clip = bootstrap(better, worse, scores, np.arange(60), num_draws=400)["mae"]
    assert by_video is not None and by_clip is not None  # noqa: PT018
    assert by_video["p"] > 0.3
    assert by_clip["p"] == pytest.approx(2 / 401)


def test_equal_predictions_differ_in_no_draw() -> None:
    found = bootstrap(noisy(0.5, 1), noisy(0.5, 1), SCORES, np.arange(len(SCORES)), num_draws=40)
    assert all(one is not None and (one["difference"], one["p"]) == (0.0, 1.0) for one in found.values())


def test_a_single_video_or_constant_predictions_leave_nothing_to_draw() -> None:
    one_video = bootstrap(noisy(0.5, 1), noisy(0.9, 2), SCORES, np.zeros(len(SCORES), dtype=np.intp), num_draws=9)
    assert set(one_video.values()) == {None}
    constant = bootstrap(np.full(len(SCORES), 0.1), noisy(0.9, 2), SCORES, np.arange(len(SCORES)), num_draws=9)
    assert constant["corr"] is None
    assert constant["mae"] is not None


def test_scores_that_are_all_0_leave_some_metrics_undefined() -> None:
    zeros = np.zeros(9, dtype=np.float32)
    found = bootstrap(np.ones(9), np.full(9, 2.0), zeros, np.arange(9), protocol="nonzero", num_draws=9)
    assert [name for name, one in found.items() if one is None] == ["mae", "corr", "acc2_pos", "f1_pos"]


def test_a_common_offset_of_a_million_changes_no_correlation() -> None:
    far = [np.round(noisy(size, 1)) + np.float32(1e6) for size in (2.0, 4.0)]
    found = bootstrap(*far, SCORES, np.arange(len(SCORES)), num_draws=9)["corr"]
    one, two = (np.corrcoef(values - 1e6, SCORES)[0, 1] for values in far)
    assert found is not None
    assert found["difference"] == pytest.approx(two - one, abs=1e-9)


def test_draws_of_a_single_video_whose_predictions_are_all_alike_have_no_correlation() -> None:
    videos = np.repeat([0, 1, 2], [3, 5, 7])
    alike = np.array([0.13, 0.71, -0.57], dtype=np.float32)[videos]
    scores = np.random.default_rng(0).normal(size=15).astype(np.float32)
    found = bootstrap(noisy(0.5, 1, scores), alike, scores, videos, num_draws=200)["corr"]
    mixed = [(counts > 0).sum() > 1 for counts in np.concatenate([*_draws(3, 200)])]
    assert found is not None
    assert 0 < sum(mixed) == found["num_draws"] < 200


# ---- whole runs ----


def maes_of(noise: dict[int, float]) -> list[float]:
    return [sentiment_metrics(noisy(size, seed), SCORES)["mae"] for seed, size in noise.items()]


def test_the_paired_test_is_of_the_seeds_in_common_and_welchs_of_all_seeds(make_run: MakeRun) -> None:
    one, two = {1: 0.3, 2: 0.4, 3: 0.5}, {2: 0.9, 3: 0.8, 7: 0.7, 8: 0.6}
    found = compare(read_systems([make_run("a", one), make_run("b", two, model="misa")], "test", "all"), num_draws=50)
    cell = (found.verdicts[0].cells or {})["mae"]
    common = [maes_of({seed: noise[seed] for seed in (2, 3)}) for noise in (one, two)]
    assert found.verdicts[0].seeds == (2, 3)
    for test, expected in (("paired_t", paired_t(*common)), ("welch", welch_t(maes_of(one), maes_of(two)))):
        assert cell[test]["statistic"] == pytest.approx((expected or {})["statistic"])  # type: ignore[literal-required]
    assert cell["reasons"] == {}


def test_the_difference_is_that_of_the_means_in_the_table(make_run: MakeRun) -> None:
    runs = [make_run("a", {1: 0.3, 2: 0.4, 3: 0.5}), make_run("b", {2: 0.9, 3: 0.8, 7: 0.7}, model="misa")]
    found = compare(read_systems(runs, "test", "all"), num_draws=50)
    means = [system.result.metrics["mae"]["mean"] for system in found.systems]
    assert (found.verdicts[0].cells or {})["mae"]["difference"] == pytest.approx(means[1] - means[0])


def test_systems_without_a_seed_in_common_are_tested_by_welch_alone(make_run: MakeRun) -> None:
    runs = [make_run("a", {1: 0.3, 2: 0.4}), make_run("b", {3: 0.9, 4: 0.8}, model="misa")]
    verdict = compare(read_systems(runs, "test", "all"), num_draws=50).verdicts[0]
    cell = (verdict.cells or {})["mae"]
    assert cell["welch"] is not None
    assert (cell["paired_t"], cell["bootstrap"], verdict.seeds) == (None, None, ())
    reason = "a paired test needs at least two common seeds, found none"
    assert cell["reasons"] == {"paired_t": reason, "bootstrap": reason}


def test_what_does_not_vary_has_a_reason(make_run: MakeRun) -> None:
    runs = [make_run("a", {1: 0.3, 2: 0.4}), make_run("b", {1: 0.3, 2: 0.4}, model="misa")]
    cell = (compare(read_systems(runs, "test", "all"), num_draws=9).verdicts[0].cells or {})["mae"]
    assert cell["paired_t"] is None
    assert cell["reasons"] == {"paired_t": "the differences do not vary over the seeds"}


def test_clips_of_one_video_are_the_reason_for_no_bootstrap_and_no_line_explains_it(make_run: MakeRun) -> None:
    ids = [f"video$_${number}" for number in range(len(IDS))]
    runs = [make_run("a", {1: 0.3, 2: 0.4}, ids=ids), make_run("b", {1: 0.9, 2: 0.8}, model="misa", ids=ids)]
    found = compare(read_systems(runs, "test", "all"), num_draws=9)
    cell = (found.verdicts[0].cells or {})["mae"]
    assert cell["reasons"] == {"bootstrap": "it resamples videos, and all clips come from one video"}
    assert "bootstrap" not in " ".join(explanation(found))


def test_the_bootstrap_takes_the_mean_prediction_over_the_seeds_in_common(make_run: MakeRun) -> None:
    runs = [make_run("a", {1: 0.3, 2: 0.4, 5: 2.0}), make_run("b", {1: 0.9, 2: 0.8}, model="misa")]
    cells = compare(read_systems(runs, "test", "all"), num_draws=50).verdicts[0].cells
    means = [np.mean([noisy(size, seed) for seed, size in pairs], axis=0) for pairs in
             (((1, 0.3), (2, 0.4)), ((1, 0.9), (2, 0.8)))]  # fmt: skip
    maes = [sentiment_metrics(mean, SCORES)["mae"] for mean in means]
    assert cells is not None
    assert cells["mae"]["bootstrap"] is not None
    assert cells["mae"]["bootstrap"]["difference"] == pytest.approx(maes[1] - maes[0], abs=1e-6)


def test_holms_correction_covers_all_cells_of_the_table(make_run: MakeRun) -> None:
    runs = [make_run(name, {1: size, 2: 1.1 * size, 3: 0.9 * size}, model=model)
            for name, model, size in (("a", "conki", 0.3), ("b", "misa", 0.4), ("c", "tfn", 0.9))]  # fmt: skip
    found = compare(read_systems(runs, "test", "all"), num_draws=50)
    for kind in ("paired_t", "welch", "bootstrap"):
        tests = [cell[kind] for verdict in found.verdicts for cell in (verdict.cells or {}).values() if cell[kind]]
        assert len(tests) > 7
        assert [test["p_holm"] for test in tests] == holm([test["p"] for test in tests])


def test_the_predictions_of_three_seeds_are_averaged(make_run: MakeRun) -> None:
    noise = {1: 0.3, 2: 2.0, 3: 0.5}
    runs = [make_run("a", noise), make_run("b", dict.fromkeys(noise, 0.1), model="misa")]
    cells = compare(read_systems(runs, "test", "all"), num_draws=50).verdicts[0].cells
    means = [np.mean([noisy(size, seed) for seed, size in pairs], axis=0) for pairs in
             (noise.items(), dict.fromkeys(noise, 0.1).items())]  # fmt: skip
    maes = [sentiment_metrics(mean, SCORES)["mae"] for mean in means]
    assert cells is not None
    assert cells["mae"]["bootstrap"] is not None
    assert cells["mae"]["bootstrap"]["difference"] == pytest.approx(maes[1] - maes[0], abs=1e-6)


@pytest.mark.parametrize(("dataset", "protocol"), [("sims", "all"), ("mosi", "nonzero")])
def test_the_bootstrap_of_runs_keeps_to_their_score_range_the_protocol_and_the_draws(
    dataset: str, protocol: str, make_run: MakeRun
) -> None:
    bound = 1 if dataset == "sims" else 3
    ids, scores = clips(bound=bound)
    changes: Any = {"dataset": dataset, "ids": ids, "scores": scores, "range": (-bound, bound)}
    runs = [make_run("a", {1: 0.3, 2: 0.4}, **changes), make_run("b", {1: 0.9, 2: 0.8}, model="misa", **changes)]
    cells = compare(read_systems(runs, "test", protocol), protocol, num_draws=30).verdicts[0].cells or {}
    means = [np.mean([noisy(size, seed, scores) for seed, size in pairs], axis=0) for pairs in
             (((1, 0.3), (2, 0.4)), ((1, 0.9), (2, 0.8)))]  # fmt: skip
    videos = np.array([int(name.partition("$")[0].removeprefix("video-")) for name in ids])
    expected = bootstrap(*means, scores, videos, rules=dataset, protocol=protocol, num_draws=30)
    for metric, cell in cells.items():
        found, wanted = cell["bootstrap"], expected[metric]
        assert found is not None and wanted is not None  # noqa: PT018
        assert found["difference"] == pytest.approx(wanted["difference"], abs=1e-6)
        assert (found["p"], found["num_draws"]) == (wanted["p"], wanted["num_draws"])
    assert set(cells) == set(expected)


def test_a_metric_that_a_seed_leaves_undefined_has_no_difference(make_run: MakeRun) -> None:
    runs = [make_run("a", {1: 0.3, 2: 0.4}), make_run("b", {1: 0.9, 2: 0.8}, model="misa")]
    constant = Predictions(IDS, SCORES, np.zeros(len(SCORES), dtype=np.float32))
    write_predictions(runs[1].predictions_path(2, "test"), constant)
    cells = compare(read_systems(runs, "test", "all"), num_draws=20).verdicts[0].cells
    assert cells is not None
    assert (cells["corr"]["difference"], cells["corr"]["paired_t"]) == (None, None)
    assert cells["mae"]["difference"] is not None


@pytest.mark.parametrize("seeds", [(4,), (2,)])
def test_a_system_with_a_single_seed_is_not_tested(seeds: tuple[int, ...], make_run: MakeRun) -> None:
    runs = [make_run("a", {1: 0.3, 2: 0.4}), make_run("b", dict.fromkeys(seeds, 0.5), model="misa")]
    found = compare(read_systems(runs, "test", "all"))
    assert found.verdicts[0].cells is None
    assert found.verdicts[0].reason == "a test needs at least two seeds of each system, found 2 of ConKI and 1 of MISA"
    assert not found.is_tested
    assert explanation(found) == ["not tested: a test needs at least two seeds of each system"]


def test_seeds_that_were_not_asked_for_are_left_out(make_run: MakeRun) -> None:
    runs = [make_run("a", {1: 0.3, 2: 0.4, 3: 5.0}), make_run("b", {1: 0.9, 2: 0.8, 3: 0.1}, model="misa")]
    systems = read_systems(runs, "test", "all", seeds=(2, 1))
    assert [system.seeds for system in systems] == [(1, 2), (1, 2)]
    assert [system.result.seeds for system in systems] == [[1, 2], [1, 2]]
    assert len(systems[0].result.metrics["mae"]["values"]) == len(systems[0].result.predictions) == 2
    assert systems[0].result.metrics["mae"]["mean"] < 1


def test_systems_are_named_by_model_switches_and_external_data(make_run: MakeRun) -> None:
    runs = [
        make_run("a", {1: 0.3}),
        make_run("b", {1: 0.3}, flags={"model.drop": "C4"}),
        make_run("c", {1: 0.3}, model="misa", flags={"model.drop": "A"}),
        make_run("d", {1: 0.3}, model="self-mm", flags={"data.external": "mosei"}),
    ]
    labels = [system.label for system in read_systems(runs, "test", "all")]
    assert labels == ["ConKI", "ConKI, w/o C4", "MISA, w/o A", "Self-MM, with mosei"]


def test_two_runs_of_one_model_are_told_apart(make_run: MakeRun) -> None:
    runs = [make_run("lmf5", {1: 0.3, 2: 0.4}, model="lmf"), make_run("old", {1: 0.9, 2: 0.8}, model="lmf")]
    runs.append(make_run("c", {1: 0.2, 2: 0.1}))
    found = compare(read_systems(runs, "test", "all"), num_draws=9)
    assert [system.label for system in found.systems] == ["LMF, run lmf5", "LMF, run old", "ConKI"]
    assert "from LMF, run lmf5" in explanation(found)[0]


def test_marks_are_uncorrected_for_the_papers_test_and_corrected_for_the_others() -> None:
    one: Any = {"statistic": 9.0, "df": 4.0, "p": 0.04, "p_holm": 0.2, "cohen_d": 2.0}
    drawn: Any = {"difference": 0.1, "low": 0.0, "high": 0.2, "p": 0.001, "p_holm": 0.01, "num_draws": 99}
    cell: Any = {"difference": 0.1, "paired_t": one, "welch": one, "bootstrap": drawn}
    assert marks({"mae": cell}) == {"mae": "†§"}
    assert marks({"mae": {**cell, "paired_t": None, "welch": {**one, "p_holm": 0.049}}}) == {"mae": "‡§"}
    assert marks({"mae": {**cell, "paired_t": {**one, "p": 0.05}, "bootstrap": None}}) == {}


def test_only_signs_of_the_table_are_explained_and_the_other_tests_found_nothing(make_run: MakeRun) -> None:
    runs = [make_run("a", {1: 0.3, 2: 0.4}), make_run("b", {1: 0.9, 2: 0.8}, model="misa")]
    found = compare(read_systems(runs, "test", "all"), num_draws=1000)
    lines = explanation(found)
    signs = {sign for signs in marks(found.verdicts[0].cells or {}).values() for sign in signs}
    assert signs == {line[0] for line in lines[:-2]} == {"§"}
    assert "1,000 resamples of the 5 videos" in lines[0]
    assert lines[1].startswith("no difference from ConKI found by: paired t-test over seeds, p < 0.05, uncorrected")
    assert "Welch's t-test over seeds, p < 0.05 after Holm's correction" in lines[1]
    assert lines[2:] == ["effect sizes (Cohen's d) and p-values: --json"]


def test_where_nothing_differs_one_line_says_what_was_tested(make_run: MakeRun) -> None:
    runs = [make_run("a", {1: 0.3, 2: 0.4}), make_run("b", {1: 0.4, 2: 0.25}, model="misa")]
    lines = explanation(compare(read_systems(runs, "test", "all"), num_draws=200))
    assert len(lines) == 2
    assert lines[0].startswith("no difference from ConKI found by: ")
    assert all(test in lines[0] for test in ("paired t-test", "Welch's t-test", "paired bootstrap"))


def test_a_difference_of_every_kind_is_explained(make_run: MakeRun) -> None:
    runs = [make_run("a", dict.fromkeys(range(6), 0.2)), make_run("b", dict.fromkeys(range(6), 2.0), model="misa")]
    lines = explanation(compare(read_systems(runs, "test", "all"), num_draws=1000))
    assert [line[0] for line in lines[:3]] == ["†", "‡", "§"]


def test_other_data_other_clips_and_other_stages_are_refused(make_run: MakeRun) -> None:
    first = make_run("a", {1: 0.3})
    faults = {
        "is for mosi, other for mosei": {"dataset": "mosei"},
        "different versions of the store mosi": {"content": "c1"},
        "must name the same clips": {"ids": [*IDS[1:], IDS[0]]},
        "with the same scores": {"scores": SCORES[::-1]},
        "other is a stage-1 run": {"stage": "pretrain"},
    }
    for reason, changes in faults.items():
        with pytest.raises(RunError, match=reason) as error:
            read_systems([first, make_run("other", {1: 0.3}, **changes)], "test", "all")
        assert "\n" not in str(error.value)


def test_one_run_twice_is_no_comparison(make_run: MakeRun) -> None:
    run = make_run("a", {1: 0.3})
    for runs in ([run], [run, Run(run.path / ".." / "a")]):
        with pytest.raises(RunError, match="two or more different runs"):
            read_systems(runs, "test", "all")


def test_a_run_without_the_seeds_asked_for_says_which_it_has(make_run: MakeRun) -> None:
    runs = [make_run("a", {1: 0.3, 2: 0.3}), make_run("b", {1: 0.3, 2: 0.3})]
    with pytest.raises(RunError, match="run a must have finished one of the requested seeds, but has 1, 2"):
        read_systems(runs, "test", "all", seeds=(3,))


def test_seeds_that_name_other_clips_are_refused(make_run: MakeRun) -> None:
    run, other = make_run("a", {1: 0.3, 2: 0.3}), make_run("b", {1: 0.3, 2: 0.3})
    write_predictions(run.predictions_path(2, "test"), Predictions([*IDS[1:], "new"], SCORES, noisy(0.3, 2)))
    with pytest.raises(RunError, match=r"test\.csv must hold the same clips"):
        read_systems([run, other], "test", "all")

"""Every number of the paper that the code must reproduce: Table 1, Appendix B, parameter counts, Tables 2-5."""

import pytest
import torch

from conki_cli import MODALITIES
from conki_cli.config.resolving import resolve, stage_one
from conki_cli.config.sections import RunConfig
from conki_cli.datasets import DATASETS, sizes_of
from conki_cli.model.conki import TEXT_ADAPTER_LAYERS, AdapterModule, ConKI
from conki_cli.model.contract import Architecture
from conki_cli.reporting.tables.grid import published_row
from conki_cli.training.loop import rate_factor, schedule_of


def settings_of(dataset: str, recipe: str = "paper") -> RunConfig:
    return resolve(flags={"data.dataset": dataset, "run.recipe": recipe})


@pytest.mark.parametrize(
    ("dataset", "sizes", "total"),
    [("mosi", (1284, 229, 686), 2199), ("mosei", (16326, 1871, 4659), 22856), ("sims", (1368, 456, 457), 2281)],
)
def test_the_data_sets_have_the_sizes_of_table_1(dataset: str, sizes: tuple[int, int, int], total: int) -> None:
    assert sizes_of(dataset) == sizes
    assert sum(sizes) == total


def test_scores_have_the_ranges_of_appendix_c() -> None:
    assert {name: row.score_range for name, row in DATASETS.items() if row.sizes} == {
        "mosi": (-3, 3),
        "mosei": (-3, 3),
        "sims": (-1, 1),
    }


def test_the_modalities_stand_in_the_papers_order() -> None:
    assert MODALITIES == ("text", "vision", "audio")


@pytest.mark.parametrize(("dataset", "external"), [("mosi", "mosei"), ("sims", "mosei"), ("mosei", "mosi")])
def test_the_external_data_sets_are_those_of_appendix_b(dataset: str, external: str) -> None:
    assert settings_of(dataset).data.external == external


@pytest.mark.parametrize("dataset", ["mosi", "mosei", "sims"])
def test_stage_1_is_that_of_appendix_b(dataset: str) -> None:
    stage = settings_of(dataset).pretraining
    assert (stage.learning_rate, stage.num_epochs, stage.warmup) == (5e-5, 10, 0.1)
    assert (stage.batch_size, stage.weight_decay) == (32, 0.0)


@pytest.mark.parametrize(
    ("dataset", "encoders", "frames", "others", "contrast_weight"),
    [
        ("mosi", 5e-6, 5e-6, 1e-6, 0.01),
        ("sims", 5e-6, 5e-6, 1e-6, 0.01),
        ("mosei", 5e-6, 5e-5, 5e-5, 0.001),
    ],
)
def test_stage_2_is_that_of_appendix_b(
    dataset: str, encoders: float, frames: float, others: float, contrast_weight: float
) -> None:
    config = settings_of(dataset)
    stage = config.optimizer
    assert (stage.lr_encoders, stage.lr_audio_vision or stage.lr_encoders, stage.lr_others) == (
        encoders,
        frames,
        others,
    )
    assert (stage.num_epochs, stage.batch_size, stage.weight_decay, stage.warmup) == (200, 32, 1e-3, 0.05)
    assert (config.loss.contrast_weight, config.loss.temperature) == (contrast_weight, 0.07)
    assert stage.patience == 0


def test_the_warm_up_of_stage_1_lasts_one_of_ten_epochs() -> None:
    plan = schedule_of(stage_one(settings_of("mosi")), seed=1)
    steps_per_epoch = 511  # MOSEI in batches of 32
    factors = [rate_factor(step, plan.num_epochs * steps_per_epoch, plan.warmup) for step in range(2 * steps_per_epoch)]
    assert factors.index(1.0) + 1 == steps_per_epoch


def test_the_network_is_that_of_appendix_b() -> None:
    model = settings_of("mosi").model
    assert (model.text_encoder, model.num_layers, model.num_heads) == ("bert-base-uncased", 2, 8)
    assert tuple(k + 1 for k in TEXT_ADAPTER_LAYERS) == (1, 6, 11)
    assert (model.dropout, model.adapter_dropout, model.gate_dropout) == (0.5, 0.1, 0.1)


def test_the_released_recipe_differs_in_three_settings() -> None:
    paper, released = settings_of("mosi"), settings_of("mosi", "released")
    expected = (
        paper.with_values("data", cut_external=True)
        .with_values("model", gate_norm="batch")
        .with_values("loss", reduction="anchor-mean")
        .with_values("run", recipe="released")
    )
    assert released == expected


def test_an_adapter_module_has_15356928_parameters_at_bert_base_sizes() -> None:
    with torch.device("meta"):
        module = AdapterModule(768, 768, dropout=0.1)
    assert sum(p.numel() for p in module.parameters()) == 15_356_928
    assert [layer.num_heads for layer in module.layers] == [12, 12]
    assert module.layers[0].ffn_in.out_features == 3072


def test_there_are_five_adapter_modules_and_the_head_is_that_of_the_spec() -> None:
    sizes = Architecture(MODALITIES, 768, 12, {"vision": 20, "audio": 5}, {"vision": 500, "audio": 375})
    with torch.device("meta"):
        model = ConKI(settings_of("mosi"), sizes, None)
    assert {name: len(adapter.chain) for name, adapter in model.adapters.items()} == {
        "text": 3,
        "vision": 1,
        "audio": 1,
    }
    assert [layer.out_features for layer in model.head[::2]] == [768, 384, 192, 96, 1]
    assert (model.fusion.squeeze.in_features, model.fusion.squeeze.out_features) == (2304, 288)
    modules = [module for adapter in model.adapters.values() for module in adapter.chain]
    assert sum(p.numel() for module in modules for p in module.parameters()) == 5 * 15_356_928


def test_fresh_projections_of_an_adapter_are_drawn_with_a_deviation_of_two_ten_thousandths() -> None:
    torch.manual_seed(0)
    module = AdapterModule(768, 64, dropout=0.1)
    for linear in (module.down, module.up):
        assert float(linear.weight.detach().std()) == pytest.approx(2e-4, rel=0.02)
        assert not linear.bias.any()


_TABLES = {  # MAE, Corr, Acc-7, Acc-2 left and right, F1 left and right
    ("mosi", ""): (0.681, 0.816, 48.43, 84.37, 86.13, 84.33, 86.13),
    ("mosei", ""): (0.529, 0.782, 54.25, 82.73, 86.25, 83.08, 86.15),
    ("mosi", "T"): (1.408, 0.248, 18.72, 55.71, 54.33, 54.37, 53.24),
    ("mosi", "V"): (0.700, 0.799, 48.22, 82.45, 84.18, 82.38, 84.16),
    ("mosi", "A"): (0.718, 0.798, 45.45, 82.97, 84.88, 82.89, 84.86),
    ("mosi", "C1"): (0.734, 0.794, 43.56, 82.39, 84.21, 82.35, 84.22),
    ("mosi", "C2"): (0.753, 0.789, 43.50, 82.16, 83.84, 82.15, 83.89),
    ("mosi", "C3"): (0.710, 0.811, 44.75, 83.29, 84.82, 83.23, 84.80),
    ("mosi", "C4"): (0.683, 0.815, 48.05, 84.23, 86.01, 84.16, 85.99),
    ("mosi", "N1"): (0.689, 0.812, 47.90, 83.88, 85.76, 83.80, 85.74),
}


@pytest.mark.parametrize(("dataset", "drop"), _TABLES)
def test_the_published_rows_are_those_of_tables_2_4_and_5(dataset: str, drop: str) -> None:
    row = published_row(dataset, (drop,) if drop else ())
    names = ("mae", "corr", "acc7", "acc2_nonneg", "acc2_pos", "f1_nonneg", "f1_pos")
    scales = (1, 1, 100, 100, 100, 100, 100)
    expected = {n: v / s for n, v, s in zip(names, _TABLES[dataset, drop], scales, strict=True)}
    assert row == pytest.approx(expected)


def test_the_published_row_of_sims_is_that_of_table_3() -> None:
    assert published_row("sims") == pytest.approx({"mae": 0.454, "corr": 0.542, "acc2": 0.7794, "f1": 0.7817})


def test_the_paper_has_no_row_for_combinations_and_for_plain_transfer() -> None:
    assert published_row("mosi", ("C1", "C4")) is None
    assert published_row("mosi", ("plain-transfer",)) is None
    assert published_row("mosei", ("C1",)) is None

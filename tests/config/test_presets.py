"""The presets of the baselines: what they set for the three data sets, for the demo, and for a user's own data."""

import tomllib
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from baseline_support import config_of

import conki_cli
from conki_cli.config.resolving import resolve
from conki_cli.config.sections import BASELINES, MODELS
from conki_cli.system.errors import SettingsError

PRESETS = Path(conki_cli.__file__).parent / "config" / "presets"
DATASETS = ("mosi", "mosei", "sims")
every_baseline = pytest.mark.parametrize("name", BASELINES)

# batch size, accumulation, rate of the rest, weight decay, clipping by value and by norm; on mosi, mosei, sims
OPTIMIZERS = {
    "tfn": ((32, 1, 1e-3, 0, 0, 0), (128, 1, 5e-3, 0, 0, 0), (32, 1, 5e-4, 0, 0, 0)),
    "lmf": ((64, 1, 1e-3, 5e-3, 0, 0), (32, 1, 1e-3, 1e-3, 0, 0), (64, 1, 2e-3, 5e-3, 0, 0)),
    "mult": ((16, 8, 2e-3, 0, 0.6, 0), (4, 8, 5e-4, 0, 0.6, 0), (16, 8, 2e-3, 0, 0.6, 0)),
    "iccn": ((32, 1, 1e-3, 0, 0, 0),) * 3,
    "misa": ((16, 2, 1e-4, 0, 0.8, 0), (64, 2, 1e-4, 0, 0.8, 0), (64, 2, 1e-4, 0, 1.0, 0)),
    "mag-bert": ((32, 1, 2e-5, 0, 0, 0), (32, 1, 1e-5, 0, 0, 0), (32, 1, 5e-5, 0, 0, 0)),
    "self-mm": ((16, 4, 1e-3, 1e-3, 0, 0), (32, 4, 1e-3, 1e-3, 0, 0), (32, 4, 1e-3, 1e-3, 0, 0)),
    "hycon": ((32, 1, 1e-3, 1e-2, 0, 0), (64, 1, 1e-3, 1e-2, 0, 0), (32, 1, 1e-3, 1e-2, 0, 0)),
    "mmim": ((32, 1, 1e-3, 1e-4, 0, 1),) * 3,
}
TEXT_RATES = {
    **dict.fromkeys(("tfn", "lmf", "mult", "iccn", "self-mm", "mmim"), (5e-5,) * 3),
    "misa": (1e-4,) * 3,
    "mag-bert": (2e-5, 1e-5, 5e-5),
    "hycon": (2e-5,) * 3,
}
OWN: dict[str, dict[str, tuple[float | bool, float | bool, float | bool]]] = {
    "tfn": {
        "text_hidden": (128, 128, 128),
        "audio_hidden": (32, 16, 32),
        "vision_hidden": (128, 128, 128),
        "text_out": (32, 128, 256),
        "fusion_width": (64, 16, 32),
        "audio_dropout": (0.3, 0.4, 0.4),
        "vision_dropout": (0.3, 0.4, 0.4),
        "fusion_dropout": (0.5, 0.4, 0.4),
        "train_text": (False, False, False),
    },
    "lmf": {
        "text_hidden": (128, 128, 64),
        "audio_hidden": (16, 16, 16),
        "vision_hidden": (128, 128, 64),
        "rank": (3, 4, 4),
        "audio_dropout": (0.3, 0.2, 0.2),
        "vision_dropout": (0.3, 0.2, 0.2),
        "lr_factors": (1e-3, 1e-3, 5e-4),
        "train_text": (False, False, False),
    },
    "mult": {
        "width": (50, 30, 50),
        "num_heads": (10, 6, 10),
        "num_layers": (4, 4, 2),
        "text_kernel": (5, 5, 5),
        "audio_kernel": (5, 1, 1),
        "vision_kernel": (5, 3, 1),
        "text_dropout": (0.5, 0.3, 0.3),
        "attention_dropout": (0.3, 0.4, 0.2),
        "audio_attention_dropout": (0.2, 0.0, 0.1),
        "vision_attention_dropout": (0.0, 0.0, 0.0),
        "relu_dropout": (0.0, 0.0, 0.0),
        "embedding_dropout": (0.2, 0.0, 0.1),
        "residual_dropout": (0.0, 0.0, 0.2),
        "output_dropout": (0.5, 0.5, 0.1),
        "train_text": (False, False, False),
    },
    "iccn": {
        "text_width": (64, 64, 64),
        "sequence_width": (32, 32, 32),
        "out_width": (16, 16, 16),
        "ridge": (1e-3, 1e-3, 1e-3),
        "cca_epochs": (10, 10, 10),
        "cca_batch_size": (128, 128, 128),
        "lr_cca": (1e-3, 1e-3, 1e-3),
        "joint": (False, False, False),
        "joint_weight": (0.1, 0.1, 0.1),
    },
    "misa": {
        "width": (128, 128, 128),
        "dropout": (0.2, 0.5, 0.0),
        "difference_weight": (0.1, 0.3, 0.3),
        "similarity_weight": (0.3, 0.8, 1.0),
        "reconstruction_weight": (1.0, 1.0, 0.8),
        "orthogonal": (False, False, False),
        "freeze_layers": (0, 0, 0),
    },
    "mag-bert": {
        "dropout": (0.3, 0.2, 0.1),
        "beta": (1.0, 1.0, 1.0),
        "head_dropout": (0.1, 0.1, 0.1),
    },
    "self-mm": {
        "audio_hidden": (16, 16, 16),
        "audio_out": (16, 16, 16),
        "vision_hidden": (32, 32, 64),
        "vision_out": (32, 32, 32),
        "fusion_width": (128, 128, 128),
        "text_width": (32, 32, 64),
        "audio_width": (16, 16, 16),
        "vision_width": (32, 32, 32),
        "fusion_dropout": (0.0, 0.1, 0.0),
        "text_dropout": (0.1, 0.0, 0.1),
        "audio_dropout": (0.1, 0.0, 0.1),
        "vision_dropout": (0.0, 0.0, 0.0),
        "lr_audio": (5e-3, 5e-3, 5e-3),
        "lr_vision": (5e-3, 1e-4, 5e-3),
        "decay_audio": (1e-3, 0.0, 1e-2),
        "decay_vision": (1e-3, 0.0, 1e-2),
        "decay_others": (1e-3, 1e-2, 1e-3),
    },
    "hycon": {
        "width": (40, 50, 40),
        "num_heads": (5, 5, 5),
        "num_layers": (3, 3, 3),
        "attention_dropout": (0.5, 0.5, 0.5),
        "dropout": (0.3, 0.3, 0.3),
        "intra_weight": (0.1, 0.1, 0.1),
        "inter_weight": (0.1, 0.1, 0.1),
        "semi_weight": (0.1, 0.1, 0.1),
    },
    "mmim": {
        "audio_hidden": (16, 16, 16),
        "vision_hidden": (16, 16, 16),
        "audio_out": (16, 16, 16),
        "vision_out": (16, 16, 16),
        "fusion_width": (128, 128, 128),
        "dropout": (0.1, 0.1, 0.1),
        "nce_weight": (0.1, 0.1, 0.1),
        "mi_weight": (0.1, 0.1, 0.1),
        "lr_mi": (1e-3, 1e-3, 1e-3),
        "lld_share": (1.0, 0.5, 1.0),
    },
}
"""Every setting of a model's own section; on mosi, mosei, sims."""


@every_baseline
def test_batches_rates_decay_and_clipping_are_those_of_the_sheet(name: str) -> None:
    for dataset, expected, text_rate in zip(DATASETS, OPTIMIZERS[name], TEXT_RATES[name], strict=True):
        own = config_of(name, dataset=dataset).optimizer
        found = (own.batch_size, own.accumulate, own.lr_others, own.weight_decay, own.clip_value, own.clip_norm)
        assert found == expected, dataset
        assert own.lr_encoders == text_rate, dataset


@every_baseline
def test_a_baseline_trains_with_adam_at_constant_rates_until_eight_epochs_bring_nothing(name: str) -> None:
    for dataset in DATASETS:
        own = config_of(name, dataset=dataset).optimizer
        assert (own.algorithm, own.schedule, own.patience, own.num_epochs) == (
            "adamw" if name == "hycon" else "adam",  # the habit of its author
            "constant",
            8,
            100,
        )


@every_baseline
@pytest.mark.parametrize("dataset", ["mosi", "mosei", "sims", "demo", "mine"])
def test_a_baseline_reads_external_data_only_when_asked(name: str, dataset: str) -> None:
    assert config_of(name, dataset=dataset).data.external == "none"
    assert config_of(name, {"data.external": "other"}, dataset).data.external == "other"


@pytest.mark.parametrize("name", MODELS)
def test_ones_own_data_set_gets_every_setting_of_mosi(name: str) -> None:
    mosi, mine = (config_of(name, dataset=dataset) for dataset in ("mosi", "mine"))
    assert replace(mine, data=mosi.data) == mosi


@every_baseline
def test_the_demo_reads_its_own_text_encoder_for_a_few_epochs(name: str) -> None:
    config = config_of(name, dataset="demo")
    assert config.model.text_encoder == config_of(name, dataset="demo-external").model.text_encoder == "demo"
    assert config.optimizer.num_epochs <= 80  # ICCN: 60 of them correlate only


@every_baseline
def test_no_table_of_a_data_set_repeats_what_holds_anyway(name: str) -> None:
    tables = tomllib.loads((PRESETS / f"{name}.toml").read_text(encoding="utf-8"))
    anyway = config_of(name, dataset="mine")
    for dataset in tables.keys() - {"default"}:
        for section, values in tables[dataset].items():
            held = anyway.own if section == name else getattr(anyway, section)
            assert {key for key, value in values.items() if getattr(held, key) == value} == set(), dataset


def test_the_table_of_a_data_set_beats_the_default_table() -> None:
    assert resolve(flags={"model.name": "tfn"}).optimizer.batch_size == 32
    assert resolve(flags={"model.name": "tfn", "data.dataset": "mosei"}).optimizer.batch_size == 128


@every_baseline
@pytest.mark.parametrize("dataset", DATASETS)
def test_every_size_dropout_and_weight_is_that_of_the_sheet(name: str, dataset: str) -> None:
    own = config_of(name, dataset=dataset).own
    assert own is not None
    assert asdict(own) == {key: values[DATASETS.index(dataset)] for key, values in OWN[name].items()}


def test_only_mult_on_mosi_lowers_its_rates_on_a_plateau() -> None:
    found = {
        (name, ds): config_of(name, dataset=ds).optimizer.plateau_patience for name in BASELINES for ds in DATASETS
    }
    assert {key: value for key, value in found.items() if value} == {("mult", "mosi"): 5}


@every_baseline
def test_the_header_of_a_preset_gives_what_was_published_and_the_command(name: str) -> None:
    header = (PRESETS / f"{name}.toml").read_text(encoding="utf-8").partition("\n\n")[0]
    assert "# Published (Tables 2 and 3" in header
    assert f"conki finetune --model {name} --seeds 1..5" in header
    assert all(line.startswith("#") for line in header.splitlines())


@pytest.mark.parametrize(
    ("lines", "short"),
    [
        (["optimizer.num_epochs=10"], "optimizer.num_epochs must be greater, found 10"),
        (["optimizer.num_epochs=20", "iccn.cca_epochs=20"], "optimizer.num_epochs must be greater, found 20"),
        (["data.external=mosei", "pretraining.num_epochs=3"], "pretraining.num_epochs must be greater, found 3"),
    ],
)
def test_iccn_needs_epochs_beyond_those_of_the_correlation(lines: list[str], short: str) -> None:
    with pytest.raises(SettingsError, match=short) as error:
        resolve(assignments=["model.name=iccn", *lines])
    assert "lower iccn.cca_epochs" in str(error.value)
    resolve(
        assignments=[
            "model.name=iccn",
            *(line for line in lines if line.startswith("data.")),
            "iccn.cca_epochs=0",
            "optimizer.num_epochs=1",
        ]
    )


def test_iccn_says_that_few_clips_overstate_a_correlation() -> None:
    own = resolve(assignments=["model.name=iccn", "iccn.cca_batch_size=63"]).own
    assert own is not None
    assert "less than four times iccn.out_width (16)" in own.warnings[0]
    for line in ("iccn.cca_batch_size=64", "iccn.cca_epochs=0"):
        enough = resolve(assignments=["model.name=iccn", line]).own
        assert enough is not None
        assert not enough.warnings

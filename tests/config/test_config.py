"""Settings: where they come from, what they accept, and the switches of Tables 4 and 5."""

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from conki_cli.config.baselines import BASELINE_SECTIONS
from conki_cli.config.declarations import setting_fields, setting_type
from conki_cli.config.resolving import (
    canonical,
    from_toml,
    parse_switches,
    resolve,
    stage_one,
    to_toml,
)
from conki_cli.config.sections import BASELINES, SECTIONS, RunConfig
from conki_cli.config.switches import SWITCHES
from conki_cli.config.words import as_typed, parse_seeds, switch_label
from conki_cli.system.errors import SettingsError


def drop(*switches: str, external: str = "mosei", **model: object) -> RunConfig:
    config = RunConfig().with_values("model", drop=switches, **model).with_values("data", external=external)
    return canonical(config)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "own.toml"


def test_without_any_source_the_defaults_hold() -> None:
    assert resolve() == RunConfig()


def test_the_recipe_preset_beats_the_default() -> None:
    assert resolve().model.gate_norm == "layer"
    assert resolve(flags={"run.recipe": "released"}).model.gate_norm == "batch"


def test_the_data_set_preset_beats_the_recipe_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preset = tmp_path / "config" / "presets" / "conki.toml"
    preset.parent.mkdir(parents=True)
    preset.write_text("[released.loss]\ntemperature = 5\n[sims.loss]\ntemperature = 7\n", encoding="utf-8")
    monkeypatch.setattr("conki_cli.config.resolving.__file__", str(tmp_path / "config" / "resolving.py"))
    flags = {"run.recipe": "released"}
    assert resolve(flags=flags).loss.temperature == 5.0
    assert resolve(flags={**flags, "data.dataset": "sims"}).loss.temperature == 7.0


def test_a_data_set_with_the_name_of_a_recipe_does_not_choose_it() -> None:
    own = resolve(flags={"data.external": "none", "data.dataset": "own"})
    for name in ("released", "paper", "default"):
        assert resolve(flags={"data.external": "none", "data.dataset": name}) == own.with_values("data", dataset=name)


def test_a_name_with_bytes_that_are_not_utf8_is_one_line() -> None:
    with pytest.raises(SettingsError, match=r"setting model\.text_encoder must be text in UTF-8, found '/tmp/\\udcff'"):
        resolve(flags={"model.text_encoder": "/tmp/\udcff"})


def test_the_file_beats_the_data_set_preset(file: Path) -> None:
    file.write_text('[data]\ndataset = "mosei"\n[loss]\ncontrast_weight = 0.5\n', encoding="utf-8")
    config = resolve(config_file=file)
    assert (config.loss.contrast_weight, config.data.external) == (0.5, "mosi")


def test_set_beats_the_file(file: Path) -> None:
    file.write_text("[loss]\ntemperature = 0.5\n", encoding="utf-8")
    assert resolve(config_file=file, assignments=["loss.temperature=0.2"]).loss.temperature == 0.2


def test_a_flag_beats_the_file_and_one_not_given_does_not(file: Path) -> None:
    file.write_text("[optimizer]\nnum_epochs = 3\nbatch_size = 4\n", encoding="utf-8")
    flags = {"optimizer.num_epochs": 9, "optimizer.batch_size": None}
    found = resolve(config_file=file, flags=flags).optimizer
    assert (found.num_epochs, found.batch_size) == (9, 4)


def test_the_data_set_of_a_file_chooses_the_preset(file: Path) -> None:
    file.write_text('[data]\ndataset = "mosei"\n', encoding="utf-8")
    assert resolve(config_file=file).optimizer.lr_others == 5e-5


def test_the_learning_rates_of_stage_2_never_touch_stage_1() -> None:
    changed = resolve(assignments=["optimizer.num_epochs=3", "optimizer.lr_others=0.5", "optimizer.batch_size=2"])
    assert changed.pretraining == RunConfig().pretraining


@pytest.mark.parametrize(
    ("line", "nearest"),
    [("loss.temprature=1", "loss.temperature"), ("optimiser.num_epochs=1", "optimizer.num_epochs")],
)
def test_an_unknown_setting_suggests_the_nearest(line: str, nearest: str) -> None:
    with pytest.raises(SettingsError, match=rf"unknown setting .*did you mean {nearest}\?"):
        resolve(assignments=[line])


def test_a_setting_like_no_other_points_to_the_list() -> None:
    with pytest.raises(SettingsError, match="`conki settings` lists all"):
        resolve(assignments=["zzz=1"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("optimizer.num_epochs=1.5", "must be a whole number, found 1.5"),
        ("optimizer.num_epochs=true", "must be a whole number, found True"),
        ("optimizer.num_epochs=many", "must be a whole number, found 'many'"),
        ("loss.temperature=warm", "must be a number"),
        ("data.cut_external=1", "must be true or false"),
        ("data.dataset=7", "must be a text"),
        ("run.seeds=[1, 2.5]", "must be a list"),
        ("run.seeds=[true]", "must be a list"),
        ("optimizer.num_epochs=0", "must be at least 1"),
        ("loss.temperature=0", "must be greater than 0.0"),
        ("loss.temperature=nan", "must be a finite number"),
        ("loss.contrast_weight=inf", "must be a finite number"),
        ("model.dropout=1", "must be at most 0.95"),
        ("optimizer.warmup=1.1", "must be at most 1.0"),
        ("model.num_layers=1", "must be at least 2"),
        ("model.gate_norm=group", "must be one of layer, batch"),
        ("loss.reduction=mean", "must be one of sample-sum, anchor-mean"),
        ("run.device=TPU 1", "must be auto, cpu, cuda"),
        ("run.recipe=mine", "must be one of paper, released"),
        ("loss.temperature", "takes section.key=value"),
        ("run.seeds=[]", "seeds must be different"),
        ("run.seeds=[1, 1]", "seeds must be different"),
        ("run.seeds=[-1]", "seeds must lie between"),
    ],
)
def test_a_value_a_setting_cannot_have_is_refused_in_one_line(line: str, message: str) -> None:
    with pytest.raises(SettingsError) as error:
        resolve(assignments=[line])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_whole_number_is_also_a_number() -> None:
    value = resolve(assignments=["loss.temperature=1"]).loss.temperature
    assert (type(value), value) == (float, 1.0)


def test_a_bare_word_is_a_text() -> None:
    assert resolve(assignments=["model.text_encoder = roberta-base "]).model.text_encoder == "roberta-base"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[loss\n", "must be TOML but is not"),
        (b"\xff\xfe", "must be TOML but is not"),
        (b"temperature = 1\n", "'temperature' stands outside a section"),
        (b"[loss]\ntemprature = 1\n", "did you mean loss.temperature"),
    ],
    ids=["syntax", "encoding", "no section", "unknown"],
)
def test_a_file_that_is_no_configuration_is_refused_in_one_line(file: Path, content: bytes, message: str) -> None:
    file.write_bytes(content)
    with pytest.raises(SettingsError) as error:
        resolve(config_file=file)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(file: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read the configuration .*own\.toml: No such file"):
        resolve(config_file=file)


@pytest.mark.parametrize("text", ["C4", "C1+C4", "plain-transfer", "C3+T+V"])
def test_switches_are_read_apart(text: str) -> None:
    assert parse_switches(text) == tuple(text.split("+"))


@pytest.mark.parametrize("text", ["C5", "c4", "", "C1+", "C1,C4"])
def test_an_unknown_switch_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(SettingsError, match=r"unknown switch .*C1, C2, C3, C4, handover, N1, T, V, A, plain-transfer"):
        parse_switches(text)


def test_switches_have_one_order_whatever_order_they_are_given_in() -> None:
    assert drop("A", "C4", "C3").model.drop == drop("C3", "A", "C4", "A").model.drop == ("C3", "C4", "A")


def test_no_external_data_is_the_switch_c1() -> None:
    assert drop("C1") == drop(external="none")
    assert (drop("C1").data.external, drop(external="none").model.drop) == ("none", ("C1",))


def test_without_adapters_the_inter_knowledge_pairs_are_gone_already() -> None:
    assert drop("C2", "N1") == drop("C2")


def test_without_adapters_stage_2_still_starts_from_a_stage_1() -> None:
    config = drop("C2")
    assert config.data.external == "mosei"
    assert config.needs_pretraining
    assert drop("C1", "C2") != config


def test_where_nothing_is_handed_over_no_external_data_is_read() -> None:
    assert drop("C2", "handover").data.external == "none"
    assert drop("C2", "handover") == drop("C1", "C2") == drop("C2", external="none")
    assert drop("C1", "handover") == drop("C1")


def test_without_handover_stage_1_is_that_of_conki() -> None:
    assert drop("handover").needs_pretraining
    assert stage_one(drop("handover")) == stage_one(drop())


@pytest.mark.parametrize(
    ("switches", "external", "message"),
    [
        (("C2", "C3"), "mosei", "there is no representation"),
        (("plain-transfer", "C3"), "mosei", "there is no representation"),
        (("T", "V", "A"), "mosei", "there is no modality"),
        (("plain-transfer", "C1"), "mosei", "plain-transfer trains on the external set first"),
        (("plain-transfer",), "none", "plain-transfer trains on the external set first"),
        ((), "mosi", "external data set must differ from the target"),
    ],
)
def test_an_impossible_experiment_is_refused(switches: tuple[str, ...], external: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        drop(*switches, external=external)


def test_plain_transfer_has_no_adapters_whether_c2_is_named_or_not() -> None:
    assert drop("plain-transfer", "C2", "N1") == drop("plain-transfer")
    assert not drop("plain-transfer").has_adapters
    assert drop("plain-transfer").needs_pretraining


_COMBINATIONS = [c for n in range(4) for c in itertools.combinations(SWITCHES, n)]


def test_bringing_into_canonical_form_twice_changes_nothing() -> None:
    for switches in _COMBINATIONS:
        try:
            once = drop(*switches)
        except SettingsError:
            continue
        assert canonical(once) == once


_TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)


def _values(path: str) -> st.SearchStrategy[object]:
    limits, wanted = setting_fields()[path].metadata, setting_type(path)
    if "choices" in limits:
        return st.sampled_from(limits["choices"])
    if "pattern" in limits:
        return st.from_regex(limits["pattern"], fullmatch=True, alphabet=st.characters(codec="ascii"))
    if path == "model.drop":
        return st.lists(st.sampled_from(list(SWITCHES)), max_size=3, unique=True).map(tuple)
    if path == "run.seeds":
        return st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5, unique=True).map(tuple)
    if path == "optimizer.modality_dropout":
        return st.lists(st.floats(0, 0.9), min_size=3, max_size=3).map(tuple)
    if wanted is float:
        low = max(limits.get("low", 0.0), limits.get("above", 0.0))
        numbers = st.floats(low, limits.get("high", 1e9), allow_nan=False, exclude_min="above" in limits)
        return numbers.map(lambda value: value + 0.0)
    whole = st.integers(max(2, limits.get("low", 2)), limits.get("high", 2**40))
    return {int: whole, bool: st.booleans(), str: _TEXTS}[wanted]


@settings(max_examples=8)
@given(st.fixed_dictionaries({path: _values(path) for path in setting_fields()}))
def test_any_configuration_survives_its_toml(values: dict[str, object]) -> None:
    sections: dict[str, dict[str, object]] = {name: {} for name in (*SECTIONS, *BASELINES)}
    for path, value in values.items():
        section, key = path.split(".")
        sections[section][key] = value
    model = str(values["model.name"])
    own = BASELINE_SECTIONS[model](**sections[model]) if model in BASELINES else None
    try:
        config = canonical(RunConfig(**{name: make(**sections[name]) for name, make in SECTIONS.items()}, own=own))
    except SettingsError:
        assume(False)
    assert _through_toml(config) == config


def _through_toml(config: RunConfig) -> RunConfig:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        path.write_text(to_toml(config), encoding="utf-8", newline="")
        return from_toml(path)


@pytest.mark.parametrize("dataset", ["mosi", "mosei", "sims"])
def test_the_resolved_toml_reproduces_the_configuration_with_config(file: Path, dataset: str) -> None:
    flags = {"data.dataset": dataset, "run.recipe": "released", "run.seeds": (3, 1)}
    config = resolve(flags=flags, extra_drop=("V", "C4"))
    file.write_text(to_toml(config), encoding="utf-8")
    assert resolve(config_file=file) == from_toml(file) == config


@pytest.mark.parametrize("switches", [("C4",), ("N1",), ("C4", "N1")])
def test_the_contrasts_ablations_share_the_stage_1_of_conki(switches: tuple[str, ...]) -> None:
    assert stage_one(drop(*switches)) == stage_one(drop())


@pytest.mark.parametrize("switch", ["C3", "T", "V", "A"])
def test_another_network_has_a_stage_1_of_its_own(switch: str) -> None:
    assert stage_one(drop(switch)) != stage_one(drop())
    assert stage_one(drop(switch, "C4")) == stage_one(drop(switch))


def test_stage_1_does_not_depend_on_the_settings_of_stage_2() -> None:
    other = drop().with_values("optimizer", num_epochs=3, lr_others=1.0).with_values("loss", temperature=1.0)
    assert stage_one(other) == stage_one(drop())


def test_stage_1_depends_on_its_own_settings_the_data_and_the_network() -> None:
    for section, values in (
        ("pretraining", {"num_epochs": 3}),
        ("data", {"external": "sims"}),
        ("model", {"adapter_width": 8}),
    ):
        assert stage_one(drop().with_values(section, **values)) != stage_one(drop())


def test_the_first_pass_of_plain_transfer_keeps_the_learning_rates_of_stage_2_but_not_its_epochs() -> None:
    config = drop("plain-transfer").with_values("optimizer", num_epochs=3, lr_others=1.0)
    assert stage_one(config).optimizer.lr_others == 1.0
    assert stage_one(config).optimizer.num_epochs == 200
    assert stage_one(config) == stage_one(config.with_values("optimizer", num_epochs=4))


@pytest.mark.parametrize("config", [drop(), drop("C3"), drop("plain-transfer")], ids=["full", "C3", "plain-transfer"])
def test_the_stage_1_of_a_stage_1_is_itself(config: RunConfig) -> None:
    assert stage_one(stage_one(config)) == stage_one(config)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (("C1", "C4"), "C1+C4"),
        ((0.3,), "0.3"),
        ((0.2, 0.1, 0.0), "[0.2, 0.1, 0.0]"),
        (True, "true"),
        (1e-5, "1e-05"),
        ((), "nothing"),
        ("", "nothing"),
        (None, "nothing"),
    ],
)
def test_the_value_of_a_setting_is_written_as_one_types_it(value: Any, text: str) -> None:
    assert as_typed(value) == text
    paths = {
        "C1+C4": "model.drop",
        "0.3": "optimizer.modality_dropout",
        "[0.2, 0.1, 0.0]": "optimizer.modality_dropout",
    }
    if (path := paths.get(text)) is not None:
        section, _, key = path.partition(".")
        assert getattr(getattr(resolve(assignments=[f"{path}={text}"]), section), key) == value


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", (3,)), ("1..5", (1, 2, 3, 4, 5)), ("7..7", (7,)), ("1,4,9", (1, 4, 9)), ("0", (0,))]
)
def test_seeds_are_one_several_or_a_range(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text", ["", "a", "1..", "..3", "5..1", "1-5", "1..2..3", "1,,2", "1.5", "1..99999999999999999"]
)
def test_anything_else_is_refused_as_seeds(text: str) -> None:
    with pytest.raises(SettingsError, match=r"seeds are written 3, 1\.\.5 or 1,4,9"):
        parse_seeds(text)


@pytest.mark.parametrize(
    ("switches", "label"),
    [
        ((), "ConKI"),
        (("C1", "C4"), "w/o C1+C4"),
        (("plain-transfer",), "plain transfer"),
        (("A", "plain-transfer"), "plain transfer, w/o A"),
    ],
)
def test_a_row_of_an_ablation_is_named_by_what_it_lacks(switches: tuple[str, ...], label: str) -> None:
    assert switch_label(switches) == label


def test_every_setting_has_a_help_line_and_a_default_it_accepts() -> None:
    for path, field in setting_fields().items():
        assert len(field.metadata["help"].split()) >= 2, path
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        model = path.partition(".")[0]
        assert resolve(flags={path: default, **({"model.name": model} if model in BASELINES else {})}), path


def test_every_section_says_what_it_is_for() -> None:
    for name, section in SECTIONS.items():
        # A dataclass without a docstring gets its signature as one.
        assert section.__doc__, name
        assert not section.__doc__.startswith(section.__name__ + "("), name


def test_configurations_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().data.dataset = "sims"  # type: ignore[misc]


# --- settings that a model does not read -----------------------------------------------------------------------

UNREAD = ("loss.contrast_weight=0.1", "model.adapter_width=64", "model.start_from=all", "optimizer.lr_audio_vision=0.1")


@pytest.mark.parametrize("model", BASELINES)
@pytest.mark.parametrize("line", [*UNREAD, "run.recipe=released"])
def test_a_setting_that_only_conki_reads_is_refused_for_a_baseline(line: str, model: str) -> None:
    path = line.partition("=")[0]
    with pytest.raises(SettingsError, match=rf"^setting {path} is read by conki alone and has no effect on {model}: "):
        resolve(assignments=[line], flags={"model.name": model})
    assert line == "model.start_from=all" or resolve(assignments=[line]) != resolve()


@pytest.mark.parametrize(("value", "switches"), [("adapters", ("handover", "V")), ("all", ("V",))])
def test_the_setting_that_version_1_had_for_the_handover_is_still_read(
    value: str, switches: tuple[str, ...], file: Path
) -> None:
    file.write_text(f'[model]\nstart_from = "{value}"\ndrop = ["V"]\n')
    assert resolve(config_file=file).model.drop == switches
    assert resolve(assignments=["model.drop=V", f"model.start_from={value}"]).model.drop == switches
    file.write_text('[model]\ndrop = ["V"]\n')
    assert resolve(config_file=file, assignments=[f"model.start_from={value}"]).model.drop == switches
    with pytest.raises(SettingsError, match=r"--drop and model\.start_from say the same"):
        resolve(assignments=[f"model.start_from={value}"], flags={"model.drop": "V"})


def test_another_value_of_the_setting_for_the_handover_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"model\.start_from must be one of adapters, all, found 'some'"):
        resolve(assignments=["model.start_from=some"])


def test_plain_transfers_first_pass_has_rates_of_its_own() -> None:
    lines = ["pretraining.lr_encoders=1e-4", "pretraining.lr_others=1e-3", "optimizer.lr_audio_vision=2e-5"]
    config = resolve(assignments=lines, extra_drop=("plain-transfer",))
    first = stage_one(config).optimizer
    assert (first.lr_encoders, first.lr_audio_vision, first.lr_others) == (1e-4, 0.0, 1e-3)
    assert (config.optimizer.lr_encoders, config.optimizer.lr_others) == (5e-6, 1e-6)
    assert stage_one(resolve(extra_drop=("plain-transfer",))).optimizer.lr_encoders == 5e-6


def test_the_released_recipe_is_refused_for_a_baseline_and_that_of_the_paper_is_not() -> None:
    with pytest.raises(SettingsError, match=r"setting run\.recipe is read by conki alone"):
        resolve(flags={"model.name": "tfn", "run.recipe": "released"})
    assert resolve(flags={"model.name": "tfn", "run.recipe": "paper"}) == resolve(flags={"model.name": "tfn"})


def test_a_file_may_hold_what_a_baseline_does_not_read_and_the_experiment_stays_the_same(file: Path) -> None:
    flags = {"model.name": "misa", "data.external": "mosei"}
    file.write_text(
        '[loss]\ntemperature = 0.5\n[model]\ndropout = 0.1\n[run]\nrecipe = "released"\n'
        "[pretraining]\nbatch_size = 7\nlearning_rate = 0.5\n[optimizer]\nlr_audio_vision = 1.0\n",
        encoding="utf-8",
    )
    assert resolve(config_file=file, flags=flags) == resolve(flags=flags)


def test_what_a_baseline_reads_stays() -> None:
    lines = ["model.text_encoder=x", "model.drop=V", "optimizer.lr_others=0.5", "pretraining.num_epochs=3"]
    config = resolve(assignments=[*lines, "model.name=mag-bert"], flags={"data.external": "mosei"})
    assert (config.model.text_encoder, config.model.drop) == ("x", ("V",))
    assert (config.optimizer.lr_others, config.pretraining.num_epochs) == (0.5, 3)


@pytest.mark.parametrize(
    ("model", "line", "highest"),
    [
        ("tfn", "tfn.text_hidden=99999999999", 65536),
        ("lmf", "lmf.rank=65537", 65536),
        ("mult", "mult.num_layers=513", 512),
        ("misa", "misa.freeze_layers=513", 512),
        ("conki", "model.adapter_width=65537", 65536),
        ("conki", "model.num_layers=513", 512),
        ("conki", "optimizer.num_epochs=99999999999", 100000),
    ],
)
def test_sizes_have_an_upper_bound(model: str, line: str, highest: int) -> None:
    with pytest.raises(SettingsError, match=f"must be at most {highest}, found"):
        resolve(assignments=[line], flags={"model.name": model})


@pytest.mark.parametrize(
    "line",
    ["loss.temperature=" + "9" * 400, "loss.temperature=0x" + "f" * 9000, "optimizer.num_epochs=0x" + "f" * 9000],
    ids=["beyond float", "beyond text", "whole"],
)
def test_numbers_that_python_cannot_hold_or_write_are_one_line(line: str) -> None:
    with pytest.raises(SettingsError, match="must be ") as error:
        resolve(assignments=[line])
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("text", ["a = " + "9" * 5000, "a = " + "[" * 5000], ids=["digits", "brackets"])
def test_settings_files_that_no_parser_takes_are_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "odd.toml").write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"odd\.toml"):
        resolve(config_file=tmp_path / "odd.toml")


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("optimizer.lr", ["optimizer.lr_others", "optimizer.lr_encoders"]),
        ("optimizer.learning_rate", ["optimizer.lr_others", "optimizer.lr_encoders"]),
        ("lr", ["optimizer.lr_others", "optimizer.lr_encoders"]),
        ("optimizer.epochs", ["optimizer.num_epochs"]),
        ("loss.temperatur", ["loss.temperature"]),
    ],
)
def test_an_unknown_setting_names_those_that_may_be_meant(path: str, meant: list[str]) -> None:
    with pytest.raises(SettingsError, match="did you mean") as error:
        resolve(assignments=[f"{path}=1"])
    assert all(name in str(error.value) for name in meant)


@pytest.mark.parametrize("word", ["cpu", "cuda:1", "mps", "xpu", "hpu:0"])
def test_a_device_is_a_word_of_torch(word: str) -> None:
    assert resolve(flags={"run.device": word}).run.device == word


@pytest.mark.parametrize("word", ["", "cuda:", "GPU 1", "cpu; rm"])
def test_a_device_of_another_form_is_refused_without_torch(word: str) -> None:
    with pytest.raises(SettingsError, match=r"run\.device must be auto, cpu, cuda, cuda:1, mps, xpu or another"):
        resolve(flags={"run.device": word})


# --- modality dropout --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shares"),
    [("0.3", (0.3,)), ("[0.2, 0.2, 0.2]", (0.2,)), ("[0, 0.1, 0.5]", (0.0, 0.1, 0.5)), ("0", ()), ("[]", ())],
)
def test_a_share_of_modality_dropout_has_one_spelling(text: str, shares: tuple[float, ...]) -> None:
    config = resolve(assignments=[f"optimizer.modality_dropout={text}"])
    assert config.optimizer.modality_dropout == shares
    assert stage_one(config).optimizer.modality_dropout == shares


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[0.1, 0.2]", "must be one number, or one each for text, vision, audio, found 2 numbers"),
        ("0.95", "must be at most 0.9"),
        ("[0.1, -0.1, 0]", "must be at least 0.0"),
        ("often", "must be a number or a list of numbers"),
        ("[true, 0, 0]", "must be a number or a list of numbers"),
    ],
)
def test_another_modality_dropout_is_refused(text: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(reason)):
        resolve(assignments=[f"optimizer.modality_dropout={text}"])


def test_modality_dropout_goes_to_a_file_and_back(file: Path) -> None:
    config = resolve(assignments=["optimizer.modality_dropout=[0.1, 0, 0.5]"])
    file.write_text(to_toml(config), encoding="utf-8")
    assert from_toml(file) == config

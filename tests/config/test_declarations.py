"""What follows from the declarations of the settings: digests of older runs, stage 1, the models, contradictions."""

from typing import Any

import pytest

from conki_cli.config.declarations import added_later, flagged, never_learnt, read_by, setting_fields
from conki_cli.config.resolving import resolve, stage_one
from conki_cli.config.setting import FIRST_VERSION
from conki_cli.runs import digest_of
from conki_cli.system.errors import SettingsError


def another(path: str) -> Any:
    """Return a value of a setting that is not its default."""
    field = setting_fields()[path]
    if choices := field.metadata.get("choices"):
        return next(choice for choice in choices if choice != field.default)
    if field.default == ():
        return 0.5
    return not field.default if isinstance(field.default, bool) else field.default * 2 or 1


def test_what_version_1_had_is_written_down_as_such() -> None:
    later = {path for path in added_later() if path.startswith("optimizer.")}
    names = "algorithm schedule accumulate clip_value clip_norm plateau_patience lr_adapters modality_dropout"
    assert later == {f"optimizer.{name}" for name in names.split()}
    assert {"compute.bucket", "iccn.joint", "pretraining.lr_encoders", "optimizer.lr_adapters"} <= added_later().keys()


@pytest.mark.parametrize("path", sorted(path for path in added_later() if path.partition(".")[0] != "iccn"))
def test_a_later_setting_changes_the_digest_only_away_from_its_default(path: str) -> None:
    default = setting_fields()[path].default
    if default is not None and path != "pretraining.lr_audio_vision":
        names = {"model.text_encoder": "demo", path: default}
        assert digest_of(resolve(flags=names)) == digest_of(resolve(flags={"model.text_encoder": "demo"}))
    assert setting_fields()[path].metadata["since"] != FIRST_VERSION


_OF_STAGE_2 = read_by("stage 2") - read_by("adapters") - {"run.name"}
_IN_PLACE_OF_STAGE_1 = {"model.adapters", "model.adapters_checksum"}


@pytest.mark.parametrize("path", sorted(_OF_STAGE_2 - _IN_PLACE_OF_STAGE_1))
def test_what_stage_1_does_not_read_leaves_its_digest(path: str) -> None:
    base = {"model.text_encoder": "demo"}
    changed = resolve(flags={**base, path: another(path)})
    assert changed != resolve(flags=base)
    assert digest_of(stage_one(changed)) == digest_of(stage_one(resolve(flags=base)))


@pytest.mark.parametrize("path", ["compute.precision", "model.num_layers", "pretraining.batch_size"])
def test_what_stage_1_reads_changes_its_digest(path: str) -> None:
    base = {"model.text_encoder": "demo"}
    assert digest_of(stage_one(resolve(flags={**base, path: another(path)}))) != digest_of(
        stage_one(resolve(flags=base))
    )


def test_how_a_run_is_computed_never_changes_its_digest() -> None:
    how = {"run.cache": "off", "run.compile": True, "run.checkpoint_every": 3, "data.threshold": 0.5}
    assert how.keys() <= never_learnt()
    base = {"model.text_encoder": "demo"}
    assert digest_of(resolve(flags={**base, **how})) == digest_of(resolve(flags=base))


def test_no_option_stands_for_two_settings_but_the_epochs_of_the_two_stages() -> None:
    flags = [field.metadata["flag"] for field in flagged().values()]
    assert {flag for flag in flags if flags.count(flag) > 1} == {"--epochs"}


@pytest.mark.parametrize("line", ["optimizer.lr_adapters=1", "loss.temperature=1", "run.recipe=released"])
def test_a_baseline_refuses_what_conki_alone_reads(line: str) -> None:
    with pytest.raises(SettingsError, match=r"is read by conki alone and has no effect on tfn"):
        resolve(assignments=[line], flags={"model.name": "tfn"})


def test_a_flag_and_a_set_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"one value, found 9 by --epochs and 3 by --set: leave out one of them"):
        resolve(assignments=["optimizer.num_epochs=3"], flags={"optimizer.num_epochs": 9})
    agreed = resolve(assignments=["optimizer.num_epochs=9"], flags={"optimizer.num_epochs": 9})
    assert agreed.optimizer.num_epochs == 9


def test_two_values_of_one_setting_by_set_are_refused_and_one_value_twice_is_not() -> None:
    with pytest.raises(
        SettingsError, match=r"temperature must have one value, found 0\.1 and 0\.2 by --set: leave out"
    ):
        resolve(assignments=["loss.temperature=0.1", "optimizer.batch_size=8", "loss.temperature=0.2"])
    assert resolve(assignments=["loss.temperature=1", "loss.temperature=1.0"]).loss.temperature == 1.0

"""The models by name: found, described, refused."""

import subprocess
import sys
from pathlib import Path

import pytest
from baseline_support import MOSI, config_of, make

from conki_cli.config.models import facts, file_of
from conki_cli.config.resolving import resolve
from conki_cli.config.sections import BASELINES, MODELS
from conki_cli.model import zoo
from conki_cli.model.contract import Architecture, SentimentModel
from conki_cli.system.errors import SettingsError


def test_the_zoo_has_the_models_that_settings_know() -> None:
    assert list(zoo.MODELS) == list(MODELS) == ["conki", *BASELINES]


@pytest.mark.parametrize("name", zoo.MODELS)
def test_every_name_leads_to_a_model_of_its_own(name: str) -> None:
    found = zoo.model_class(name)
    assert issubclass(found, SentimentModel)
    assert found.__name__.lower() == name.replace("-", "")


@pytest.mark.parametrize("name", zoo.MODELS)
def test_every_model_says_where_it_comes_from_in_single_lines(name: str) -> None:
    known = facts(name)
    assert 2017 <= known.year <= 2023
    for text in (known.title, known.authors, known.venue, known.idea, known.pinned, known.ours):
        assert text
        assert text == " ".join(text.split())


def test_a_mistyped_model_is_named_with_the_nearest_one() -> None:
    for ask in (zoo.model_class, facts):
        with pytest.raises(SettingsError, match=r"^unknown model 'magbert': did you mean mag-bert\?$"):
            ask("magbert")
        with pytest.raises(SettingsError, match=r"^unknown model '': known are conki, tfn, .*, mmim$"):
            ask("")


def test_every_modality_that_is_missing_is_named() -> None:
    with pytest.raises(SettingsError) as caught:
        zoo.build(config_of("tfn"), Architecture(("text",), 16, 4), None)
    assert str(caught.value) == (
        "tfn needs vision and audio, but this run has only text: do not drop V, A, prepare a store that has them, "
        "or choose another --model"
    )


def test_a_network_without_a_text_encoder_can_be_counted() -> None:
    assert sum(p.numel() for p in make("tfn", dims=MOSI).parameters()) == 9_497_043


def test_a_list_of_the_models_loads_no_torch() -> None:
    program = (
        "import sys; from conki_cli.config.models import facts; from conki_cli.model.zoo import MODELS; "
        "[facts(n) for n in MODELS]; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(("typed", "meant"), [("mag-brt", "mag-bert"), ("Self-MM", "self-mm"), ("TFM", "tfn")])
def test_a_mistyped_model_is_answered_alike_wherever_it_is_named(typed: str, meant: str) -> None:
    said = rf"^unknown model '{typed}': did you mean {meant}\?$"
    with pytest.raises(SettingsError, match=said):
        facts(typed)
    for source in ({"flags": {"model.name": typed}}, {"assignments": [f"model.name={typed}"]}):
        with pytest.raises(SettingsError, match=said):
            resolve(**source)


@pytest.mark.parametrize("name", zoo.MODELS)
def test_what_is_known_of_a_model_stands_in_the_file_of_its_class(name: str) -> None:
    assert sys.modules[zoo.model_class(name).__module__].FACTS["label"] == facts(name).label
    assert file_of(name) == Path(sys.modules[zoo.model_class(name).__module__].__file__ or "")

"""Pretrained encoders on sound and faces: tiny models that are made on the spot."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="needs the extra: pip install 'conki[video]'")

from face_support import installed_face_reader
from media_support import tone, write_media

from conki_cli.data.extraction.cache import Clip, Extraction, extract_clips
from conki_cli.data.extraction.encoders import ENCODER_VERSION, FaceEncoder, SoundEncoder, split_name
from conki_cli.data.extraction.face_columns import FACE_VERSION
from conki_cli.data.extraction.landmarks import Region
from conki_cli.data.extraction.recipe import Recipe, provenance_of
from conki_cli.system.errors import ConkiError


def save_hubert(folder: Path, **settings: tuple[int, ...]) -> Path:
    import torch
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    torch.manual_seed(1)
    config = HubertConfig(
        hidden_size=8, num_hidden_layers=5, num_attention_heads=2, intermediate_size=8, conv_dim=(8,) * 7,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, **settings,
    )  # fmt: skip
    HubertModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def hubert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_hubert(tmp_path_factory.mktemp("hubert"))


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(1)
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=5, num_attention_heads=2, intermediate_size=8, image_size=32, patch_size=16
    )
    ViTModel(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_sound_becomes_50_frames_a_second_of_the_last_four_layers(hubert: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModel

    signal = tone(1.0).astype(np.float32)
    signal.tofile(tmp_path / "sound")
    (found,) = SoundEncoder(str(hubert)).features(tmp_path / "sound", lambda seconds: None)
    normal = torch.from_numpy((signal - signal.mean()) / np.sqrt(signal.var() + 1e-7))[None]
    with torch.inference_mode():
        states = AutoModel.from_pretrained(hubert).eval()(normal, output_hidden_states=True).hidden_states
    expected = (states[-1] + states[-2] + states[-3] + states[-4])[0].numpy() / 4
    assert found.shape == (50, 8)
    assert found[: len(expected)] == pytest.approx(expected, abs=1e-4)


def test_one_layer_can_be_chosen_and_must_be_there(hubert: Path, tmp_path: Path) -> None:
    tone(0.5).astype(np.float32).tofile(tmp_path / "sound")
    one, two = (
        next(SoundEncoder(f"{hubert}#{layer}").features(tmp_path / "sound", lambda seconds: None)) for layer in (1, 5)
    )
    assert np.abs(one - two).max() > 1e-3
    assert split_name("a/b#9") == ("a/b", 9)
    with pytest.raises(ConkiError, match="layers 0 to 5"):
        next(SoundEncoder(f"{hubert}#6").features(tmp_path / "sound", lambda seconds: None))
    with pytest.raises(ConkiError, match="number of a layer"):
        split_name("a/b#last")


def test_an_encoder_of_sound_extracts_clips_and_is_noted(hubert: Path, tmp_path: Path) -> None:
    clip = Clip("a", write_media(tmp_path / "a.wav", sound=tone(0.5)))
    extraction = Extraction(tmp_path / "cache", Recipe(str(hubert), "none"), 1)
    done, failures = extract_clips([clip], extraction)
    assert (failures, done[0].result["audio_frames"]) == ([], 25)
    note = extraction.provenance()["audio"]
    assert (note["extractor"], note["rate"], len(note["columns"])) == (str(hubert), 50.0, 8)


def test_rows_without_a_face_are_zeros_and_the_last_column_says_so(vit: Path) -> None:
    picture = np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    told: list[float] = []
    rows = FaceEncoder(str(vit)).rows(iter([(picture, Region(32, 32, 40)), (picture, None)]), 2, told.append)
    assert rows.shape == (2, 9)
    assert (rows[0, -1], np.abs(rows[0, :-1]).min() > 0) == (1.0, True)
    assert not rows[1].any()
    assert len(told) > 5  # a sign of life per layer
    assert not any(told)


def test_a_face_that_stays_the_same_is_encoded_once(vit: Path) -> None:
    encoder, told = FaceEncoder(str(vit)), list[float]()
    one, other = (np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8) for seed in (1, 2))
    place = Region(32, 32, 40)
    encoder.rows(iter([(one, place), (other, place)]), 2, told.append)
    count = len(told)
    pictures = [(one, place), (one, Region(32, 32, 40)), (one, None), (one, place), (other, place)]
    rows = encoder.rows(iter(pictures), 5, told.append)
    assert len(told) == 2 * count  # two pictures in one batch, again
    assert [np.array_equal(rows[0], row) for row in rows] == [True, True, False, True, False]


def test_the_note_of_an_encoder_names_our_versions_and_its_libraries(hubert: Path, vit: Path) -> None:
    found = provenance_of(Recipe(str(hubert), "none"))
    assert found["audio"]["version"] == ENCODER_VERSION
    assert {"torch", "transformers"} <= set(found["libraries"])
    assert not {"torch", "transformers"} & set(provenance_of(Recipe(vision="none"))["libraries"])


@pytest.mark.parametrize(("last_stride", "count"), [(1, 98), (4, 25)])
def test_an_encoder_of_another_rate_is_refused(tmp_path: Path, last_stride: int, count: int) -> None:
    save_hubert(tmp_path, conv_stride=(5, 2, 2, 2, 2, 2, last_stride))
    tone(1.0).astype(np.float32).tofile(tmp_path / "sound")
    with pytest.raises(ConkiError, match=rf"must give 50 frames a second, .*, found {count} in 1 s: name another"):
        next(SoundEncoder(str(tmp_path)).features(tmp_path / "sound", lambda seconds: None))


def test_the_note_of_an_encoder_of_faces_names_the_version_of_the_mesh(vit: Path) -> None:
    installed_face_reader()
    found = provenance_of(Recipe("none", str(vit)))["vision"]
    assert (found["version"], found["face_version"]) == (ENCODER_VERSION, FACE_VERSION)


def test_a_folder_that_is_no_encoder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConkiError, match=r"config\.json|cannot be loaded|no folder|must"):
        Extraction(tmp_path, Recipe(str(tmp_path), "none")).provenance()

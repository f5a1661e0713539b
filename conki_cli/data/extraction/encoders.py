"""Features of pretrained encoders through transformers, instead of covarep and mesh.

Sound: wav2vec 2.0, HuBERT, WavLM and the like, and Whisper's encoder; 50 frames a second. Faces: CLIP, SigLIP, DINOv2
or any vision transformer on the crop of the face that the mesh finds, one vector a row; a row without a face is zeros.
The last column of vision says whether there is a face. A frame is the mean of the last four layers, or one layer:
`NAME_OR_PATH#LAYER`.

Axes: N samples, T frames or rows, d features, K tokens of a picture.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli.data.extraction.decode import Picture
from conki_cli.data.extraction.landmarks import Region
from conki_cli.data.extraction.libraries import library
from conki_cli.data.extraction.pitch import RATE
from conki_cli.data.extraction.signs_of_life import SignsOfLife
from conki_cli.system.errors import EncoderError, reason_of
from conki_cli.text.folders import ModelKind, fingerprint, hub_folder, local_folder, quiet

ENCODER_VERSION = 1
"""Raised whenever a number that comes out changes; notes from before there was one have none."""
ENCODER_RATE = 50.0
"""Frames of sound per second."""

_KINDS = {
    "audio": ModelKind("encoder of sound", "--audio-features", "AutoModel"),
    "vision": ModelKind("encoder of pictures", "--vision-features", "AutoModel"),
}
_FILES = ["*.json", "*.safetensors"]
_HOP = int(RATE / ENCODER_RATE)  # samples
_PIECE, _MARGIN = 20, 2  # seconds that are encoded together, and of context on either side
_MOST_MISSING = 2  # frames that an encoder may give more or less, because of its window
_LAST = 4  # layers whose mean a frame is
_BATCH = 16  # pictures that are encoded together

Rows = npt.NDArray[np.float32]


def split_name(name: str) -> tuple[str, int | None]:
    """Split `NAME_OR_PATH#LAYER`; None: the mean of the last four layers.

    Raises:
        EncoderError: the layer is not a number.
    """
    model, sign, layer = name.partition("#")
    if not sign:
        return model, None
    if not layer.isdigit():
        raise EncoderError(
            f"what stands behind # must be the number of a layer, found {layer[:40]!r}: such as {model}#9"
        )
    return model, int(layer)


def encoder_folder(name: str, modality: str) -> Path:
    """Return the folder of an encoder.

    Raises:
        EncoderError: it is neither a folder nor a name that can be fetched.
    """
    model, kind = split_name(name)[0], _KINDS[modality]
    return local_folder(model, kind) or hub_folder(model, (("config.json",), ("*.safetensors",)), _FILES, kind)


def encoder_note(name: str, modality: str, rate: float | str) -> dict[str, Any]:
    """Return the note of an encoder: its name, what tells its content from others, layer, rate and columns."""
    folder = encoder_folder(name, modality)
    layer = split_name(name)[1]
    columns = [f"h{number}" for number in range(_width_of(folder))]
    return {
        "extractor": name,
        "version": ENCODER_VERSION,
        "content": fingerprint(folder, _KINDS[modality]),
        "layer": "mean of the last 4" if layer is None else layer,
        "rate": rate,
        "columns": [*columns, "face_present"] if modality == "vision" else columns,
    }


def _width_of(folder: Path) -> int:
    from transformers import AutoConfig

    try:
        with quiet():
            config: Any = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        config = getattr(config, "vision_config", None) or config
        return int(getattr(config, "hidden_size", 0) or config.d_model)
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise EncoderError(
            f"{folder} must be an encoder with a config.json ({reason_of(error)})", advice="name another"
        ) from error


class _Encoder:
    """A loaded model without gradients, on one thread."""

    def __init__(self, name: str, modality: str) -> None:
        import torch
        from transformers import AutoModel

        torch.set_num_threads(1)
        self._name, self._layer = name, split_name(name)[1]
        self._folder = encoder_folder(name, modality)
        try:
            with quiet():
                model: Any = AutoModel.from_pretrained(str(self._folder), local_files_only=True, use_safetensors=True)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise EncoderError(f"{name} cannot be loaded ({reason_of(error)})", advice="name another") from error
        self._is_whisper = model.config.model_type == "whisper"
        part = model.get_encoder() if self._is_whisper else getattr(model, "vision_model", model)
        self._model = part.eval()
        self._signs = SignsOfLife(self._model)

    def _hidden(self, **given: Any) -> Any:
        """Return the chosen layer, [batch, T, d]."""
        import torch

        with torch.inference_mode():
            states = self._model(**given, output_hidden_states=True).hidden_states
        if self._layer is None:
            return torch.stack(states[-_LAST:]).mean(dim=0)
        if self._layer >= len(states):
            raise EncoderError(f"{self._name}: the model has the layers 0 to {len(states) - 1}")
        return states[self._layer]

    def _processor(self, kind: str) -> Any:
        import transformers

        try:
            with quiet():
                return getattr(transformers, kind).from_pretrained(str(self._folder), local_files_only=True)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise EncoderError(
                f"{self._name} must have its preprocessor_config.json ({reason_of(error)})",
                advice="get the folder whole",
            ) from error


class SoundEncoder(_Encoder):
    """Sound in a file -> frames."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "audio")
        self._extractor = self._processor("AutoFeatureExtractor")

    def num_frames(self, num_samples: int) -> int:
        """Return T; what is shorter than a frame's window has none."""
        return num_samples // _HOP if num_samples >= 4 * _HOP else 0

    def features(self, path: Path, progress: Callable[[float], None]) -> Iterator[Rows]:
        """Yield the frames of a file of float32 samples at 16 kHz, piece by piece, [T, d] together."""
        num_samples = path.stat().st_size // 4
        total = self.num_frames(num_samples)
        step, margin = _PIECE * int(ENCODER_RATE), _MARGIN * int(ENCODER_RATE)
        for start in range(0, total, step):
            stop = min(start + step, total)
            first, last = max(0, start - margin), min(total, stop + margin)
            signal = np.fromfile(path, dtype="=f4", count=(last - first) * _HOP, offset=4 * first * _HOP)
            with self._signs.told_to(progress):
                frames = self._encoded(signal, last - first)
            yield frames[start - first : stop - first]
            progress((stop - start) / ENCODER_RATE)

    def _encoded(self, signal: npt.NDArray[np.float32], count: int) -> Rows:
        """Encode a stretch of sound, [count, d]; an encoder that gives a frame or two less repeats its last one.

        Raises:
            EncoderError: it gives another number of frames, so they would lie at wrong times.
        """
        given = self._extractor(signal, sampling_rate=RATE, return_tensors="pt")
        key = "input_features" if self._is_whisper else "input_values"
        hidden = np.asarray(self._hidden(**{key: given[key]})[0].numpy(), dtype=np.float32)
        if self._is_whisper:
            hidden = hidden[:count]  # it fills up every stretch to 30 seconds
        missing = count - len(hidden)
        if abs(missing) > _MOST_MISSING:
            raise EncoderError(
                f"{self._name} must give {ENCODER_RATE:.0f} frames a second, as wav2vec 2.0, HuBERT, WavLM and Whisper "
                f"do, found {len(hidden)} in {len(signal) / RATE:g} s",
                advice="name another",
            )
        return np.concatenate([hidden[:count], np.repeat(hidden[-1:], max(0, missing), axis=0)])


class FaceEncoder(_Encoder):
    """Crops of faces -> rows."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "vision")
        self._processor_ = self._processor("AutoImageProcessor")
        self._width = _width_of(self._folder) + 1

    def rows(
        self, pictures: Iterator[tuple[Picture, Region | None]], count: int, progress: Callable[[float], None]
    ) -> Rows:
        """Encode the face of every row, [T, d + 1]; the same picture and place in a row are encoded once."""
        rows = np.zeros((count, self._width), dtype=np.float32)
        waiting: list[tuple[int, Any]] = []
        same = np.arange(count)  # the row that has the vector of each
        last: tuple[Picture, Region, int] | None = None
        with self._signs.told_to(progress):
            for number, (picture, region) in zip(range(count), pictures, strict=False):
                if region is None:
                    continue
                if last is not None and last[0] is picture and last[1] == region:
                    same[number] = last[2]
                    continue
                last = picture, region, number
                waiting.append((number, _crop(picture, region)))
                if len(waiting) == _BATCH:
                    self._fill(rows, waiting)
                    waiting = []
            self._fill(rows, waiting)
        for row in np.flatnonzero(same != np.arange(count)):
            rows[row] = rows[same[row]]
        return rows

    def _fill(self, rows: Rows, waiting: list[tuple[int, Any]]) -> None:
        if not waiting:
            return
        given = self._processor_([crop for _, crop in waiting], return_tensors="pt")
        hidden = self._hidden(pixel_values=given["pixel_values"])  # [batch, K, d]
        for (number, _), vector in zip(waiting, hidden.mean(dim=1).numpy(), strict=True):
            rows[number, :-1], rows[number, -1] = vector, 1.0


def _crop(picture: Picture, region: Region) -> Any:
    """Return the upright crop of a face as a Pillow image."""
    image = library("PIL.Image")
    size = 224
    origin, right, down = region.points(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    (a, d), (b, e), (c, f) = (right - origin) / size, (down - origin) / size, origin
    method = image.Transform.AFFINE
    whole = image.fromarray(picture)
    return whole.transform((size, size), method, (a, b, c, d, e, f), resample=image.Resampling.BILINEAR)

"""What is said: a Whisper-type model through transformers, with the time of every word.

Sound is cut into windows of at most 30 seconds, each at the quietest place of its last seconds, so memory does not grow
with the length of a clip and few words are cut.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conki_cli.data.extraction.pitch import RATE
from conki_cli.data.extraction.signs_of_life import SignsOfLife
from conki_cli.system.errors import EncoderError, reason_of
from conki_cli.text.folders import ModelKind, fingerprint, hub_folder, local_folder, quiet

WORDS_VERSION = 1
"""Raised whenever other words or times come out; notes from before there was one have none."""
KIND = ModelKind("speech recognition model", "--transcribe", "AutoModelForSpeechSeq2Seq")

_WINDOW, _SEARCH, _STEP = 30 * RATE, 5 * RATE, RATE // 20
_FILES = ["*.json", "*.txt", "*.safetensors"]


@dataclass(frozen=True)
class Word:
    """A word and its time in the clip, in seconds; nan where the model does not tell."""

    text: str
    start: float
    stop: float


def model_folder(name_or_path: str) -> Path:
    """Return the folder of a model for speech.

    Raises:
        EncoderError: it is neither a folder nor a name that can be fetched.
    """
    return local_folder(name_or_path, KIND) or hub_folder(
        name_or_path, (("config.json",), ("*.safetensors",)), _FILES, KIND
    )


def transcriber_note(name_or_path: str) -> dict[str, Any]:
    """Return the note of a model: its name, our version, and what tells its content from others."""
    return {"model": name_or_path, "version": WORDS_VERSION, "content": fingerprint(model_folder(name_or_path), KIND)}


class Transcriber:
    """A loaded model."""

    def __init__(self, name_or_path: str) -> None:
        import torch
        from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor, pipeline

        torch.set_num_threads(1)
        folder = str(model_folder(name_or_path))
        try:
            with quiet():
                processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
                model = AutoModelForSpeechSeq2Seq.from_pretrained(folder, local_files_only=True, use_safetensors=True)
                self._recognise = pipeline(
                    "automatic-speech-recognition",
                    model=model.eval(),
                    tokenizer=processor.tokenizer,
                    feature_extractor=processor.feature_extractor,
                    device="cpu",
                )
        except (OSError, ValueError, ImportError, AttributeError, KeyError) as error:
            raise EncoderError(
                f"{name_or_path} must be a Whisper-type model with its processor ({reason_of(error)})",
                advice="name another",
            ) from error
        self._signs = SignsOfLife(model)
        self._times = "word" if getattr(model.generation_config, "alignment_heads", None) else None

    def words_of(self, path: Path, progress: Callable[[float], None]) -> list[Word]:
        """Return the words in a file of float32 samples at 16 kHz."""
        found: list[Word] = []
        start, size = 0, path.stat().st_size // 4
        while start < size:
            window = np.fromfile(path, dtype="=f4", count=_WINDOW, offset=4 * start)
            if len(window) == _WINDOW:
                window = window[: quietest(window)]
            if len(window) >= RATE // 10 and np.abs(window).max() > 0:
                with self._signs.told_to(progress):
                    found += self._words(window, start / RATE)
            start += len(window)
            progress(len(window) / RATE)
        return found

    def _words(self, window: npt.NDArray[np.float32], offset: float) -> list[Word]:
        given = {"raw": window, "sampling_rate": RATE}
        with quiet():
            answer = self._recognise(given, **({"return_timestamps": self._times} if self._times else {}))
        if not self._times:
            return [Word(word, float("nan"), float("nan")) for word in answer["text"].split()]
        words, length = [], len(window) / RATE
        for chunk in answer.get("chunks", []):
            first, last = (length if time is None else float(time) for time in chunk["timestamp"])
            if text := str(chunk["text"]).strip():
                words.append(Word(text, offset + min(first, length), offset + min(max(first, last), length)))
        return words


def quietest(window: npt.NDArray[np.float32]) -> int:
    """Return where to cut a window: in the quietest 50 ms of its last 5 seconds."""
    tail = window[-_SEARCH:].astype(np.float64)
    power = (tail[: len(tail) // _STEP * _STEP].reshape(-1, _STEP) ** 2).mean(axis=1)
    return len(window) - len(tail) + int(power.argmin()) * _STEP + _STEP // 2


def text_of(words: list[Word]) -> str:
    """Return words as one text."""
    return " ".join(word.text for word in words)

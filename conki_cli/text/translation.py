"""Translate sentences with a MarianMT checkpoint; each sentence once, with a cache file.

The cache holds (model, sentence) -> translation and is written after every batch, so an interrupted run resumes with
the same batches. Nothing is sampled: equal calls give equal texts.

Axes: B sentences of a batch, L tokens of the longest one.
"""

import contextlib
import importlib.util
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conki_cli.system.environment import choose_device
from conki_cli.system.errors import ConkiError, EncoderError
from conki_cli.system.files import check_writable, disk_error
from conki_cli.system.locks import lock_beside, locked, offers_record_locks
from conki_cli.text.folders import (
    CONFIG_FILES,
    WEIGHT_FILES,
    ModelKind,
    explained,
    fingerprint,
    has,
    hub_folder,
    local_folder,
    quiet,
    read_configuration,
    require,
    require_safetensors,
)
from conki_cli.text.tokens import max_tokens, tokenize
from conki_cli.text.vocabulary import check_vocabulary, count_tokens
from conki_cli.text.weights import check_weights

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_TRANSLATOR = ModelKind("translation model", "--translate", "MarianMTModel")
_TOKENIZER_FILES = ("source.spm", "target.spm", "vocab.json")
_FETCHED = ("*config.json", "special_tokens_map.json", "*vocab.json", "*.spm", *WEIGHT_FILES, "model-*.safetensors")
_REVISION = re.compile(r"\w[\w.\-]*(/\w[\w.\-]*)*")
_COMMIT = re.compile(r"[0-9a-f]{40}")

_SEARCH_SETTINGS = (
    *("num_beams", "length_penalty", "early_stopping", "renormalize_logits", "no_repeat_ngram_size", "bad_words_ids"),
    *("decoder_start_token_id", "eos_token_id", "forced_eos_token_id", "pad_token_id"),
)
_BATCH_SIZE = 32  # with the usual 4-6 beams about 200 rows: enough for a GPU, and an interruption loses little
_LOCK_SECONDS = 60.0
_UNKNOWN = 0.8  # a model is refused from this share of unknown tokens on
_CREATE = (
    "CREATE TABLE IF NOT EXISTS translations (model TEXT, sentence TEXT, translation TEXT NOT NULL, "
    "truncated INTEGER NOT NULL, PRIMARY KEY (model, sentence)) WITHOUT ROWID"
)

Progress = Callable[[int, str], None]


@dataclass(frozen=True)
class Translations:
    """The result of a translation.

    Attributes:
        texts: the translations, in the order of the sentences.
        truncated: number of sentences that were too long for the model, so that their end is not translated.
        reused: number of translations that came from the cache.
        model: the identity of the model.
    """

    texts: list[str]
    truncated: int
    reused: int
    model: str


@dataclass(frozen=True)
class _Translator:
    tokenizer: "PreTrainedTokenizerBase"
    network: "PreTrainedModel"
    max_length: int  # source tokens, the closing one included


def translate(
    sentences: Sequence[str], model: str, cache: Path, *, device: str = "auto", progress: Progress | None = None
) -> Translations:
    """Translate sentences that are not in the cache; blank sentences stay as they are.

    Args:
        sentences: In any order; equal ones are translated once.
        model: A MarianMT checkpoint: a folder, a hub name, or NAME@REVISION for a branch, tag or commit of the hub.
        cache: An SQLite file, made when missing; several processes may share it.
        device: auto, cpu or cuda.
        progress: Called with (sentences finished since the last call, remark), first for those that need no work; a
            batch is in the cache before it is reported.

    Raises:
        EncoderError: the model cannot be found or used, or is not a MarianMT model in safetensors.
        SettingsError: a GPU was requested and none is usable.
        ConkiError: the cache is damaged or cannot be written.
    """
    advance = progress or (lambda count, remark: None)
    identity = translator_identity(model)
    rows = [_encodable(sentence) for sentence in sentences]
    counts = Counter(row for row in rows if row.strip())
    with _opened(cache) as connection:
        known = _read(connection, identity)
        missing = counts.keys() - known.keys()
        left = sum(counts[sentence] for sentence in missing)
        advance(len(rows) - left, "from the cache")
        if missing:
            translator = _load(model, device)
            _check_known(translator, sorted(missing), model)
            for batch in _batches(counts, missing):
                _keep(connection, identity, _translated(translator, batch))
                advance(sum(counts[sentence] for sentence in batch), f"sentences of {len(batch[0])} characters")
            known = _read(connection, identity)  # another process may have been first: both return the cached texts
    texts, cut = zip(*(known.get(row, (row, False)) for row in rows), strict=True) if rows else ((), ())
    return Translations(list(texts), sum(cut), counts.total() - left, identity)


def _encodable(sentence: str) -> str:
    return sentence.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair cannot be encoded


def _batches(sentences: Iterable[str], missing: set[str]) -> Iterator[list[str]]:
    """Yield the missing sentences of each batch: sentences of similar length, the longest first.

    Batches are formed before finished sentences are removed, so that resumed and uninterrupted runs have the same ones.
    """
    longest_first = sorted(sentences, key=lambda sentence: (-len(sentence), sentence))
    for start in range(0, len(longest_first), _BATCH_SIZE):
        batch = [sentence for sentence in longest_first[start : start + _BATCH_SIZE] if sentence in missing]
        if batch:
            yield batch


def translator_identity(model: str) -> str:
    """Identify the model's content: by a folder's fingerprint, or by NAME@COMMIT on the hub. Needs no torch.

    A full commit hash needs no file; any other hub name must be in the hub's cache, or is downloaded.

    Raises:
        EncoderError: it cannot be found.
    """
    name, revision = _split(model)
    if revision is not None and _COMMIT.fullmatch(revision):
        return f"{name}@{revision}"
    folder = _folder(model)
    if local_folder(name, _TRANSLATOR) is None:
        return f"{name}@{folder.name}"  # the hub's cache has a folder with this name for each commit
    require(folder, CONFIG_FILES, "config.json", _TRANSLATOR)
    _require_weights(folder, model)  # without them the fingerprint would identify something else
    return fingerprint(folder, _TRANSLATOR)


def _split(model: str) -> tuple[str, str | None]:
    """Split NAME@REVISION; the name of a folder may also contain an @."""
    if "@" not in model:
        return model, None
    with contextlib.suppress(EncoderError):
        local_folder(model, _TRANSLATOR)
        return model, None
    name, _, revision = model.partition("@")
    if local_folder(name, _TRANSLATOR) is not None or ".." in revision or not _REVISION.fullmatch(revision):
        raise EncoderError(
            f"{_TRANSLATOR.option} NAME@REVISION must have a branch, tag or commit of a hub name after the @, such as "
            f"refs/pr/1, found {model!r}",
            "correct it",
        )
    return name, revision


def _folder(model: str) -> Path:
    name, revision = _split(model)
    needed = (CONFIG_FILES, *((file,) for file in _TOKENIZER_FILES), WEIGHT_FILES)
    return local_folder(name, _TRANSLATOR) or hub_folder(name, needed, _FETCHED, _TRANSLATOR, revision=revision)


def _require_weights(folder: Path, model: str) -> None:
    name, _ = _split(model)
    if local_folder(name, _TRANSLATOR) is not None:
        require_safetensors(folder, _TRANSLATOR)
    elif not has(folder, WEIGHT_FILES):
        target = name.rpartition("/")[2]
        raise EncoderError(
            f"{model} has no weights in safetensors, and pickles are not read because they could run code",
            (
                f"name a revision that has them (--translate {name}@refs/pr/N, see the model's page), or, if you "
                'trust it, convert it once with `python -c "from transformers '
                "import MarianMTModel as M, MarianTokenizer as T; "
                f"[K.from_pretrained('{name}').save_pretrained('{target}') for K in (M, T)]\"` and pass that folder"
            ),
        )


def _load(model: str, device: str) -> _Translator:
    """Load tokenizer and network, in float32 and evaluation mode, without sampling."""
    import torch

    place = choose_device(device)
    if importlib.util.find_spec("sentencepiece") is None:
        raise EncoderError(
            "translating needs the package sentencepiece, which is missing", "run `pip install sentencepiece`"
        )
    folder = _folder(model)
    config = _marian_config(folder, model)
    for file in _TOKENIZER_FILES:
        require(folder, (file,), file, _TRANSLATOR)
    _require_weights(folder, model)
    with explained(folder, "tokenizer"):
        from transformers import MarianTokenizer

        tokenizer = MarianTokenizer.from_pretrained(str(folder), local_files_only=True)
        check_vocabulary(tokenizer, config, model)
    with explained(folder, "weights"), torch.random.fork_rng(devices=[]):
        from transformers import MarianMTModel

        network, report = MarianMTModel.from_pretrained(
            str(folder),
            config=config,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        check_weights(network, report, folder, noun=_TRANSLATOR.noun)
        _fix_generation(network)
        network = network.float().eval().to(place)
    return _Translator(tokenizer, network, max_tokens(tokenizer, config))


def _check_known(translator: _Translator, sentences: Sequence[str], model: str) -> None:
    """Refuse a model of another language before any of its translations is cached."""
    tokens = tokenize(translator.tokenizer, sentences, max_length=translator.max_length)
    counts = count_tokens(translator.tokenizer, *tokens)
    if counts.unknown_share >= _UNKNOWN:
        raise EncoderError(
            f"a translation model must know the words of the texts, but {counts.percent_unknown} of their tokens are "
            f"unknown to {model}",
            "choose one that translates from their language",
        )


def _marian_config(folder: Path, model: str) -> "PretrainedConfig":
    config = read_configuration(folder, _TRANSLATOR)
    if config.model_type != "marian":
        raise EncoderError(
            f"a translation model must be a MarianMT checkpoint, but {model} is of type {config.model_type!r}",
            "choose another, such as --translate Helsinki-NLP/opus-mt-zh-en",
        )
    return config


def _fix_generation(network: "PreTrainedModel") -> None:
    """Keep only the beam-search settings of the checkpoint's generation settings; above all, do not sample."""
    from transformers import GenerationConfig

    settings = {name: getattr(network.generation_config, name) for name in _SEARCH_SETTINGS}
    limit = network.config.max_position_embeddings - 1  # the start token takes one place
    network.generation_config = GenerationConfig(**settings, do_sample=False, max_new_tokens=limit)


def _translated(translator: _Translator, batch: Sequence[str]) -> list[tuple[str, str, bool]]:
    """Return (sentence, translation, whether the sentence was truncated) for one batch."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    tokenizer, network = translator.tokenizer, translator.network
    tokens = [tokenize(tokenizer, [sentence], max_length=translator.max_length) for sentence in batch]
    rows = [torch.from_numpy(row) for (row,), _ in tokens]
    ids = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)  # [B, L]
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)  # [B, L]
    try:
        with torch.inference_mode(), quiet():
            found = network.generate(input_ids=ids.to(network.device), attention_mask=mask.to(network.device))
    except torch.OutOfMemoryError as error:
        raise EncoderError(
            "the GPU is out of memory during the translation",
            "free memory or give --device cpu; finished translations are cached",
        ) from error
    # Decode with the target's vocabulary explicitly: the tokenizer's default has changed between releases.
    texts = tokenizer.batch_decode(
        found, skip_special_tokens=True, use_source_tokenizer=False, clean_up_tokenization_spaces=False
    )
    return [(sentence, text, cut > 0) for sentence, text, (_, cut) in zip(batch, texts, tokens, strict=True)]


@contextlib.contextmanager
def _opened(cache: Path) -> Iterator[sqlite3.Connection]:
    """Open the cache; an SQLite error during the block becomes one line.

    If the file system lacks the locks that SQLite needs, only one process at a time can use the cache.
    """
    check_writable(cache)
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(cache, error) from error
    try:
        with contextlib.ExitStack() as stack:
            place = cache.absolute().as_uri()
            if not offers_record_locks(cache.parent):
                stack.enter_context(locked(lock_beside(cache), what=str(cache), wait=True))
                place += "?vfs=unix-none"
            connection = sqlite3.connect(place, uri=True, timeout=_LOCK_SECONDS)
            stack.callback(connection.close)
            connection.execute(_CREATE)
            yield connection
    except sqlite3.Error as error:
        raise ConkiError(_complaint(cache, error)) from error


def _complaint(cache: Path, error: sqlite3.Error) -> str:
    kind = getattr(error, "sqlite_errorname", "").split("_")[1:2]
    if kind in (["BUSY"], ["LOCKED"]):
        return f"another process has been writing {cache} for {_LOCK_SECONDS:.0f} s: wait for it or stop it"
    if kind in (["FULL"], ["READONLY"], ["CANTOPEN"], ["IOERR"], ["PERM"]):
        return f"cannot write {cache} ({error}): free some space, allow writing, or choose another --workspace"
    return f"{cache} must be a cache of translations but is damaged ({error}): delete it and run the command again"


def _read(connection: sqlite3.Connection, identity: str) -> dict[str, tuple[str, bool]]:
    """Return sentence -> (translation, whether the sentence was truncated) of one model."""
    found = connection.execute("SELECT sentence, translation, truncated FROM translations WHERE model = ?", (identity,))
    return {sentence: (translation, bool(truncated)) for sentence, translation, truncated in found}


def _keep(connection: sqlite3.Connection, identity: str, rows: Sequence[tuple[str, str, bool]]) -> None:
    with connection:  # one transaction per batch
        connection.executemany("INSERT OR IGNORE INTO translations VALUES (?, ?, ?, ?)", [(identity, *r) for r in rows])

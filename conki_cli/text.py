"""Sentence -> token ids, the pretrained text encoder on disk (Section 3.1, Eq. 1), and the demo's small BERT.

An encoder is a folder: config.json, tokenizer files, weights in safetensors. A hub name is turned into such a
folder first (the local cache, else one download), so everything below reads folders only and works offline.
Torch and transformers are imported inside the functions: they take seconds, and half of the commands need neither.

Axes: N sentences, L tokens of the longest one, V words of the vocabulary, D hidden size.
"""

import contextlib
import hashlib
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from conki_cli.errors import EncoderError
from conki_cli.files import atomic_path, disk_error, to_json

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?")
_HUB_TIMEOUT = 5.0  # seconds; the libraries' own retries would wait 20-50 s for a network that is not there

_CONFIG_FILES = ("config.json",)
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
_WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")
_FETCHED = {
    _CONFIG_FILES: ["config.json"],
    _TOKENIZER_FILES: ["config.json", "tokenizer*", "vocab*", "merges.txt", "*.model", "*tokens*.json"],
    _WEIGHT_FILES: ["config.json", "*.safetensors", "*.safetensors.index.json"],
}

# Their position numbers start behind the padding id, so the table holds pad_token_id + 1 rows more than tokens.
_POSITIONS_AFTER_PADDING = ("camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "xmod")
_ROBERTA_LIKE = ("roberta", "xlm-roberta")  # and their variants, by prefix
_UNSTATED_MAX_TOKENS = 512


def encoder_identity(name_or_path: str) -> str:
    """Name the encoder's content: a hub name is itself, a folder is a fingerprint of what lies in it.

    The fingerprint covers the names, sizes and bytes of configuration and tokenizer files and samples of the weight
    files, so a copy under another path is the same encoder and other weights are another one. Needs no torch.
    """
    folder = _local_folder(name_or_path)
    if folder is None:
        return name_or_path
    _require(folder, _CONFIG_FILES, "config.json")
    digest = hashlib.sha256()
    try:
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.suffix in {".json", ".txt", ".model", ".safetensors"}:
                digest.update(f"{path.name}\n{path.stat().st_size}\n".encode())
                _update_with_samples(digest, path)
    except OSError as error:
        raise EncoderError(f"cannot read the text encoder in {folder}: {error.strerror or error}") from error
    return f"folder-{digest.hexdigest()[:16]}"


def _update_with_samples(digest: "hashlib._Hash", path: Path) -> None:
    """Feed a file of up to 8 MiB whole, a larger one as 32 evenly spaced blocks, its head and tail among them."""
    whole, block, num_blocks = 8 << 20, 64 << 10, 32
    size = path.stat().st_size
    with path.open("rb") as stream:
        if size <= whole:
            digest.update(stream.read())
            return
        for index in range(num_blocks):
            stream.seek((size - block) * index // (num_blocks - 1))
            digest.update(stream.read(block))


def _local_folder(name_or_path: str) -> Path | None:
    """Return the folder that is meant, or None for a hub name."""
    if not name_or_path.strip() or "\0" in name_or_path:
        raise EncoderError(f"a text encoder must be a folder or a hub name, found {name_or_path!r}")
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise EncoderError(f"a text encoder must be a folder, but {path} is a file: pass the folder that holds it")
    if not _HUB_NAME.fullmatch(name_or_path):
        raise EncoderError(f"no folder {name_or_path} here, and that is no hub name either: check --encoder")
    return None


def _encoder_folder(name_or_path: str, needed: tuple[str, ...]) -> Path:
    """Return a folder that holds one of the `needed` files; a hub name comes from the cache, else is downloaded."""
    folder = _local_folder(name_or_path)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download

    with contextlib.suppress(Exception):  # not in the cache: whatever the reason, the hub is asked next
        cached = Path(snapshot_download(name_or_path, local_files_only=True))
        if _has(cached, _CONFIG_FILES) and _has(cached, needed):
            return cached
    return _download(name_or_path, _FETCHED[needed])


def _download(name: str, patterns: list[str]) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        with _quiet():
            HfApi().model_info(name, timeout=_HUB_TIMEOUT)  # one attempt: fails at once without a network
            return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except HfHubHTTPError as error:
        reason = f"the hub answered: {_first_line(error)}"
    except Exception as error:  # the client's own transport errors share no base class across its versions
        reason = f"{type(error).__name__}: {_first_line(error)}"
    raise EncoderError(
        f"text encoder {name!r} is no folder here and could not be fetched from the hub ({reason}): on a machine with "
        f"network run `hf download {name} --local-dir {name.rpartition('/')[2]}` once, copy that folder and pass "
        "--encoder FOLDER"
    )


def _has(folder: Path, patterns: Sequence[str]) -> bool:
    return any(path.is_file() for pattern in patterns for path in folder.glob(pattern))


def _require(folder: Path, patterns: Sequence[str], what: str) -> None:
    if not _has(folder, patterns):
        raise EncoderError(
            f"a text encoder's folder must hold {what}, but {folder} does not: pass the folder that "
            "save_pretrained or `hf download` made"
        )


def _require_safetensors(folder: Path) -> None:
    if not _has(folder, _WEIGHT_FILES) and _has(folder, ("*.bin", "*.pt", "*.pth", "*.ckpt")):
        raise EncoderError(
            f"{folder} holds its weights as a pickle, which could run code and is not read: if you trust it, convert "
            'it with `python -c "from transformers import AutoModel as M; '
            f"M.from_pretrained('{folder}').save_pretrained('{folder}')\"`"
        )
    _require(folder, _WEIGHT_FILES, "weights in safetensors (model.safetensors)")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


@contextlib.contextmanager
def _explained(folder: Path, what: str) -> Iterator[None]:
    """Turn whatever the libraries raise over a user's folder into one line; silence them meanwhile."""
    try:
        with _quiet():
            yield
    except (EncoderError, MemoryError):
        raise
    except Exception as error:  # a damaged file surfaces as any of a dozen classes of three libraries
        raise EncoderError(
            f"the {what} in {folder} cannot be loaded ({_first_line(error)}): fetch or save the encoder again"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' and the hub client's logs, warnings and progress bars off the screen during the block."""
    from huggingface_hub import logging as hub_logging
    from transformers.utils import logging

    level, hub_level = logging.get_verbosity(), hub_logging.get_verbosity()
    had_bars = logging.is_progress_bar_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.set_verbosity(logging.ERROR)
        hub_logging.set_verbosity(logging.ERROR)
        logging.disable_progress_bar()  # the hub client's bars too
        try:
            yield
        finally:
            logging.set_verbosity(level)
            hub_logging.set_verbosity(hub_level)
            if had_bars:
                logging.enable_progress_bar()


def encoder_config(name_or_path: str) -> "PretrainedConfig":
    """Read the encoder's configuration (hidden_size, num_hidden_layers, ...) without touching its weights.

    Raises:
        EncoderError: it cannot be found, read, or does not describe an encoder of one token sequence.
    """
    folder = _encoder_folder(name_or_path, _CONFIG_FILES)
    _require(folder, _CONFIG_FILES, "config.json")
    with _explained(folder, "configuration (config.json)"):
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    sizes = [getattr(config, name, None) for name in ("hidden_size", "num_hidden_layers", "vocab_size")]
    if config.is_encoder_decoder or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise EncoderError(
            f"a text encoder must map one token sequence to hidden states, as BERT does, but {name_or_path} is of "
            f"type {config.model_type!r}: choose another --encoder"
        )
    return config


def load_tokenizer(name_or_path: str) -> "PreTrainedTokenizerBase":
    """Load the encoder's own tokenizer.

    Raises:
        EncoderError: it cannot be found or read, or has no padding token.
    """
    folder = _encoder_folder(name_or_path, _TOKENIZER_FILES)
    # Without these files transformers would hand out an empty tokenizer that knows five tokens.
    _require(folder, _TOKENIZER_FILES, "a tokenizer (tokenizer.json or vocab.txt)")
    with _explained(folder, "tokenizer"):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    if tokenizer.pad_token_id is None:
        raise EncoderError(f"a text encoder's tokenizer must have a padding token, but that of {name_or_path} has none")
    return tokenizer


def load_backbone(name_or_path: str) -> "tuple[PreTrainedModel, frozenset[str]]":
    """Load the pretrained encoder in float32, with the names of the parameters that its checkpoint lacks.

    Missing parameters (a pooler, usually) hold random values drawn from torch's global generator.

    Raises:
        EncoderError: it cannot be found or read, is stored as a pickle, or its weights are another model's.
    """
    folder = _encoder_folder(name_or_path, _WEIGHT_FILES)
    encoder_config(str(folder))
    _require_safetensors(folder)
    with _explained(folder, "weights"):
        from transformers import AutoModel

        model, report = AutoModel.from_pretrained(
            str(folder), use_safetensors=True, trust_remote_code=False, local_files_only=True, output_loading_info=True
        )
    names = {name for name, _ in model.named_parameters()}
    missing = frozenset(report["missing_keys"]) & names
    if 2 * len(missing) > len(names):
        raise EncoderError(
            f"the weights in {folder} must fit its config.json, but {len(missing)} of {len(names)} parameters are not "
            "among them: fetch or save the encoder again"
        )
    return model.float(), missing  # the checkpoint's precision may be lower; we always train from float32


def backbone_from_config(folder: str | Path) -> "PreTrainedModel":
    """Build the encoder that a run folder's config.json describes, for weights that the run itself stores.

    The values are random until those weights are loaded; torch's global generator is left as it was.
    """
    import torch

    config = encoder_config(str(folder))
    with _explained(Path(folder), "configuration (config.json)"), torch.random.fork_rng(devices=[]):
        from transformers import AutoModel

        return AutoModel.from_config(config, trust_remote_code=False).float()


def save_encoder_files(name_or_path: str, folder: str | Path) -> None:
    """Save the encoder's tokenizer and configuration, not its weights, into a run folder."""
    config, tokenizer = encoder_config(name_or_path), load_tokenizer(name_or_path)
    with _published(Path(folder)) as temporary, _quiet():
        tokenizer.save_pretrained(str(temporary))
        config.save_pretrained(str(temporary))


@contextlib.contextmanager
def _published(folder: Path) -> Iterator[Path]:
    """Yield a scratch folder; move its files into `folder` when the block succeeds, config.json last.

    A folder without config.json is refused by every reader above, so a torn write cannot pass for an encoder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".encoder.", dir=folder) as name:
            yield Path(name)
            for path in sorted(Path(name).iterdir(), key=lambda path: (path.name == "config.json", path.name)):
                with atomic_path(folder / path.name) as temporary:
                    shutil.copyfile(path, temporary)
    except OSError as error:
        raise disk_error(folder, error) from error


def max_tokens(tokenizer: "PreTrainedTokenizerBase", config: "PretrainedConfig") -> int:
    """Return how many tokens, special ones included, the encoder takes at once."""
    limits = [int(tokenizer.model_max_length)] if tokenizer.model_max_length < 10**6 else []
    num_positions = getattr(config, "max_position_embeddings", None)
    if isinstance(num_positions, int) and num_positions > 0:
        padding = getattr(config, "pad_token_id", None)
        shifted = config.model_type in _POSITIONS_AFTER_PADDING or config.model_type.startswith(_ROBERTA_LIKE)
        offset = 1 + (padding or 0) if shifted else 0
        limits.append(num_positions - offset)
    return min(limits, default=_UNSTATED_MAX_TOKENS)


def tokenize(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], *, max_length: int
) -> tuple[list[np.ndarray], int]:
    """Turn texts into token ids, special tokens included, none longer than `max_length`.

    Returns:
        One int64 array [L] per text (an empty text keeps its special tokens), and how many texts were cut.
    """
    num_special = tokenizer.num_special_tokens_to_add()
    if max_length <= num_special:
        raise EncoderError(f"max_length must exceed the {num_special} special tokens, found {max_length}: raise it")
    ids = _ids(tokenizer, texts)
    cut = [index for index, row in enumerate(ids) if len(row) > max_length]
    # Truncation drops words, not the closing special token, so the long texts go through the tokenizer again.
    for index, row in zip(cut, _ids(tokenizer, [texts[index] for index in cut], max_length), strict=True):
        ids[index] = row
    return [np.asarray(row, dtype=np.int64) for row in ids], len(cut)


def _ids(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
    if not texts:
        return []
    with _quiet():
        return list(tokenizer(list(texts), truncation=max_length is not None, max_length=max_length)["input_ids"])


_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_BATCH_SIZE = 48
_MASKED_SHARE = 0.15
_PEAK_LEARNING_RATE = 3e-3
_INITIAL_DEVIATION = 0.1  # about 1 / sqrt(D); BERT's 0.02 is made for D = 768 and learns nothing here in 500 steps
_DROPOUT = 0.1  # for the encoder's users; the short pretraining goes without
_MAX_DEMO_TOKENS = 64


def build_demo_encoder(
    folder: str | Path,
    sentences: Sequence[str],
    *,
    seed: int = 0,
    num_steps: int = 500,
    hidden_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Pretrain a small BERT (4 layers, 4 heads) on `sentences` and save it as an encoder folder.

    Its vocabulary is the words of the sentences. It learns to restore masked words, and its pooler learns to name the
    words of the sentence, the rare ones first: BERT's own sentence task (which sentence follows) has no meaning for
    unordered sentences, and an untrained pooler would make O_t (Eq. 1) a random projection. Neither task sees a score.

    Args:
        folder: Where the encoder goes; loads with AutoModel and AutoTokenizer.
        sentences: What it is pretrained on; at least one word.
        seed: Fixes the result, bit for bit at an equal number of threads; torch's global generator is left alone.
        num_steps: Steps of 48 sentences; 500 take about 16 seconds on one core.
        hidden_size: D, a multiple of 4.
        progress: Called after every step with (steps done, steps in all).
    """
    import torch

    with _published(Path(folder)) as temporary, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        num_words = _write_demo_tokenizer(temporary, sentences)
        if not num_words or hidden_size % 4:
            raise EncoderError("a demo encoder must have sentences with words and a hidden size divisible by 4")
        rows, _ = tokenize(load_tokenizer(str(temporary)), sentences, max_length=_MAX_DEMO_TOKENS)
        ids = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)  # [N, L]
        model, naming = _demo_model(len(_SPECIAL_TOKENS) + num_words, hidden_size)
        # Words are named in proportion to their inverse squared count: rare ones tell more than `the`.
        weights = torch.bincount(ids.flatten(), minlength=naming.out_features).clamp(min=1).float().pow(-2)  # [V]
        optimizer = torch.optim.AdamW([*model.parameters(), *naming.parameters()], weight_decay=0.01)
        for step in range(num_steps):  # linear warm-up over a tenth of the steps, then linear decay
            share = min((step + 1) / max(1, num_steps // 10), (num_steps - step) / num_steps)
            optimizer.param_groups[0]["lr"] = _PEAK_LEARNING_RATE * share
            batch = ids[torch.randint(len(ids), (_BATCH_SIZE,))]
            optimizer.zero_grad()
            torch.autograd.backward(_demo_loss(model, naming, batch[:, (batch > 0).any(dim=0)], weights))
            optimizer.step()
            if progress is not None:
                progress(step + 1, num_steps)
        model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = _DROPOUT
        with _quiet():
            model.bert.save_pretrained(str(temporary))
    return Path(folder)


def _write_demo_tokenizer(folder: Path, sentences: Sequence[str]) -> int:
    """Save a tokenizer that knows exactly the words of the sentences; return how many there are."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    pieces = (splitter.pre_tokenize_str(normalizer.normalize_str(sentence)) for sentence in sentences)
    words = sorted({word for sentence in pieces for word, _ in sentence})
    vocabulary = {token: index for index, token in enumerate([*_SPECIAL_TOKENS, *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    tokenizer.add_special_tokens(list(_SPECIAL_TOKENS))
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {f"{token[1:-1].lower()}_token": token for token in _SPECIAL_TOKENS}
    settings = {"tokenizer_class": "BertTokenizer", "model_max_length": _MAX_DEMO_TOKENS, **special}
    (folder / "tokenizer_config.json").write_text(to_json(settings), encoding="utf-8")
    return len(words)


def _demo_model(vocabulary_size: int, hidden_size: int) -> "tuple[PreTrainedModel, torch.nn.Linear]":
    """Build the masked-word model, and the layer that names words from its pooled output and is thrown away."""
    import torch
    from transformers import BertConfig, BertForPreTraining

    config = BertConfig(
        vocab_size=vocabulary_size,
        hidden_size=hidden_size,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=2 * hidden_size,
        max_position_embeddings=_MAX_DEMO_TOKENS,
        initializer_range=_INITIAL_DEVIATION,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    naming = torch.nn.Linear(hidden_size, vocabulary_size)
    torch.nn.init.normal_(naming.weight, std=0.3)
    return BertForPreTraining(config).train(), naming


def _demo_loss(
    model: "PreTrainedModel", naming: "torch.nn.Linear", ids: "torch.Tensor", weights: "torch.Tensor"
) -> "torch.Tensor":
    """Restore masked words from their neighbours, and name the others from the pooled output; ids [B, L]."""
    import torch
    from torch.nn import functional as F

    is_word = ids >= len(_SPECIAL_TOKENS)  # [B, L]
    is_masked = is_word & (torch.rand(ids.shape) < _MASKED_SHARE)
    is_masked[:, 1] |= ~is_masked.any()  # cross entropy over nothing would be nan
    output = model.bert(ids.masked_fill(is_masked, _SPECIAL_TOKENS.index("[MASK]")), attention_mask=(ids > 0).long())
    masked_words: torch.Tensor = model.cls.predictions(output.last_hidden_state[is_masked])  # [masked, V]
    named_words: torch.Tensor = naming(output.pooler_output)  # [B, V]
    shares = torch.zeros_like(named_words).scatter_(1, ids * (is_word & ~is_masked), 1.0) * weights
    shares[:, 0] = 0.0  # whatever is not to be named was written to [PAD]
    shares = shares / shares.sum(dim=1, keepdim=True).clamp(min=1e-20)  # soft targets; none if all are masked
    return F.cross_entropy(masked_words, ids[is_masked]) + F.cross_entropy(named_words, shares)

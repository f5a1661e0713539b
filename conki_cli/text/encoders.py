"""The pretrained text encoder on disk (Section 3.1, Eq. 1): its identity, configuration, tokenizer and weights.

Torch and transformers are imported inside the functions: that takes seconds, and half of the commands need neither.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from conki_cli.system.errors import EncoderError
from conki_cli.text.folders import (
    CONFIG_FILES,
    WEIGHT_FILES,
    ModelKind,
    explained,
    fingerprint,
    hub_folder,
    local_folder,
    published,
    quiet,
    read_configuration,
    require,
    require_safetensors,
)
from conki_cli.text.tokens import max_tokens
from conki_cli.text.vocabulary import check_vocabulary
from conki_cli.text.weights import Report, check_weights, prefix_mapping

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_ENCODER = ModelKind("text encoder", "--encoder", "AutoModel")
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
_FETCHED = {
    CONFIG_FILES: ["config.json"],
    TOKENIZER_FILES: ["config.json", "tokenizer*", "vocab*", "merges.txt", "*.model", "*tokens*.json"],
    WEIGHT_FILES: ["config.json", "*.safetensors", "*.safetensors.index.json"],
}

_BOTH_WAYS = ("xlnet",)
"""Types that transformers lists with the decoders although they read in both directions."""
_BASE, _LARGE = (768, 12), (1024, 24)
KNOWN_SIZES = {
    **dict.fromkeys(("bert-base-uncased", "bert-base-cased", "bert-base-chinese", "roberta-base"), _BASE),
    **dict.fromkeys(("bert-base-multilingual-cased", "bert-base-multilingual-uncased", "xlm-roberta-base"), _BASE),
    **dict.fromkeys(("bert-large-uncased", "bert-large-cased", "roberta-large", "xlm-roberta-large"), _LARGE),
}
"""Hidden size and number of layers by hub name, also with the organisation google-bert/ or FacebookAI/."""


def encoder_identity(name_or_path: str, *, reads_text: bool = True) -> str:
    """Identify the encoder's content: by its hub name, or by a fingerprint of its folder.

    The fingerprint covers the names, sizes and bytes of configuration and tokenizer files and samples of the weight
    files, so a copy under another path is the same encoder, and other weights are a different one. Needs no torch.
    """
    try:
        folder = local_folder(name_or_path, _ENCODER)
    except EncoderError as error:
        if reads_text:
            raise
        raise _unknown_width(error) from error
    if folder is None:
        return name_or_path
    require(folder, CONFIG_FILES, "config.json", _ENCODER)
    return fingerprint(folder, _ENCODER)


def _encoder_folder(name_or_path: str, needed: tuple[str, ...]) -> Path:
    """Return a folder that holds one of the `needed` files; a hub name comes from the cache or is downloaded."""
    folder = local_folder(name_or_path, _ENCODER)
    return folder or hub_folder(name_or_path, (CONFIG_FILES, needed), _FETCHED[needed], _ENCODER)


def encoder_config(name_or_path: str) -> "PretrainedConfig":
    """Read the encoder's configuration (hidden_size, num_hidden_layers, ...) without touching its weights.

    Raises:
        EncoderError: it cannot be found or read, or does not describe an encoder of one token sequence.
    """
    config = read_configuration(_encoder_folder(name_or_path, CONFIG_FILES), _ENCODER)
    _refuse_decoder(config, name_or_path)
    sizes = [getattr(config, name, None) for name in ("hidden_size", "num_hidden_layers", "vocab_size")]
    if config.is_encoder_decoder or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise EncoderError(
            f"a text encoder must map one token sequence to hidden states, as BERT does, but {name_or_path} has the "
            f"type {config.model_type!r}",
            "choose another --encoder",
        )
    return config


def _refuse_decoder(config: "PretrainedConfig", name_or_path: str) -> None:
    """Refuse a model that reads a text from left to right: its first token knows nothing of the others.

    Raises:
        EncoderError: the configuration is that of a decoder.
    """
    from transformers.models.auto import modeling_auto

    kind = config.model_type
    predicts_next = kind in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in _BOTH_WAYS
    if getattr(config, "is_decoder", False) or (
        predicts_next and kind not in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    ):
        raise EncoderError(
            f"a text encoder must read a text in both directions, as BERT does, but {name_or_path} is a decoder (type "
            f"{kind!r}), which reads it from left to right",
            "choose another --encoder",
        )


def _refuse_other_inputs(model: "PreTrainedModel", folder: Path) -> None:
    """Refuse a model of sound or images.

    Raises:
        EncoderError: it does not read token ids.
    """
    if model.main_input_name != "input_ids":
        raise EncoderError(
            f"a text encoder must read token ids, but the model in {folder} (type {model.config.model_type!r}) reads "
            f"{model.main_input_name}",
            "choose another --encoder",
        )


def encoder_sizes(name_or_path: str, *, reads_text: bool = True) -> tuple[int, int]:
    """Return the hidden size D, which is the width of the whole network, and the number of layers.

    For well-known encoders no file and no hub is needed.

    Raises:
        EncoderError: the encoder cannot be found, or does not describe an encoder of one token sequence.
    """
    known = KNOWN_SIZES.get(name_or_path.removeprefix("google-bert/").removeprefix("FacebookAI/"))
    try:
        if known is not None and local_folder(name_or_path, _ENCODER) is None:
            return known
        config = encoder_config(name_or_path)
    except EncoderError as error:
        if reads_text:
            raise
        raise _unknown_width(error) from error
    return config.hidden_size, config.num_hidden_layers


def _unknown_width(error: EncoderError) -> EncoderError:
    return EncoderError(
        f"a run without text has the width of its text encoder, which is unknown ({error})",
        "give --encoder bert-base-uncased, or a folder with the encoder's config.json",
    )


def load_tokenizer(name_or_path: str) -> "PreTrainedTokenizerBase":
    """Load the encoder's own tokenizer.

    Raises:
        EncoderError: it cannot be found or read, or has no padding token.
    """
    folder = _encoder_folder(name_or_path, TOKENIZER_FILES)
    # Without these files transformers would return an empty tokenizer that knows five tokens.
    require(folder, TOKENIZER_FILES, "a tokenizer (tokenizer.json or vocab.txt)", _ENCODER)
    with explained(folder, "tokenizer"):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    if tokenizer.pad_token_id is None:
        raise EncoderError(f"a text encoder's tokenizer must have a padding token, but that of {name_or_path} has none")
    return tokenizer


def load_reader(name_or_path: str) -> "tuple[PreTrainedTokenizerBase, int]":
    """Load the encoder's own tokenizer, with the largest number of tokens that the encoder accepts.

    Raises:
        EncoderError: the tokenizer or the encoder cannot be found or read, or they do not fit each other.
    """
    tokenizer, config = load_tokenizer(name_or_path), encoder_config(name_or_path)
    check_vocabulary(tokenizer, config, name_or_path)
    return tokenizer, max_tokens(tokenizer, config)


def load_backbone(name_or_path: str) -> "tuple[PreTrainedModel, frozenset[str]]":
    """Load the pretrained encoder in float32, with the names of the parameters that its checkpoint lacks.

    Only a pooler's may be missing; they get random values from torch's global generator. A prefix that all
    names share, such as `module.` or `bert.`, is ignored.

    Raises:
        EncoderError: it cannot be found or read, is stored as a pickle, lacks other weights than a pooler's, or holds
            weights of another shape or that are not finite.
    """
    import torch

    folder = _encoder_folder(name_or_path, WEIGHT_FILES)
    encoder_config(str(folder))
    require_safetensors(folder, _ENCODER)
    with explained(folder, "weights"):
        before = torch.get_rng_state()
        model, report = _loaded(folder)
        if mapping := prefix_mapping(report):
            torch.set_rng_state(before)  # so that a pooler gets the same values as without the prefix
            model, report = _loaded(folder, mapping)
        _refuse_other_inputs(model, folder)
        model = model.float()  # the checkpoint may have another precision; training always starts from float32
        missing = check_weights(model, report, folder, noun=_ENCODER.noun)
    return model, missing


def _loaded(folder: Path, key_mapping: Mapping[str, str] | None = None) -> "tuple[PreTrainedModel, Report]":
    """Load an encoder and transformers' report on its weights, which includes weights of another shape."""
    from transformers import AutoModel

    model, report = AutoModel.from_pretrained(
        str(folder),
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        key_mapping=key_mapping,
    )
    return model, report


def backbone_from_config(folder: str | Path) -> "PreTrainedModel":
    """Build the encoder that a run folder's config.json describes, for weights that the run stores.

    The values are random until those weights are loaded; torch's global generator is not changed.
    """
    import torch

    config = encoder_config(str(folder))
    with explained(Path(folder), "configuration (config.json)"), torch.random.fork_rng(devices=[]):
        from transformers import AutoModel

        model = AutoModel.from_config(config, trust_remote_code=False)
        _refuse_other_inputs(model, Path(folder))
        return model.float()


def save_encoder_files(
    name_or_path: str, folder: str | Path, tokenizer: "PreTrainedTokenizerBase | None" = None
) -> None:
    """Save the encoder's tokenizer and configuration, not its weights, into a run folder.

    Args:
        name_or_path: the encoder.
        folder: where the files are saved.
        tokenizer: as it was loaded and never used: tokenising changes what it saves. None: load it.
    """
    config, tokenizer = encoder_config(name_or_path), tokenizer or load_tokenizer(name_or_path)
    with published(Path(folder)) as temporary, quiet():
        tokenizer.save_pretrained(str(temporary))
        config.save_pretrained(str(temporary))

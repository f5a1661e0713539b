"""Sentence -> token ids, truncated to what the encoder accepts.

Axes: L tokens of a sentence.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from conki_cli.system.errors import EncoderError
from conki_cli.text.folders import quiet

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

# Their position numbers start after the padding id, so the table has pad_token_id + 1 more rows than tokens.
_POSITIONS_AFTER_PADDING = ("camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "xmod")
_ROBERTA_LIKE = ("roberta", "xlm-roberta")  # and their variants, by prefix
_UNSTATED_MAX_TOKENS = 512


def max_tokens(tokenizer: "PreTrainedTokenizerBase", config: "PretrainedConfig") -> int:
    """Return the largest number of tokens, including special ones, that the encoder accepts."""
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
    """Turn texts into token ids, including special tokens, truncated to `max_length`.

    Returns:
        One int64 array [L] per text (an empty text keeps its special tokens), and how many texts were truncated.
    """
    num_special = tokenizer.num_special_tokens_to_add()
    if max_length <= num_special:
        raise EncoderError(f"max_length must exceed the {num_special} special tokens, found {max_length}", "raise it")
    ids = _ids(tokenizer, texts)
    cut = [index for index, row in enumerate(ids) if len(row) > max_length]
    # Truncation drops words, not the closing special token, so the long texts go through the tokenizer again.
    for index, row in zip(cut, _ids(tokenizer, [texts[index] for index in cut], max_length), strict=True):
        ids[index] = row
    return [np.asarray(row, dtype=np.int64) for row in ids], len(cut)


def _ids(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
    if not texts:
        return []
    with quiet():
        return list(tokenizer(list(texts), truncation=max_length is not None, max_length=max_length)["input_ids"])

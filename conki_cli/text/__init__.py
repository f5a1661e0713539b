"""Text: the pretrained encoder on disk, sentences -> token ids.

The demo's small BERT (`demo_encoder`) and the translation of sentences (`translation`) are imported only when needed.
"""

from conki_cli.text.encoders import (
    backbone_from_config,
    encoder_config,
    encoder_identity,
    encoder_sizes,
    load_backbone,
    load_reader,
    load_tokenizer,
    save_encoder_files,
)
from conki_cli.text.tokens import max_tokens, tokenize
from conki_cli.text.vocabulary import TextReport, TokenCounts, count_tokens

__all__ = [
    "TextReport",
    "TokenCounts",
    "backbone_from_config",
    "count_tokens",
    "encoder_config",
    "encoder_identity",
    "encoder_sizes",
    "load_backbone",
    "load_reader",
    "load_tokenizer",
    "max_tokens",
    "save_encoder_files",
    "tokenize",
]

"""Text: the pretrained encoder on disk, sentences -> token ids.

The demo's small BERT (`demo_encoder`) and translating sentences (`translation`) are imported by those who need them.
"""

from conki_cli.text.encoders import (
    backbone_from_config,
    encoder_config,
    encoder_identity,
    load_backbone,
    load_tokenizer,
    save_encoder_files,
)
from conki_cli.text.tokens import max_tokens, tokenize

__all__ = [
    "backbone_from_config",
    "encoder_config",
    "encoder_identity",
    "load_backbone",
    "load_tokenizer",
    "max_tokens",
    "save_encoder_files",
    "tokenize",
]

"""Text: the pretrained encoder on disk, sentences -> token ids, the demo's small BERT.

Translating sentences is in `conki_cli.text.translation`, imported by those who translate.
"""

from conki_cli.text.demo_encoder import build_demo_encoder
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
    "build_demo_encoder",
    "encoder_config",
    "encoder_identity",
    "load_backbone",
    "load_tokenizer",
    "max_tokens",
    "save_encoder_files",
    "tokenize",
]

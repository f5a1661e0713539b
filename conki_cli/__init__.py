"""conki: Contrastive Knowledge Injection for multimodal sentiment analysis (Yu et al., ACL Findings 2023)."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("conki")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

MODALITIES = ("text", "vision", "audio")
"""The modalities in the paper's order t, v, a."""

"""conki: Contrastive Knowledge Injection for multimodal sentiment analysis (Yu et al., ACL Findings 2023)."""

__version__ = "0.2.0"

MODALITIES = ("text", "vision", "audio")
"""The modalities in the paper's order t, v, a."""

"""The switches that leave a part of a model out: the help page lists them, so this is quick to import."""

SWITCHES = {
    "C1": "no external data: the adapters start untrained and train with the rest",
    "C2": "no adapters: fusion and contrast use the pan-knowledge representations alone",
    "C3": "no pan-knowledge: fusion and contrast use the knowledge-specific representations alone",
    "C4": "no hierarchical contrastive loss",
    "handover": "stage 2 takes the adapters alone from stage 1: fusion layers and head start untrained",
    "N1": "no inter-knowledge negative pairs in the contrastive loss",
    "T": "no text",
    "V": "no vision",
    "A": "no audio",
    "plain-transfer": "no adapters: the whole network is trained on the external set, then on the target",
}
"""The ablations of Tables 4 and 5, and the control of the paper's claim (`plain-transfer`)."""

MODALITY_SWITCHES = {"text": "T", "vision": "V", "audio": "A"}
"""The switch that leaves a modality out."""

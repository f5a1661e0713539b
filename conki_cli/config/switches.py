"""The switches that leave out a part of a model; fast to import, because the help page lists them."""

SWITCHES = {
    "C1": "no external data: the adapters start untrained and train with the rest",
    "C2": "no adapters: fusion and contrast use only the pan-knowledge representations",
    "C3": "no pan-knowledge: fusion and contrast use only the knowledge-specific representations",
    "C4": "no hierarchical contrastive loss",
    "handover": "stage 2 takes only the adapters from stage 1: fusion layers and head start untrained",
    "N1": "no inter-knowledge negative pairs in the contrastive loss",
    "T": "no text",
    "V": "no vision",
    "A": "no audio",
    "plain-transfer": "no adapters: the whole network is trained on the external set, then on the target",
}
"""The ablations of Tables 4 and 5, and the control of the paper's claim (`plain-transfer`)."""

MODALITY_SWITCHES = {"text": "T", "vision": "V", "audio": "A"}
"""The switch that leaves out a modality."""

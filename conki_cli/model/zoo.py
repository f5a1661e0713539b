"""The ten models by name: their classes, imported on demand, and what is known about each.

Nothing here needs torch until a class is asked for, so that a list of the models costs nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar, cast

from conki_cli import MODALITIES
from conki_cli.config.sections import RunConfig
from conki_cli.config.switches import MODALITY_SWITCHES
from conki_cli.config.words import unknown_model
from conki_cli.system.errors import SettingsError

if TYPE_CHECKING:
    from conki_cli.model.contract import Architecture, SentimentModel
    from conki_cli.model.text_encoder import TextEncoder

    Make = Callable[[RunConfig, Architecture, TextEncoder | None], SentimentModel]

Value = TypeVar("Value")

MODELS = {
    "conki": "conki_cli.model.conki:ConKI",
    "tfn": "conki_cli.model.baselines.tfn:Tfn",
    "lmf": "conki_cli.model.baselines.lmf:Lmf",
    "mult": "conki_cli.model.baselines.mult:Mult",
    "iccn": "conki_cli.model.baselines.iccn:Iccn",
    "misa": "conki_cli.model.baselines.misa:Misa",
    "mag-bert": "conki_cli.model.baselines.mag_bert:MagBert",
    "self-mm": "conki_cli.model.baselines.self_mm:SelfMm",
    "hycon": "conki_cli.model.baselines.hycon:Hycon",
    "mmim": "conki_cli.model.baselines.mmim:Mmim",
}
"""Name -> "module:class"; ConKI, then the other systems in the order of Table 2."""


@dataclass(frozen=True)
class Facts:
    """Where a model comes from, and how much of ours follows from a source."""

    title: str
    authors: str
    year: int
    venue: str
    idea: str
    pinned: str
    """What sources fix; docs/baselines.md names them."""
    ours: str
    """What no source fixes, or what we do otherwise."""


def model_class(name: str) -> "type[SentimentModel]":
    """Import the class of a model.

    Raises:
        SettingsError: no model is called so.
    """
    module, _, attribute = _known(name, MODELS).partition(":")
    found: type[SentimentModel] = getattr(import_module(module), attribute)
    return found


def build(config: RunConfig, architecture: "Architecture", text_encoder: "TextEncoder | None") -> "SentimentModel":
    """Build the model of a configuration, random under torch's generator but for its text encoder.

    Raises:
        SettingsError: the model cannot do without a modality that the run lacks.
    """
    name = config.model.name
    found = model_class(name)
    missing = [part for part in MODALITIES if part in found.required_modalities - set(architecture.modalities)]
    if missing:
        switches = ", ".join(MODALITY_SWITCHES[part] for part in missing)
        them = "it" if len(missing) == 1 else "them"
        raise SettingsError(
            f"{name} needs {' and '.join(missing)} and this run has only {', '.join(architecture.modalities)}: "
            f"do not drop {switches}, prepare a store that has {them}, or choose another --model"
        )
    model = cast("Make", found)(config, architecture, text_encoder)
    model.precision = config.compute.precision
    return model


def facts(name: str) -> Facts:
    """Return what is known about a model.

    Raises:
        SettingsError: no model is called so.
    """
    return _known(name, _FACTS)


def _known(name: str, table: dict[str, Value]) -> Value:
    if name in table:
        return table[name]
    raise unknown_model(name, table)


_FACTS = {
    "conki": Facts(
        title="ConKI: Contrastive Knowledge Injection for Multimodal Sentiment Analysis",
        authors="Yu, Zhao, Qi, Sun, Wang, Guo, Wang, Yang, Niu",
        year=2023,
        venue="ACL Findings",
        idea="adapters learn from an external data set; a contrast keeps their knowledge apart from the encoders'",
        pinned="the paper's equations, figures, Algorithm 1 and Appendix B; sizes from the authors' released code",
        ours="LayerNorm in the gate, masks honoured everywhere (docs/fidelity.md)",
    ),
    "tfn": Facts(
        title="Tensor Fusion Network for Multimodal Sentiment Analysis",
        authors="Zadeh, Chen, Poria, Cambria, Morency",
        year=2017,
        venue="EMNLP",
        idea="one outer product holds every single, pairwise and threefold interaction of the three modalities",
        pinned="layers and order of the product by two public implementations; sizes, rates and L1 by MMSA",
        ours="means over the real frames; the LSTM stops at the last real token",
    ),
    "lmf": Facts(
        title="Efficient Low-rank Multimodal Fusion with Modality-Specific Factors",
        authors="Liu, Shen, Lakshminarasimhan, Liang, Zadeh, Morency",
        year=2018,
        venue="ACL",
        idea="the tensor of TFN through weights of low rank, so that it is never built",
        pinned="layers and factors by the authors' code; sizes, rates and L1 by MMSA",
        ours="means over the real frames; rank weights and bias train, as in the authors' code and unlike in MMSA",
    ),
    "mult": Facts(
        title="Multimodal Transformer for Unaligned Multimodal Language Sequences",
        authors="Tsai, Bai, Liang, Kolter, Morency, Salakhutdinov",
        year=2019,
        venue="ACL",
        idea="each modality attends to each other one, frame by frame, without alignment",
        pinned="layers, positions and mask by the authors' code; sizes, rates, clipping and L1 by MMSA",
        ours="a padding mask, and the last real position where both read the last of the array",
    ),
    "iccn": Facts(
        title=(
            "Learning Relationships between Text, Audio, and Video via Deep Canonical Correlation for Multimodal "
            "Language Analysis"
        ),
        authors="Sun, Sarma, Sethares, Liang",
        year=2020,
        venue="AAAI",
        idea="text-based audio and text-based vision learn to correlate, then the scores are learnt on top",
        pinned="outer products with the text, convolutions over them, the correlation between the two, concatenation",
        ours="every size, the two phases with their rates and the regression head: no implementation is public",
    ),
    "misa": Facts(
        title="MISA: Modality-Invariant and -Specific Representations for Multimodal Sentiment Analysis",
        authors="Hazarika, Zimmermann, Poria",
        year=2020,
        venue="ACM Multimedia",
        idea="each modality once in a space of its own and once in a common one; three losses keep them so",
        pinned="layers and losses by the authors' code; weights, rates and clipping by MMSA",
        ours="audio and vision are read at their own lengths, where MMSA takes the number of tokens",
    ),
    "mag-bert": Facts(
        title="Integrating Multimodal Information in Large Pretrained Transformers",
        authors="Rahman, Hasan, Lee, Zadeh, Mao, Morency, Hoque",
        year=2020,
        venue="ACL",
        idea="a gate shifts BERT's token embeddings by what is heard and seen, before its first block",
        pinned="the gate and its place by the authors' code; dropout, rates and L1 by MMSA",
        ours="how frames of unaligned clips meet tokens: spread evenly over them; absent modalities have no term",
    ),
    "self-mm": Facts(
        title=(
            "Learning Modality-Specific Representations with Self-Supervised Multi-Task Learning for Multimodal "
            "Sentiment Analysis"
        ),
        authors="Yu, Xu, Yuan, Wu",
        year=2021,
        venue="AAAI",
        idea="each modality predicts a label of its own, which training derives from the common one",
        pinned="layers, labels and losses by the authors' code; sizes and rates by MMSA, theirs too",
        ours="an empty class keeps its centre; the last, short window of batches is stepped",
    ),
    "hycon": Facts(
        title="Hybrid Contrastive Learning of Tri-Modal Representation for Multimodal Sentiment Analysis",
        authors="Mai, Zeng, Zheng, Hu",
        year=2021,
        venue="arXiv 2109.01797",
        idea="contrasts within a modality, across modalities, and within a sample shape the representations",
        pinned="the three losses by a third party's code after the first version of the paper; encoders by later code",
        ours="task loss, loss weights, rates, batch sizes and SIMS settings: the authors' code is not public",
    ),
    "mmim": Facts(
        title=(
            "Improving Multimodal Fusion with Hierarchical Mutual Information Maximization for Multimodal Sentiment "
            "Analysis"
        ),
        authors="Han, Chen, Poria",
        year=2021,
        venue="EMNLP",
        idea="bounds of mutual information between the modalities, and from the fusion back to them, are raised",
        pinned="layers, losses and the two passes of an epoch by the authors' code; sizes and rates by MMSA",
        ours="entropies need five clips of either polarity; epochs are never chosen on the test split",
    ),
}

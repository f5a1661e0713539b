"""Tiny baselines and batches for the tests of `conki_cli.model.baselines`.

Axis letters: B clips, L positions, D width of the text encoder, da and dv widths of audio and vision frames.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from conki_cli import MODALITIES
from conki_cli.config.resolving import resolve
from conki_cli.config.sections import RunConfig
from conki_cli.model import zoo
from conki_cli.model.batches import Batch, Padded
from conki_cli.model.contract import Architecture, ParameterGroup, SentimentModel
from conki_cli.model.packing import Packing
from conki_cli.model.text_encoder import TextEncoder
from conki_cli.text import load_backbone

Dims = tuple[int, int, int]

DIMS: Dims = (16, 5, 7)
"""D of the fixture `encoder`, da, dv."""
MOSI: Dims = (768, 5, 20)
MOSEI: Dims = (768, 74, 35)
SIMS: Dims = (768, 33, 709)
"""The widths of the three data sets in MMSA's files, with BERT-base."""

CLS, SEP, FIRST_WORD, NUM_WORDS = 2, 3, 5, 14
"""Token ids of the fixture `encoder`."""


def config_of(name: str, overrides: Mapping[str, object] | None = None, dataset: str = "mosi") -> RunConfig:
    """Resolve the configuration of a baseline; `overrides` are settings by section.key, such as {"tfn.text_out": 4}."""
    return resolve(flags={"model.name": name, "data.dataset": dataset, **(overrides or {})})


def text_encoder(folder: Path) -> TextEncoder:
    """Load the fixture `encoder`, width 16."""
    backbone, fresh = load_backbone(str(folder))
    return TextEncoder(backbone, width=backbone.config.hidden_size, fresh=fresh)


def encoded(encoder: TextEncoder, text: Padded) -> tuple[Tensor, list[Tensor]]:
    """Encode padded token ids [B, L]: pooled output [B, D], and hidden states [B, L, D] with 0 on padding."""
    packing = Packing.of(text.mask)
    pooled, hidden = encoder(packing.pack(text.values), packing)
    return pooled, [packing.unpack(states) for states in hidden]


class GivenStates(nn.Module):
    """A text encoder for batches whose text is hidden states already: it has no weights and gives them back."""

    def forward(self, states: Tensor, packing: Packing) -> tuple[Tensor, list[Tensor]]:
        return states[packing.first], [states]


def make(
    name: str,
    overrides: Mapping[str, object] | None = None,
    *,
    dims: Dims = DIMS,
    dataset: str = "mosi",
    text: TextEncoder | None = None,
    external_widths: Mapping[str, int] | None = None,
    seed: int = 1,
) -> SentimentModel:
    """Build a baseline with a preset's settings; without a text encoder it reads batches of text states only."""
    architecture = Architecture(
        MODALITIES,
        width=dims[0],
        text_layers=4,
        widths={"audio": dims[1], "vision": dims[2]},
        positions={"audio": 500, "vision": 500},
        external_widths=external_widths or {},
    )
    torch.manual_seed(seed)
    made = zoo.build(config_of(name, overrides, dataset), architecture, text)
    if text is None:
        made.text = GivenStates()
    return made


def batch_of(
    *,
    text: Sequence[int] = (6, 3, 5, 4),
    audio: Sequence[int] = (9, 1, 4, 6),
    vision: Sequence[int] = (2, 8, 5, 1),
    dims: Dims = DIMS,
    scores: Sequence[float] | None = None,
    token_ids: bool = False,
    seed: int = 0,
) -> Batch:
    """Draw a batch with the given lengths, one per clip; the text as hidden states [B, L, D], or as token ids [B, L].

    Token ids begin with CLS and end with SEP: such texts need a length of 2 at least.
    """
    generator = torch.Generator().manual_seed(seed)
    size = len(text)
    drawn = torch.rand(size, generator=generator) * 6 - 3
    words = _token_ids(text, generator) if token_ids else _frames(text, dims[0], generator)
    return Batch(
        torch.arange(size),
        drawn if scores is None else torch.tensor(scores),
        text=words,
        audio=_frames(audio, dims[1], generator),
        vision=_frames(vision, dims[2], generator),
    )


def mask_of(lengths: Sequence[int]) -> Tensor:
    """Mark the real positions of sequences of these lengths, [B, L]."""
    return torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]


def _frames(lengths: Sequence[int], width: int, generator: torch.Generator) -> Padded:
    mask = mask_of(lengths)
    return Padded(torch.randn(*mask.shape, width, generator=generator) * mask[..., None], mask)


def _token_ids(lengths: Sequence[int], generator: torch.Generator) -> Padded:
    mask = mask_of(lengths)
    values = torch.randint(FIRST_WORD, FIRST_WORD + NUM_WORDS, mask.shape, generator=generator) * mask
    values[:, 0] = CLS
    values[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = SEP
    return Padded(values, mask)


def with_junk(batch: Batch, *, extra: int = 3, junk: float = 50.0) -> Batch:
    """Put junk behind the mask, and `extra` positions of it at the end of every sequence."""

    def spoilt(part: Padded) -> Padded:
        values, mask = part.values, part.mask
        filling = junk if values.is_floating_point() else FIRST_WORD
        longer = torch.full((len(values), values.shape[1] + extra, *values.shape[2:]), filling, dtype=values.dtype)
        longer[:, : values.shape[1]][mask] = values[mask]
        return Padded(longer, torch.cat([mask, mask.new_zeros(len(mask), extra)], dim=1))

    return replace(batch, **{name: spoilt(batch.modality(name)) for name in MODALITIES})


def chosen(batch: Batch, rows: Sequence[int]) -> Batch:
    """Return some clips of a batch, in this order."""
    picked = torch.tensor(rows)
    parts = {name: batch.modality(name).take(picked) for name in MODALITIES}
    return replace(batch, indices=batch.indices[picked], scores=batch.scores[picked], **parts)


def singles(batch: Batch) -> Iterator[Batch]:
    """Yield every clip of a batch as a batch of its own."""
    return (chosen(batch, [row]) for row in range(len(batch)))


def alone(model: SentimentModel, batch: Batch) -> Tensor:
    """Predict every clip of a batch on its own, [B]."""
    return torch.cat([model(one).prediction for one in singles(batch)])


def stirred(model: SentimentModel, *, seed: int = 5) -> SentimentModel:
    """Move every trainable weight off its start, so that nothing is zero by initialisation; evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def total_loss(model: SentimentModel, batch: Batch, phase: str = "main") -> Tensor:
    """Return the sum of a model's loss terms on a batch."""
    return torch.stack(list(model.loss(model(batch), batch, phase).values())).sum()


def assert_absolute_error_alone(model: SentimentModel, batch: Batch) -> None:
    """Assert that a model's loss is the mean absolute error and nothing else."""
    output = model(batch)
    terms = model.loss(output, batch, "main")
    assert list(terms) == ["task"]
    torch.testing.assert_close(terms["task"], (output.prediction - batch.scores).abs().mean())


def count(model: SentimentModel) -> int:
    """Count the parameters that train, without the text encoder's."""
    return sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and not name.startswith("text."))


def grouped(groups: Sequence[ParameterGroup], model: SentimentModel) -> list[set[str]]:
    """Return the names of the parameters of every group."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [{names[id(parameter)] for parameter in group.parameters} for group in groups]


def text_names(model: SentimentModel) -> set[str]:
    """Name the parameters of the text encoder."""
    return {name for name, _ in model.named_parameters() if name.startswith("text.")}


def without_gradient(model: SentimentModel) -> set[str]:
    """Name the trainable parameters that the last backward left without a gradient."""
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None}


OVERRIDES: Mapping[str, Mapping[str, object]] = {
    "conki": {"data.external": "none"},
    "tfn": {"tfn.audio_hidden": 4, "tfn.vision_hidden": 6, "tfn.text_out": 3},
    "mult": {"mult.width": 10, "mult.num_heads": 2, "mult.num_layers": 1},
    "iccn": {"iccn.out_width": 2},
}
"""ConKI without stage 1, the large ones made small, fewer correlations than clips."""
EIGHT = batch_of(
    text=(7, 4, 2, 5, 6, 3, 7, 4),
    vision=(8, 1, 5, 3, 2, 7, 4, 6),
    audio=(3, 9, 1, 6, 5, 2, 8, 4),
    scores=(2.4, -1.0, 0.0, -2.2, 1.0, -0.4, 2.0, -1.6),
    token_ids=True,
)
"""The third clip says nothing; the shortest sequences are shorter than MulT's kernels."""

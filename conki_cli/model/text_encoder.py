"""The pretrained text encoder (Eq. 1), run over packed tokens, so that padding costs nothing.

Axis letters: B texts, T tokens of all of them, D hidden size, H heads.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from conki_cli.model.packing import SIMILAR_SHARE, Packing, attend, moved, similar
from conki_cli.system.errors import EncoderError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "conki_packed"
"""The name of the attention over packed tokens in transformers' registry."""
_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert")
PACKED_TYPES = ("bert", *_AFTER_PADDING, "distilbert", "electra", "albert", "modernbert")
"""Architectures that mix tokens only in attention and accept the positions of tokens as an input."""

Shift = Callable[[Tensor, slice], Tensor]
"""Maps embeddings [T, D] of the packed rows in a slice to their replacement, [T, D]."""


class TextEncoder(nn.Module):
    """A pretrained encoder; without a pooler it gets Linear + tanh on its first token."""

    def __init__(
        self,
        backbone: "PreTrainedModel",
        *,
        width: int,
        fresh: frozenset[str] = frozenset(),
        separator: int | None = None,
    ) -> None:
        """Wrap a pretrained encoder.

        Args:
            backbone: the encoder.
            width: its hidden size D.
            fresh: names of its parameters that the pretrained checkpoint lacked.
            separator: the token after which a text's tokens have the second type; None: all have the first.
        """
        super().__init__()
        self.backbone = backbone
        self.pooler = nn.Linear(width, width) if getattr(backbone, "pooler", None) is None else None
        own = {f"pooler.{name}" for name in ("weight", "bias")} if self.pooler is not None else set()
        self.fresh = frozenset(f"backbone.{name}" for name in fresh) | own
        self.separator = separator
        self.packs = backbone.config.model_type in PACKED_TYPES
        if self.packs:
            _use_packed_attention(backbone)

    def forward(self, token_ids: Tensor, packing: Packing, shift: Shift | None = None) -> tuple[Tensor, list[Tensor]]:
        """Encode packed token ids.

        Args:
            token_ids: [T].
            packing: the texts of the tokens.
            shift: changes the output of the embedding layer.

        Returns:
            O_t [B, D] and H_t, the input of layer 1 and every layer's output, each [T, D].
        """
        hidden = (self._packed if self.packs else self._in_groups)(token_ids, packing, shift)
        return self.pool(hidden[-1][packing.first]), hidden

    def pool(self, first: Tensor) -> Tensor:
        """Turn the last state of the first token into O_t, [B, D] both."""
        linear = self.pooler if self.pooler is not None else self.backbone.pooler
        if isinstance(linear, nn.Linear):  # ours, or ALBERT's
            return torch.tanh(linear(first))
        pooled: Tensor = self.backbone.pooler(first.unsqueeze(1))
        return pooled

    def embed(self, token_ids: Tensor, packing: Packing) -> Tensor:
        """Return H_t[0] of packed token ids, the input of layer 1, [T, D]; only for an encoder that packs."""
        backbone, last = self.backbone, self._last_of_embedding
        positions = {"position_ids": self._positions(packing)} if backbone.config.model_type != "modernbert" else {}
        states: Tensor = backbone.embeddings(input_ids=token_ids[None], **positions, **self._types(token_ids, packing))
        return (states if last is backbone.embeddings else last(states)).squeeze(0)

    @property
    def _last_of_embedding(self) -> nn.Module:
        """The module whose output is H_t[0]: the embedding layer, or the projection to D behind a narrower one.

        Raises:
            EncoderError: the encoder has neither.
        """
        for name in ("embeddings_project", "encoder.embedding_hidden_mapping_in", "embeddings"):  # ELECTRA, ALBERT
            with contextlib.suppress(AttributeError):
                found: nn.Module = self.backbone.get_submodule(name)
                return found
        raise EncoderError(
            f"this model changes the embeddings of words, which the encoder type {self.backbone.config.model_type!r} "
            "does not show",
            "choose another --encoder, such as bert-base-uncased",
        )

    def _types(self, token_ids: Tensor, packing: Packing) -> dict[str, Tensor]:
        """Return the types of all tokens as an argument, [1, T]; empty if all tokens have the first."""
        if self.separator is None:
            return {}
        is_separator = (token_ids == self.separator).long()
        before = is_separator.cumsum(0) - is_separator  # [T], separators before each token, also of earlier texts
        starts = torch.arange(len(before), device=before.device) - packing.positions
        return {"token_type_ids": (before > before[starts]).long()[None]}

    def _positions(self, packing: Packing) -> Tensor:
        """Return the position of every token in its text as the encoder counts, [1, T]."""
        config = self.backbone.config
        start = config.pad_token_id + 1 if config.model_type in _AFTER_PADDING else 0
        return packing.positions[None] + start

    def _packed(self, token_ids: Tensor, packing: Packing, shift: Shift | None) -> list[Tensor]:
        """Run all texts as one row of tokens that attend only within their text."""
        positions = self._positions(packing)
        with self._shifted(shift and (lambda embeddings: shift(embeddings[0], slice(None))[None])):
            out = self.backbone(
                input_ids=token_ids[None],
                position_ids=positions,
                output_hidden_states=True,
                packing=packing,
                **self._types(token_ids, packing),
            )
        return [states.squeeze(0) for states in out.hidden_states]

    def _in_groups(self, token_ids: Tensor, packing: Packing, shift: Shift | None) -> list[Tensor]:
        """Run texts of similar length together, padded to the longest of them."""
        pieces: list[tuple[Tensor, ...]] = []
        start = 0
        for lengths in similar(packing.lengths, SIMILAR_SHARE):
            rows = slice(start, start + sum(lengths))
            pieces.append(self._group(token_ids[rows], lengths, shift and (lambda e, rows=rows: shift(e, rows))))
            start = rows.stop
        return [torch.cat(states) for states in zip(*pieces, strict=True)]

    def _group(
        self, token_ids: Tensor, lengths: tuple[int, ...], shift: Callable[[Tensor], Tensor] | None
    ) -> tuple[Tensor, ...]:
        real = torch.arange(lengths[0]) < torch.tensor(lengths)[:, None]  # [G, L]
        mask = moved(real, token_ids.device)
        group = Packing.of(mask, lengths)
        types = {name: group.unpack(values[0]) for name, values in self._types(token_ids, group).items()}
        with self._shifted(shift and (lambda embeddings: group.unpack(shift(group.pack(embeddings))))):
            out = self.backbone(
                input_ids=group.unpack(token_ids), attention_mask=mask.long(), output_hidden_states=True, **types
            )
        return tuple(group.pack(states) for states in out.hidden_states)

    @contextmanager
    def _shifted(self, shift: Callable[[Tensor], Tensor] | None) -> Iterator[None]:
        """Change the output of the embedding layer during the block."""
        if shift is None:
            yield
            return
        hook = self._last_of_embedding.register_forward_hook(lambda module, inputs, output: shift(output))
        try:
            yield
        finally:
            hook.remove()


def _use_packed_attention(backbone: "PreTrainedModel") -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, _attention)
    backbone.set_attn_implementation(ATTENTION)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Attend within each text, query, key and value [1, H, T, D/H], the result [1, T, D].

    ModernBERT's local layers attend only to tokens nearer than `sliding_window`.
    """
    q, k, v = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))  # [T, H, D/H] each
    return attend(q, k, v, packing, dropout=dropout, window=sliding_window).unsqueeze(0), None

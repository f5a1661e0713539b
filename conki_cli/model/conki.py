"""ConKI: encoders, adapters, fusion (Eqs. 1-3, Figures 1-3, Algorithm 1).

Axis letters: B batch, M modalities of the run (t, v, a), T real positions of the batch, D common width (hidden size of
the text encoder), s inner width of an adapter module.

docs/fidelity.md lists departures from the paper and choices that it leaves open. The main ones: LayerNorm instead of
BatchNorm in the gate of the fusion network, and masks applied everywhere, so that padding never changes an output.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conki_cli.config.sections import RunConfig
from conki_cli.model.batches import Batch
from conki_cli.model.contract import Architecture, Output, ParameterGroup, SentimentModel
from conki_cli.model.layers import (
    EncoderLayer,
    SequenceEncoder,
    largest_divisor,
    mlp,
)
from conki_cli.model.losses import Reduction, hierarchical_contrastive_loss, task_loss
from conki_cli.model.packing import Packing
from conki_cli.model.text_encoder import TextEncoder

FACTS = {
    "label": "ConKI",
    "title": "ConKI: Contrastive Knowledge Injection for Multimodal Sentiment Analysis",
    "authors": "Yu, Zhao, Qi, Sun, Wang, Guo, Wang, Yang, Niu",
    "year": 2023,
    "venue": "ACL Findings",
    "idea": "adapters learn from an external data set; a contrast keeps their knowledge apart from the encoders'",
    "pinned": "the paper's equations, figures, Algorithm 1 and Appendix B; sizes from the authors' released code",
    "ours": "LayerNorm in the gate, masks applied everywhere (docs/fidelity.md)",
}
"""Facts about the model; `config/models.py` reads them without importing this file."""

ADAPTER_INIT_STD = 0.0002
TEXT_ADAPTER_LAYERS = (0, 5, 10)
"""Before the first, sixth and eleventh of BERT-base's twelve layers (Appendix B)."""


class AdapterModule(nn.Module):
    """The sandwich of Figure 3: a Linear, two Transformer layers, a Linear, and a residual from the input."""

    def __init__(self, width: int, inner: int, *, dropout: float) -> None:
        super().__init__()
        heads = largest_divisor(inner, max(1, inner // 64))
        self.down = nn.Linear(width, inner)
        self.layers = nn.ModuleList(
            EncoderLayer(inner, num_heads=heads, ffn_width=4 * inner, dropout=dropout) for _ in range(2)
        )
        self.up = nn.Linear(inner, width)
        for linear in (self.down, self.up):
            nn.init.normal_(linear.weight, std=ADAPTER_INIT_STD)
            nn.init.zeros_(linear.bias)

    def forward(self, states: Tensor, packing: Packing) -> Tensor:
        """Transform packed states [T, D] into [T, D]."""
        inner = self.down(states)  # [T, s]
        for layer in self.layers:
            inner = layer(inner, packing)
        out: Tensor = states + self.up(inner)
        return out

    def first(self, states: Tensor, packing: Packing) -> Tensor:
        """Transform packed states [T, D], and return only the first position of every sequence, [B, D]."""
        lower, upper = self.layers
        inner = cast(EncoderLayer, upper).first(lower(self.down(states), packing), packing)  # [B, s]
        out: Tensor = states[packing.first] + self.up(inner)
        return out


class Adapter(nn.Module):
    """Knowledge injection outside an encoder (Eq. 3, Figure 3): a chain of modules over chosen hidden states."""

    def __init__(self, layers: Sequence[int], width: int, inner: int, *, dropout: float, pool: str) -> None:
        """Chain one module per index of `layers`; `pool` is "first" (text) or "mean" (audio, vision)."""
        super().__init__()
        self.indices = tuple(layers)
        self.chain = nn.ModuleList(AdapterModule(width, inner, dropout=dropout) for _ in layers)
        self.pool = pool
        self.pooler: nn.Module = nn.Linear(width, width) if pool == "first" else nn.LayerNorm(width, eps=1e-5)

    def forward(self, hidden: Sequence[Tensor] | Mapping[int, Tensor], packing: Packing) -> Tensor:
        """Turn the packed hidden states H_m, each [T, D], into A_m [B, D]."""
        *lower, upper = (cast(AdapterModule, module) for module in self.chain)
        states = hidden[self.indices[0]]  # [T, D]
        for module, index in zip(lower, self.indices[1:], strict=True):
            states = hidden[index] + module(states, packing)
        if self.pool == "first":
            return torch.tanh(
                self.pooler(upper.first(states, packing))
            )  # the last states of other positions are not read
        return packing.mean(self.pooler(upper(states, packing)))


class FusionNetwork(nn.Module):
    """Figure 2: concatenation, a gate that weights every feature, dropout."""

    def __init__(self, width: int, *, norm: str, dropout: float) -> None:
        super().__init__()
        inner = max(1, width // 8)
        self.squeeze = nn.Linear(width, inner)
        self.norm: nn.Module = nn.BatchNorm1d(inner) if norm == "batch" else nn.LayerNorm(inner, eps=1e-5)
        self.expand = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, fused: Tensor) -> Tensor:
        """Weight the concatenated [F_t; F_v; F_a], [B, MD] -> [B, MD]."""
        gate = torch.sigmoid(self.expand(F.relu(self.norm(self.squeeze(fused)))))
        weighted: Tensor = self.dropout(gate * fused)
        return weighted


class ConKI(SentimentModel):
    """ConKI (Yu et al., 2023), every ablation of Tables 4 and 5, and the plain-transfer control.

    Stage 1 (`config.run.stage` = pretrain) and stage 2 are the same network; what trains differs (Algorithm 1).
    """

    text_prefix = "encoders.text."

    def __init__(self, config: RunConfig, architecture: Architecture, text_encoder: TextEncoder | None) -> None:
        super().__init__(architecture, None, has_bridges=False)
        self.pretraining = config.run.stage == "pretrain"
        self.transfer = config.dropped("plain-transfer")
        self.takes_head = not config.dropped("handover")
        self.takes_encoders = config.trains_encoders_first
        self.uses_pan = not config.dropped("C3")
        self.inter_knowledge = not config.dropped("N1")
        self.loss_config = config.loss
        self.contrast_weight = 0.0 if self.pretraining or config.dropped("C4") else config.loss.contrast_weight
        self.gate_norm = config.model.gate_norm
        width, modalities = architecture.width, architecture.modalities
        self.encoders = nn.ModuleDict(
            {name: self._sequence_encoder(config, name) for name in modalities if name != "text"}
        )
        if text_encoder is not None:
            self.encoders["text"] = text_encoder
            self.fresh_text = frozenset(f"encoders.text.{name}" for name in text_encoder.fresh)
        self.add_bridges()
        self.adapters = nn.ModuleDict()
        if config.has_adapters:
            self.adapters.update({name: self._adapter(config, name) for name in modalities})
        parts = int(self.uses_pan) + int(config.has_adapters)
        self.inner = nn.ModuleDict({name: nn.Linear(parts * width, width) for name in modalities})
        self.fusion = FusionNetwork(
            len(modalities) * width, norm=config.model.gate_norm, dropout=config.model.gate_dropout
        )
        tail = [max(1, width // k) for k in (1, 2, 4, 8)]
        self.head = mlp([len(modalities) * width, *tail, 1])
        self.freeze(*self._frozen(config))

    def _sequence_encoder(self, config: RunConfig, name: str) -> SequenceEncoder:
        return SequenceEncoder(
            self.architecture.widths[name],
            self.architecture.width,
            num_positions=self.architecture.positions[name],
            num_layers=config.model.num_layers,
            num_heads=config.model.num_heads,
            dropout=config.model.dropout,
        )

    def _adapter(self, config: RunConfig, name: str) -> Adapter:
        depth, width = self.architecture.text_layers, self.architecture.width
        text = name == "text"
        indices = [k * depth // 12 for k in TEXT_ADAPTER_LAYERS] if text else [1]
        inner = config.model.adapter_width or width
        return Adapter(indices, width, inner, dropout=config.model.adapter_dropout, pool="first" if text else "mean")

    def _frozen(self, config: RunConfig) -> list[nn.Module]:
        """Return the modules that this stage freezes (Algorithm 1, lines 6 and 4)."""
        if self.transfer:
            return []
        if self.pretraining:
            return [] if self.takes_encoders else list(self.encoders.values())
        return list(self.adapters.values()) if config.starts_from_adapters and not config.optimizer.lr_adapters else []

    def forward(self, batch: Batch) -> Output:
        """Predict the scores of a batch (Algorithm 1, steps 2-5)."""
        pan, specific, fused = [], [], []
        for name in self.architecture.modalities:
            known = self._represent(name, batch)  # O_m and A_m, if they exist, each [B, D]
            pan.append(known[0])
            specific += known[1:]
            used = known if self.uses_pan else known[1:]
            fused.append(batch.masked(name, self.inner[name](torch.cat(used, dim=-1))))  # F_m [B, D]
        prediction = self.head(self.fusion(torch.cat(fused, dim=-1))).squeeze(-1)  # [B]
        return Output(
            prediction,
            pan=torch.stack(pan, dim=1) if self.uses_pan else None,
            specific=torch.stack(specific, dim=1) if specific else None,
        )

    def _represent(self, name: str, batch: Batch) -> list[Tensor]:
        """Return O_m and, with adapters, A_m of a modality, each [B, D]."""
        part = batch.modality(name)
        if name == "text":
            packing = Packing.of(part.mask, part.lengths)
            own, hidden = self._encode_text(packing.pack(part.values), packing, batch.states)
        else:
            led = part.with_leading_position()  # the place of [CLS]
            packing = Packing.of(led.mask, led.lengths)
            frames = packing.pack(led.values)  # [T, d]
            own, hidden = self.encoders[name](self.bridged(frames, name, batch), packing)
        return [own, self.adapters[name](hidden, packing)] if self.adapters else [own]

    def _encode_text(
        self, token_ids: Tensor, packing: Packing, states: Mapping[str, Tensor]
    ) -> tuple[Tensor, Mapping[int, Tensor] | list[Tensor]]:
        """Return O_t [B, D] and the H_t that are read, each [T, D]; they may be cached states."""
        encoder = self.text_encoder
        if not states:
            found: tuple[Tensor, list[Tensor]] = encoder(token_ids, packing)
            return found
        hidden = {int(name[6:]): packing.pack(kept) for name, kept in states.items() if name != "first"}
        if 0 in (self.layers_read or ()) and 0 not in hidden:
            hidden[0] = encoder.embed(token_ids, packing)
        return encoder.pool(states["first"]), hidden

    @property
    def text_encoder(self) -> TextEncoder:
        """The encoder of a run with text."""
        return cast(TextEncoder, self.encoders["text"])

    @property
    def layers_read(self) -> tuple[int, ...] | None:
        """Which hidden states H_t of a frozen text encoder are read: stage 1 reads those of the adapter."""
        if "text" not in self.encoders or self.encoders["text"] not in self.frozen:
            return None
        return cast(Adapter, self.adapters["text"]).indices if self.adapters else ()

    def smallest_batch(self, phase: str) -> int:
        """Return 2 with BatchNorm in the gate, which cannot train on one clip."""
        return 2 if self.gate_norm == "batch" else 1

    def loss(self, output: Output, batch: Batch, phase: str) -> dict[str, Tensor]:
        """Return L_task (Eq. 4) and, in stage 2, lambda L_con (Eq. 5)."""
        terms = {"task": task_loss(output.prediction, batch.scores)}
        if self.contrast_weight:
            pan, specific = output.pan, output.specific
            if pan is None:  # w/o C3: the contrast is only over the A_m
                pan, specific = specific, None
            assert pan is not None
            contrast = hierarchical_contrastive_loss(
                pan,
                specific,
                batch.scores,
                temperature=self.loss_config.temperature,
                inter_knowledge=self.inter_knowledge,
                reduction=cast(Reduction, self.loss_config.reduction),  # its values are checked in config
                present=batch.presence(self.architecture.modalities),
            )
            terms["contrast"] = self.contrast_weight * contrast
        return terms

    def report(self, terms: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return the mean of L_con, which compares across batch sizes: L_con / B where it is a sum over samples."""
        if "contrast" not in terms:
            return {}
        count = len(batch) if self.loss_config.reduction == "sample-sum" else 1
        return {"contrast_per_sample": terms["contrast"].detach() / self.contrast_weight / count}

    def parameter_groups(self, config: RunConfig, phase: str) -> list[ParameterGroup]:
        """Return stage 1's one group, or text, audio/vision and other groups (Appendix B)."""
        first, rates = config.pretraining, config.optimizer
        if self.pretraining and not self.transfer:
            trained = [p for p in self.parameters() if p.requires_grad]
            if not self.takes_encoders:
                return [ParameterGroup(trained, first.learning_rate, first.weight_decay)]
            return self._rated_groups(
                text=first.lr_encoders,
                frames=first.lr_audio_vision or first.lr_encoders,
                others=first.learning_rate,
                weight_decay=first.weight_decay,
            )
        return self._rated_groups(
            text=rates.lr_encoders,
            frames=rates.lr_audio_vision or rates.lr_encoders,
            others=rates.lr_others,
            adapters=rates.lr_adapters if config.starts_from_adapters else 0.0,
            weight_decay=rates.weight_decay,
        )

    def _rated_groups(
        self, *, text: float, frames: float, others: float, weight_decay: float, adapters: float = 0.0
    ) -> list[ParameterGroup]:
        """Group the trainable parameters by rate and weight decay; adapters with rate 0 have the rate of the others."""
        encoders = {name: list(module.parameters()) for name, module in self.encoders.items()}
        of_text = {id(p) for p in encoders.get("text", [])}
        of_frames = {id(p) for name, group in encoders.items() if name != "text" for p in group}
        rate_of = {id(p): adapters or others for p in self.adapters.parameters()}
        rate_of |= dict.fromkeys(of_frames, frames) | dict.fromkeys(of_text, text)
        return self.groups_by_rate(rate_of, others, weight_decay)

    def handed_over(self) -> list[str]:
        """Name the weights of this stage 1 that stage 2 starts from.

        Adapters, the random audio and vision encoders that they were trained with, fusion layers and head; `w/o
        handover` leaves out fusion layers and head. Trained encoders are handed over as well; bridge layers are not.
        """
        names = self.state_dict().keys()
        prefixes = ["adapters.", "encoders.vision.", "encoders.audio."]
        if self.takes_head:
            prefixes += ["inner.", "fusion.", "head."]
        if self.takes_encoders:
            prefixes.append("encoders.")
        return [name for name in names if name.startswith(tuple(prefixes)) or name in self.fresh_text]

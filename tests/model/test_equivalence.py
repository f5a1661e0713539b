"""ConKI's network computes what the authors' released network computes.

Both were given the same weights and clips outside this project (PipiZong/KI_MSA, commit 37caae0, on the CPU, with the
patched text encoder that it lacks). Here weights and clips follow from formulas, and the golden values are those of
the authors' network where it gives them (predictions, F_m, loss) and ours elsewhere. float64, evaluation mode.
"""

import zlib
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from conki_cli.config.resolving import resolve
from conki_cli.model.batches import Batch, Padded
from conki_cli.model.conki import ConKI
from conki_cli.model.contract import Architecture, Output
from conki_cli.model.text_encoder import TextEncoder

WIDTH = 16
FRAMES = {"vision": (500, 3, 0.013, 0.9), "audio": (375, 2, 0.021, 1.3)}
"""Frames, columns, and two factors of the formula of their values."""
SCORES = (1.2, 0.8, -2.0)


def weight(name: str, shape: Sequence[int]) -> Tensor:
    """Return the weight of a name: w = sin(1.7 k + 0.013 c), scaled by what kind of weight it is."""
    count = zlib.crc32(name.encode()) % 997
    k = torch.arange(int(torch.Size(shape).numel()), dtype=torch.float64)
    w = torch.sin(1.7 * k + 0.013 * count).reshape(tuple(shape))
    last = name.rsplit(".", 1)[-1]
    is_norm = "norm" in name.lower() or name in ("adapters.vision.pooler.weight", "adapters.audio.pooler.weight")
    if last == "running_var":
        return 1 + 0.5 * w.abs()
    if last == "running_mean":
        return 0.2 * w
    if len(shape) == 1:
        return 1 + 0.2 * w if last == "weight" and is_norm else 0.1 * w
    return 1.5 * w / shape[-1] ** 0.5


def clips() -> Batch:
    """Return three clips without padding."""
    i = torch.arange(3, dtype=torch.float64)
    j = torch.arange(7)
    parts = {"text": Padded((3 * i.long()[:, None] + 5 * j) % 25 + 5, torch.ones(3, 7, dtype=torch.bool))}
    for name, (length, width, per_frame, per_column) in FRAMES.items():
        frame, column = torch.arange(length, dtype=torch.float64), torch.arange(width, dtype=torch.float64)
        angle = 0.7 * i[:, None, None] + per_frame * frame[:, None] + per_column * column
        parts[name] = Padded(torch.cos(angle), torch.ones(3, length, dtype=torch.bool))
    return Batch(torch.arange(3), torch.tensor(SCORES, dtype=torch.float64), **parts)


@pytest.fixture(scope="module")
def network() -> ConKI:
    """ConKI in the authors' way: BatchNorm in the gate, one denominator per vector."""
    from transformers import BertConfig, BertModel

    sizes = BertConfig(
        vocab_size=30,
        hidden_size=WIDTH,
        num_hidden_layers=12,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    flags = {
        "run.recipe": "released",
        "model.text_encoder": ".",
        "loss.temperature": 0.07,
        "loss.contrast_weight": 0.01,
    }
    shape = Architecture(
        ("text", "vision", "audio"),
        WIDTH,
        12,
        widths={name: values[1] for name, values in FRAMES.items()},
        positions={name: values[0] for name, values in FRAMES.items()},
    )
    model = ConKI(resolve(flags=flags), shape, TextEncoder(BertModel(sizes), width=WIDTH)).double().eval()
    state = model.state_dict()
    fitting = {name: weight(name, value.shape) for name, value in state.items() if value.is_floating_point()}
    model.load_state_dict({**state, **fitting})
    return model


class Found:
    """What the network gives for the clips, with the F_m that it does not return."""

    def __init__(self, network: ConKI) -> None:
        self.fused: dict[str, Tensor] = {}
        handles = [module.register_forward_hook(self._keep(name)) for name, module in network.inner.items()]
        with torch.no_grad():
            self.output: Output = network(clips())
            self.terms = network.loss(self.output, clips(), "main")
        for handle in handles:
            handle.remove()

    def _keep(self, name: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, inputs: object, value: Tensor) -> None:
            self.fused[name] = value

        return hook


@pytest.fixture(scope="module")
def found(network: ConKI) -> Found:
    return Found(network)


def test_the_predictions_are_the_authors(found: Found) -> None:
    authors = torch.tensor([-0.120441590540, -0.120173921315, -0.120098614210], dtype=torch.float64)
    torch.testing.assert_close(found.output.prediction, authors, rtol=0, atol=1e-10)


def test_the_loss_is_the_authors(found: Found) -> None:
    assert float(found.terms["task"]) == pytest.approx(2.041438419931, abs=1e-10)
    assert float(found.terms["contrast"]) == pytest.approx(0.075139833865, abs=1e-11)


@pytest.mark.parametrize(
    ("modality", "authors"),
    [
        ("text", (-0.3190987484, 0.3836679874)),
        ("vision", (0.1481559610, 0.0127221229)),
        ("audio", (-0.5280027575, 0.3105479243)),
    ],
)
def test_the_inner_modality_fusion_is_the_authors(found: Found, modality: str, authors: tuple[float, float]) -> None:
    assert found.fused[modality][0, :2].tolist() == pytest.approx(authors, abs=2e-8)


@pytest.mark.parametrize(
    ("kind", "row", "golden"),
    [
        ("pan", 0, (-0.3953822603, -0.1498889130)),
        ("pan", 1, (0.0074946061, 0.0032272100)),
        ("pan", 2, (-0.4508608555, -0.2228199837)),
        ("specific", 0, (0.9883575525, -0.9999923193)),
        ("specific", 1, (-0.7188921687, -0.0567014612)),
        ("specific", 2, (0.1925981630, -1.0765944917)),
    ],
)
def test_the_representations_stay(found: Found, kind: str, row: int, golden: tuple[float, float]) -> None:
    values: Tensor = getattr(found.output, kind)
    assert values[0, row, :2].tolist() == pytest.approx(golden, abs=1e-9)

"""Planted permutations are recovered, functions are left as they were, what is not understood is left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import UnknownName, UsageError
from layerscope.lenses.landscape.alignment.permutation_groups import trace_groups
from layerscope.lenses.landscape.alignment.weight_matching import permute
from layerscope.sources.model_weights import weights_of
from tests.requirements import require

torch: Any = require("torch")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from layerscope.lenses.learning_statistics.paper_networks import mlp, resnet  # noqa: E402


class Stream(nn.Module):
    """A residual stream behind a stem, with norms and functional layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.a, self.b, self.head = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x: Any) -> Any:
        x = functional.relu(self.bn(self.stem(x)))
        x = x + self.b(functional.relu(self.a(x)))
        return self.head(x.mean((2, 3)))


class Mixer(nn.Module):
    """Attention, whose reshapes are not understood, and an MLP, which is."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.up, self.down, self.norm = nn.Linear(8, 24), nn.Linear(8, 20), nn.Linear(20, 8), nn.LayerNorm(8)

    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + functional.scaled_dot_product_attention(q, k, v)
        return x + self.down(functional.gelu(self.up(self.norm(x))))


CASES: dict[str, tuple[Any, Any, int]] = {
    "mlp": (lambda: mlp([64, 40, 30, 10], bias=True), (20, 64), 2),
    "mlp with norms": (lambda: mlp([64, 50, 50, 10], norm=True), (20, 64), 2),
    "cnn": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(),
            nn.Flatten(), nn.Linear(256, 20), nn.ReLU(), nn.Linear(20, 5),
        ),
        (6, 1, 14, 14), 3,
    ),
    "residual": (Stream, (6, 1, 8, 8), 2),
    "resnet with type A shortcuts": (lambda: resnet(8, channels=1), (6, 1, 8, 8), 3),
    "transformer block": (Mixer, (3, 5, 8), 1),
}  # fmt: skip


@pytest.mark.parametrize("method", ["weights", "activations"])
@pytest.mark.parametrize("case", CASES)
def test_a_planted_permutation_is_recovered(case: str, method: str) -> None:
    make, shape, count = CASES[case]
    torch.manual_seed(0)
    net, x = make().eval(), torch.randn(*shape)
    net(x)
    free = [group for group in trace_groups(net, x) if not group.fixed]
    assert len(free) == count
    rng = np.random.default_rng(0)
    weights = weights_of(net)
    planted = permute(weights, free, [rng.permutation(group.units) for group in free])
    assert any(not np.array_equal(weights[name], planted[name]) for name in weights)
    if method == "activations":
        x = torch.randn(max(60, shape[0]), *shape[1:])
    found = layerscope.align(net, weights, planted, x, method=method)
    assert found.output_change < 1e-5
    assert found.before > 0.1
    assert found.after == pytest.approx(0, abs=1e-6)
    assert all(np.array_equal(weights[name], found.weights[name]) for name in weights)


def test_noise_on_a_planted_copy_stays_and_nothing_else() -> None:
    torch.manual_seed(0)
    net, x = mlp([64, 100, 100, 10]), torch.randn(9, 64)
    free = [group for group in trace_groups(net, x) if not group.fixed]
    weights, rng = weights_of(net), np.random.default_rng(1)
    noisy = {name: (v + 0.01 * rng.standard_normal(v.shape)).astype(v.dtype) for name, v in weights.items()}
    truth = np.sqrt(sum(float(np.square(weights[k] - noisy[k]).sum()) for k in weights))
    planted = permute(noisy, free, [rng.permutation(group.units) for group in free])
    assert layerscope.align(net, weights, planted, x).after == pytest.approx(truth, rel=1e-4)


def test_aligned_copies_have_no_barrier() -> None:
    torch.manual_seed(0)
    net, x = mlp([16, 30, 30, 4], init="he"), torch.randn(200, 16)
    y = net(x).argmax(1)
    free = [group for group in trace_groups(net, x) if not group.fixed]
    rng = np.random.default_rng(0)
    planted = permute(weights_of(net), free, [rng.permutation(group.units) for group in free])
    evaluate = layerscope.TorchEvaluator(net, (x, y))
    raw = layerscope.line(net, planted, evaluate).barrier().value
    aligned = layerscope.line(net, layerscope.align(net, net, planted, x).weights, evaluate).barrier().value
    assert raw > 0.05
    assert aligned == pytest.approx(0, abs=1e-6)


def test_shared_layers_and_grouped_convolutions_are_left_alone() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Any) -> Any:
            return self.head(torch.relu(self.a(torch.relu(self.a(x)))))

    for net, x in (
        (Shared(), torch.randn(4, 8)),
        (
            nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(8 * 16, 3)),
            torch.randn(4, 4, 8, 8),
        ),
    ):
        found = layerscope.align(net, net, net, x)
        assert found.output_change < 1e-6
        assert all(np.array_equal(found.weights[k], v) for k, v in weights_of(net).items())


def test_what_is_wrong_is_said() -> None:
    net, x = mlp([8, 6, 3]), torch.randn(4, 8)
    with pytest.raises(UnknownName, match="weights"):
        layerscope.align(net, net, net, x, method="weight")
    with pytest.raises(UsageError, match="must have the same architecture"):
        layerscope.align(net, net, mlp([8, 7, 3]), x)

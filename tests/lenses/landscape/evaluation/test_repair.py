"""REPAIR: between two models every unit has the mean and the spread that it has at the ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import UsageError
from layerscope.sources.model_weights import weights_of
from tests.requirements import require

torch: Any = require("torch")
from torch import nn  # noqa: E402


def net(seed: int, *, norm: bool = False) -> Any:
    torch.manual_seed(seed)
    middle = [nn.BatchNorm1d(12)] if norm else []
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 12), *middle, nn.ReLU(), nn.Linear(12, 3)).double()


@pytest.fixture
def data() -> Any:
    torch.manual_seed(9)
    return torch.randn(70, 6).double(), torch.randint(3, (70,))


def moments(rows: Any) -> Any:
    return rows.mean(0), rows.std(0, correction=0)


def by_hand(a: Any, b: Any, t: float, x: Any) -> Any:
    """The repaired network's outputs, layer by layer from the paper's definition."""
    h, ends = x, [x, x]
    for k in (0, 2):
        mixed = (1 - t) * h @ a[k].weight.T + t * h @ b[k].weight.T + (1 - t) * a[k].bias + t * b[k].bias
        own = [net[k](rows) for net, rows in zip((a, b), ends, strict=True)]
        (ma, sa), (mb, sb), (m, s) = (moments(rows) for rows in (*own, mixed))
        h = torch.relu((mixed - m) / s * ((1 - t) * sa + t * sb) + (1 - t) * ma + t * mb)
        ends = [torch.relu(rows) for rows in own]
    return h @ ((1 - t) * a[4].weight + t * b[4].weight).T + (1 - t) * a[4].bias + t * b[4].bias


def test_it_is_the_papers_definition(data: Any) -> None:
    a, b = net(0), net(1)
    evaluate = layerscope.TorchEvaluator(a, data, calibrate=data[0], repair=True)
    line = layerscope.line(a, b, evaluate, points=5, span=(-0.25, 1.25))
    for t, loss in zip(line.t, line.metrics["loss"], strict=True):
        with torch.no_grad():
            expected = nn.functional.cross_entropy(by_hand(a, b, float(t), data[0]), data[1])
        assert loss == pytest.approx(float(expected), abs=1e-10)
    assert line.about["repair"] == "2 layers"


def test_ends_are_the_models_and_the_model_is_as_before(data: Any) -> None:
    a, b = net(0, norm=True).eval(), net(1, norm=True).eval()
    before = {name: value.copy() for name, value in weights_of(a).items()}
    evaluate = layerscope.TorchEvaluator(a, data, calibrate=data[0][:50], repair=True)
    plain = layerscope.TorchEvaluator(a, data, calibrate=data[0][:50])
    found, other = (layerscope.line(a, b, each, points=3) for each in (evaluate, plain))
    assert found.metrics["loss"][[0, 2]] == pytest.approx(other.metrics["loss"][[0, 2]], abs=1e-12)
    assert found.metrics["loss"][1] != pytest.approx(other.metrics["loss"][1], abs=1e-6)
    assert found.about["repair"] == "1 layers"  # the other one stands before a norm
    assert evaluate(b).metrics["loss"] == pytest.approx(plain(b).metrics["loss"], abs=1e-12)
    assert all(np.array_equal(before[name], value) for name, value in weights_of(a).items())


def test_a_unit_that_does_not_change_is_left_alone(data: Any) -> None:
    a, b = net(0), net(1)
    with torch.no_grad():
        for each in (a, b):
            each[0].weight[3] = 0.0
    line = layerscope.line(a, b, layerscope.TorchEvaluator(a, data, repair=True), points=3)
    assert np.isfinite(line.metrics["loss"]).all()
    assert not line.holes


def test_it_needs_a_layer_to_repair(data: Any) -> None:
    with pytest.raises(UsageError, match="no linear layer"):
        layerscope.TorchEvaluator(nn.Linear(6, 3).double(), data, repair=True)


def test_examples_are_drawn_class_by_class() -> None:
    x, y = torch.arange(300.0)[:, None].repeat(1, 6), torch.tensor([0] * 200 + [1] * 60 + [2] * 40)
    evaluate = layerscope.TorchEvaluator(net(0).float(), (x, y), examples=30)
    assert torch.bincount(evaluate.y).tolist() == [20, 6, 4]
    assert len(evaluate.x.unique(dim=0)) == 30
    again = layerscope.TorchEvaluator(net(0).float(), (x, y), examples=30)
    assert torch.equal(evaluate.x, again.x)
    for wrong in (0, 301, 2.5):
        with pytest.raises(UsageError, match="between 1 and 300"):
            layerscope.TorchEvaluator(net(0).float(), (x, y), examples=wrong)


def test_a_forward_of_ones_own_is_taken_everywhere(data: Any) -> None:
    class Wrapped(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.inner = net(seed)

        def forward(self, *, inputs: Any) -> Any:
            return {"logits": self.inner(inputs)}

    def forward(model: Any, x: Any) -> Any:
        return model(inputs=x)["logits"]

    a, b = Wrapped(0), Wrapped(1)
    evaluate = layerscope.TorchEvaluator(a, data, forward=forward)
    found = layerscope.line(a, b, evaluate, points=5)
    plain = layerscope.line(a.inner, b.inner, layerscope.TorchEvaluator(a.inner, data), points=5)
    assert found.metrics["loss"] == pytest.approx(plain.metrics["loss"], abs=1e-12)
    curve = layerscope.connect(a, b, evaluate, data, steps=20)
    assert np.isfinite(curve.curved.metrics["loss"]).all()
    assert layerscope.sharpness(a, evaluate, draws=1).gradient > 0
    with torch.no_grad():
        b.inner.load_state_dict(a.inner.state_dict())
        for name, axis in (("0.weight", 0), ("0.bias", 0), ("2.weight", 1)):
            b.inner.state_dict()[name].copy_(a.inner.state_dict()[name].flip(axis))
        y = a.inner(data[0]).argmax(1)
    evaluate = layerscope.TorchEvaluator(a, (data[0], y), forward=forward)
    found = layerscope.basins([a, b], evaluate, points=5, tolerance=1e-6)
    assert found.barriers["straight"][0, 1] > 1e-3
    assert found.barriers["aligned"][0, 1] == pytest.approx(0, abs=1e-9)
    assert (len(found.clusters), len(found.aligned)) == (2, 1)
    assert any(line.startswith("Align ") and "disappears" in line for line in found.advice())

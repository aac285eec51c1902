"""Models as strangers write them, at points between others, against the same weights in a copy of the model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import layerscope
from layerscope.errors import LayerscopeError
from tests.requirements import require

torch: Any = require("torch")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

POINTS = ((1.0, 0.0), (0.5, 0.5), (-0.3, 1.3), (0.0, 1.0))


class Net(nn.Module):
    """Some layers, and what a function does with them."""

    def __init__(self, seed: int, forward: Callable[[Any, Any], Any], **layers: Callable[[], Any]) -> None:
        super().__init__()
        torch.manual_seed(seed)
        for name, make in layers.items():
            setattr(self, name, make())
        self.way = forward

    def forward(self, x: Any) -> Any:
        return self.way(self, x)


class MaxNorm(nn.Linear):
    """Gives itself other weights each time."""

    def forward(self, x: Any) -> Any:
        self.weight.data = torch.renorm(self.weight.data, 2, 0, 1.0)
        return super().forward(x)


def written(net: Any, x: Any) -> Any:
    """The ReLU's output is written into another tensor."""
    y = functional.relu(net.c(x))
    kept = torch.zeros_like(y).contiguous()
    pooled = functional.max_pool2d(y, 2)
    kept[:] = y
    return net.h(pooled.mean((2, 3))) + net.h(kept.mean((2, 3)))


def alias(net: Any, x: Any) -> Any:
    b = net.c(x)
    v = b.view(b.shape)
    functional.relu_(v)
    return net.h(functional.max_pool2d(v, 2).mean((2, 3)) + b.mean((2, 3)))


def two_ways(net: Any, x: Any) -> Any:
    few, h = len(x) <= 3, net.c(x)
    y = functional.relu(h)
    return net.h(functional.max_pool2d(y, 2).mean((2, 3)) if few else y.mean((2, 3)) + h.mean((2, 3)))


def scaled(net: Any, x: Any) -> Any:
    """Kernels of unit spread."""
    w = net.d.weight
    w = w / w.view(w.size(0), -1).std(1).view(-1, 1, 1, 1)
    return net.h(functional.conv2d(functional.relu(net.c(x)), w).mean((2, 3)))


def called(of: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    def forward(net: Any, x: Any) -> Any:
        y = torch.func.functional_call(net.a, {"weight": of(net.a.weight)}, x)
        return net.b(functional.relu(y))

    return forward


def force(net: Any, x: Any) -> Any:
    """The gradient of an energy in its inputs."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        energy = net.b(torch.tanh(net.a(x))).sum() + 0.5 * (x * x).sum()
        return torch.autograd.grad(energy, x)[0].detach()


def experts(net: Any, x: Any) -> Any:
    """One runs only where some example needs it."""
    chosen, z = (x[:, 0] > 0)[:, None], net.other(x)
    return net.b(functional.relu(torch.where(chosen, net.a(x), z) if chosen.any() else z))


def viewed(net: Any, x: Any) -> Any:
    return net.b(functional.max_pool2d(functional.relu(net.c(x)), 2).view(-1, 6 * 14 * 14))


LAYERS: dict[str, Callable[[], Any]] = {"a": lambda: nn.Linear(6, 8), "b": lambda: nn.Linear(8, 10)}
IMAGES: dict[str, Callable[[], Any]] = {
    "c": lambda: nn.Conv2d(3, 8, 3, padding=1), "d": lambda: nn.Conv2d(8, 8, 3), "h": lambda: nn.Linear(8, 10),
}  # fmt: skip
PIECES: dict[str, Callable[[], Any]] = {**LAYERS, "n": lambda: nn.BatchNorm1d(8)}
CASES: dict[str, tuple[Callable[[Any, Any], Any], dict[str, Callable[[], Any]], tuple[int, ...], dict[str, Any]]] = {
    "a view of pooled channels": (
        viewed, {"c": lambda: nn.Conv2d(3, 6, 5), "b": lambda: nn.Linear(6 * 14 * 14, 10)}, (3, 32, 32), {},
    ),
    "a view of what a linear layer gives": (
        lambda net, x: net.b(functional.relu(net.a(x)).view(len(x), -1)),
        {"a": lambda: nn.Linear(5, 8), "b": lambda: nn.Linear(4 * 4 * 8, 10)}, (4, 4, 5), {},
    ),
    "a view of kernels": (scaled, IMAGES, (3, 8, 8), {}),
    "written elsewhere": (written, IMAGES, (3, 8, 8), {}),
    "an alias changed in place": (alias, IMAGES, (3, 8, 8), {}),
    "another way for few": (two_ways, IMAGES, (3, 8, 8), {}),
    "weights of its own": (
        lambda net, x: net.m(functional.relu(net.a(x))), {**LAYERS, "m": lambda: MaxNorm(8, 10)}, (6,), {"batch": 7},
    ),
    "a function of the weight": (called(torch.tanh), LAYERS, (6,), {}),
    "signs of the weight": (called(torch.sign), LAYERS, (6,), {}),
    "a gradient in the inputs": (
        force, {"a": lambda: nn.Linear(6, 8), "b": lambda: nn.Linear(8, 1)}, (6,), {"loss": "mse"},
    ),
    "vmap": (lambda net, x: torch.func.vmap(lambda z: net.b(torch.tanh(net.a(z))))(x), LAYERS, (6,), {}),
    "a layer for some": (experts, {**LAYERS, "other": lambda: nn.Linear(6, 8)}, (6,), {"batch": 10}),
    "a layer for few": (
        lambda net, x: net.b(functional.relu(net.a(x) if len(x) <= 3 else net.other(x))),
        {**LAYERS, "other": lambda: nn.Linear(6, 8)}, (6,), {},
    ),
    "in pieces": (
        lambda net, x: net.b(functional.relu(net.n(torch.cat([net.a(part) for part in x.split(10)])))),
        PIECES, (6,), {"batch": 10},
    ),
    "an attribute called module": (
        lambda net, x: net.module(x),
        {"module": lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 10))}, (6,), {},
    ),
}  # fmt: skip


def plain(models: Sequence[Any], mixture: Sequence[float], x: Any, y: Any, loss: str) -> float:
    net = copy.deepcopy(models[0]).eval()
    states = [model.state_dict() for model in models]
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                value.copy_(sum(c * state[name] for c, state in zip(mixture, states, strict=True) if c))
        for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm1d)):
            norm.train()
            norm.momentum = 1.0
        net(x)
        out = net.eval()(x)
        if loss == "mse":
            return float(0.5 * (out - y).square().sum(1).mean())
        return float(functional.cross_entropy(out, y))


@pytest.mark.parametrize("case", CASES)
def test_points_are_plain_evaluations(case: str) -> None:
    forward, layers, shape, how = CASES[case]
    models = [Net(seed, forward, **layers) for seed in range(2)]
    torch.manual_seed(5)
    x = torch.randn(40, *shape)
    if case == "a layer for some":  # in some batches only the first example needs it
        x[:, 0] = -x[:, 0].abs()
        x[0, 0], x[20:, 0] = 1.0, -x[20:, 0]
    y = torch.randn(40, 6) if how.get("loss") == "mse" else torch.randint(10, (40,))
    evaluate = layerscope.TorchEvaluator(models[0], (x, y), **how)
    for _ in range(2):  # nothing is left of the first time
        with evaluate.walk(models) as at:
            for mixture in POINTS:
                expected = plain(models, mixture, x, y, how.get("loss", ""))
                assert at(mixture).metrics["loss"] == pytest.approx(expected, rel=2e-6), mixture


def mlp(seed: int) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 10))


@pytest.fixture
def data() -> Any:
    torch.manual_seed(5)
    return torch.randn(40, 6), torch.randint(10, (40,))


def test_a_walk_inside_a_walk(data: Any) -> None:
    a, b = mlp(0), mlp(1)
    evaluate = layerscope.TorchEvaluator(a, data)
    alone, gradient = evaluate(a).metrics["loss"], evaluate.gradient(a)
    with evaluate.walk([a, b]) as at:
        before = at([0.3, 0.7]).metrics["loss"]
        assert evaluate(a).metrics["loss"] == alone
        assert set(evaluate.gradient(a)) == set(gradient)
        layerscope.line(b, a, evaluate, points=3)
        assert at([0.3, 0.7]).metrics["loss"] == before


def test_parameters_that_share_memory_are_one(data: Any) -> None:
    def tied(seed: int) -> Any:
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 10))
        net[2].weight.data = net[0].weight.data
        return net.double()

    a, b = tied(0), tied(1)
    x, y = data[0].double(), data[1]
    evaluate = layerscope.TorchEvaluator(a, (x, y))
    with evaluate.walk([a, b]) as at:
        for mixture in POINTS:
            assert at(mixture).metrics["loss"] == pytest.approx(plain([a, b], mixture, x, y, ""), rel=1e-12)
    weights, gradient, h = dict(layerscope.sources.model_weights.weights_of(a)), evaluate.gradient(a)["0.weight"], 1e-6
    ends = [evaluate({**weights, "0.weight": weights["0.weight"] + s * h}).metrics["loss"] for s in (1, -1)]
    assert float(gradient.sum()) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5)


def test_what_a_corner_lacks_does_not_count(data: Any) -> None:
    a, b, c = mlp(0), mlp(1), mlp(2)
    b[0].weight.data[0, 0] = float("nan")
    plane = layerscope.plane(a, b, c, layerscope.TorchEvaluator(a, data), u=(0, 1, 2), v=(0, 1, 3))
    for v, found in zip(plane.v, plane.metrics["loss"][:, 0], strict=True):
        assert float(found) == pytest.approx(plain([a, c], [1 - v, v], *data, ""), rel=2e-6)


def test_an_end_that_cannot_be_evaluated_is_a_hole(data: Any) -> None:
    def fails(net: Any, x: Any) -> Any:
        if float(net.b.bias[0]) > 5:
            raise ValueError("boom")
        return net.b(functional.relu(net.a(x)))

    a, b = (Net(seed, fails, **LAYERS) for seed in range(2))
    b.b.bias.data[0] = 9
    line = layerscope.line(a, b, layerscope.TorchEvaluator(a, data), points=5)
    assert [bool(torch.tensor(x).isfinite()) for x in line.metrics["loss"]] == [True] * 3 + [False] * 2
    assert float(line.metrics["loss"][1]) == pytest.approx(plain([a, b], [0.75, 0.25], *data, ""), rel=2e-6)


def test_buffers_that_are_alike_are_not_mixed(data: Any) -> None:
    def masked(seed: int) -> Any:
        net = Net(seed, lambda net, x: net.b((net.a(x) + net.mask).softmax(-1)), **LAYERS)
        net.register_buffer("mask", torch.tensor([0.0, -torch.inf] * 4))
        return net

    a, b = masked(0), masked(1)
    line = layerscope.line(a, b, layerscope.TorchEvaluator(a, data), span=(-1, 2), points=4)
    assert not line.holes


def test_outputs_are_those_behind_the_loss(data: Any) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))
    evaluate = layerscope.TorchEvaluator(net, data, bn="batch")
    with evaluate.walk([net]) as at:
        loss, outputs = at([1.0]).metrics["loss"], torch.from_numpy(evaluate.outputs())
    assert float(functional.cross_entropy(outputs, data[1])) == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("kind", ["called twice", "instances", "without a shift"])
def test_gradients_through_norms_of_every_kind(kind: str) -> None:
    torch.manual_seed(0)
    norm: Any = {
        "called twice": lambda: nn.BatchNorm2d(4), "instances": lambda: nn.InstanceNorm2d(4, track_running_stats=True),
        "without a shift": lambda: nn.BatchNorm2d(4, affine=False),
    }[kind]()  # fmt: skip

    def forward(net: Any, x: Any) -> Any:
        h = net.norm(functional.tanh(net.c(x)))
        return net.h((net.norm(torch.sin(net.d(h))) if kind == "called twice" else h).mean((2, 3)) ** 2)

    same = {"c": lambda: nn.Conv2d(3, 4, 3), "d": lambda: nn.Conv2d(4, 4, 3), "h": lambda: nn.Linear(4, 5)}
    net = Net(0, forward, **same, norm=lambda: norm).double()
    x, y = torch.randn(30, 3, 7, 7).double(), torch.randint(5, (30,))
    evaluate = layerscope.TorchEvaluator(net, (x, y), calibrate=x[:20])
    weights, gradient = layerscope.sources.model_weights.weights_of(net), evaluate.gradient(net)
    way = {name: torch.randn(g.shape).double().numpy() for name, g in gradient.items()}
    h = 1e-6
    ends = [
        evaluate({name: w + s * h * way[name] if name in way else w for name, w in weights.items()}).metrics["loss"]
        for s in (1, -1)
    ]
    slope = sum(float((gradient[name] * way[name]).sum()) for name in way)
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5)


def test_a_stored_plane_is_of_one_function(data: Any, tmp_path: Path) -> None:
    def of(factor: float) -> Any:
        net = Net(0, lambda net, x: net.b(net.a(x)) * net.factor, **LAYERS)
        net.register_buffer("factor", torch.tensor(factor), persistent=False)
        return net

    points = [of(1.0).state_dict() for _ in range(3)]
    how: Any = {"u": (0, 1, 2), "v": (0, 1, 2), "store": tmp_path / "p.zip"}
    layerscope.plane(*points, layerscope.TorchEvaluator(of(1.0), data), **how)
    with pytest.raises(LayerscopeError, match="another grid"):
        layerscope.plane(*points, layerscope.TorchEvaluator(of(2.0), data), **how)


def test_one_output_is_no_class(data: Any) -> None:
    net = nn.Linear(6, 1)
    values = functional.binary_cross_entropy_with_logits
    loss = lambda out, y: values(out[:, 0], y.float(), reduction="none")  # noqa: E731
    found = layerscope.TorchEvaluator(net, (data[0], data[1] % 2), loss)(net)
    assert set(found.metrics) == {"loss"}

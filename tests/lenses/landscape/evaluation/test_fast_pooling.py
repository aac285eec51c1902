"""What makes planes quick changes no number: pools without places, late ReLUs, parts that stay in the cache."""

from __future__ import annotations

from typing import Any

import pytest

import layerscope
from layerscope.lenses.landscape.evaluation.fast_pooling import FastPooling
from layerscope.live.call_trace import CACHE_BYTES, CallTrace
from tests.requirements import require

torch: Any = require("torch")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

LAST = torch.channels_last


def seen(model: Any, x: Any) -> FastPooling:
    with torch.no_grad():
        return FastPooling.from_trace(model, CallTrace.record(model, x))


def test_quick_pools_are_torchs_pools() -> None:
    torch.manual_seed(0)
    pools = [
        nn.MaxPool2d(2), nn.MaxPool2d(3), nn.MaxPool2d(2, 1), nn.MaxPool2d(2, padding=1),
        nn.MaxPool2d((2, 2), (2, 2)), nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d(2, dilation=2),
    ]  # fmt: skip
    for x in (torch.randn(3, 4, 8, 6), torch.randn(3, 4, 7, 6), torch.randn(3, 4, 3, 5), torch.randn(4, 8, 8)):
        x.view(-1)[5] = float("nan")
        for memory in (torch.contiguous_format, LAST)[: x.dim() - 2]:
            laid = x.contiguous(memory_format=memory)
            for pool in pools:
                with torch.no_grad(), seen(pool, laid).applied():
                    found = pool(laid)
                assert torch.equal(found.nan_to_num(9.0), pool(laid).nan_to_num(9.0))
    assert [seen(pool, torch.randn(3, 4, 8, 8)).active for pool in pools] == [True, *[False] * 3, True, *[False] * 2]


class Net(nn.Module):
    """Convolution, ReLU and pool as people write them."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way, self.first, self.second = way, nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.act, self.inplace, self.pool = nn.ReLU(), nn.ReLU(inplace=True), nn.MaxPool2d(2, 2)
        self.turned = False

    def forward(self, x: Any) -> Any:
        x = self.first(x)
        if self.way == "modules":  # each of them twice
            return self.pool(self.act(self.second(self.pool(self.act(x)))))
        if self.way == "functions":
            return torch.max_pool2d(torch.relu(self.second(functional.max_pool2d(functional.relu(x), 2))), (2, 2))
        if self.way == "in place":
            return functional.max_pool2d(self.second(self.pool(self.inplace(x))).relu_(), kernel_size=2, stride=2)
        if self.way == "skip":  # the ReLU's output is used again
            y = self.act(x)
            return torch.cat([self.pool(y).mean((2, 3)), y.mean((2, 3))], 1)
        if self.way == "residual":  # its input is
            return self.pool(self.act(x)) + functional.avg_pool2d(x, 2)
        if self.way == "skip in place":
            y = self.inplace(x)
            return self.pool(y) + functional.avg_pool2d(x, 2)
        if self.way == "output":  # what comes out is not the pool's
            y = self.act(x)
            self.pool(y)
            return y
        if self.way == "between":
            return self.pool(self.act(x).neg())
        return self.pool(self.act(x)) if not self.turned else self.act(x) - 1  # "turned"


LATE = {"modules": {0, 1}, "functions": {0, 1}, "in place": {0, 1}, "turned": {0}}


@pytest.mark.parametrize(
    "way",
    ["modules", "functions", "in place", "skip", "residual", "skip in place", "output", "between", "turned"],
)
def test_late_relus_give_the_same_numbers(way: str) -> None:
    net, x = Net(way).to(memory_format=LAST), torch.randn(5, 3, 8, 8).contiguous(memory_format=LAST)
    quick = seen(net, x[:2])
    assert quick.late_relus == LATE.get(way, set())
    for net.turned in (False, True):
        with torch.no_grad():
            expected = net(x)
            with quick.applied():
                assert torch.equal(net(x), expected)
    with quick.applied():
        assert net(x).requires_grad  # gradients take the usual way


def test_a_relu_that_someone_looks_at_is_not_late() -> None:
    net, looked = Net("modules"), list[Any]()
    net.act.register_forward_hook(lambda module, given, out: looked.append(out.detach().clone()))
    assert not seen(net, torch.randn(2, 3, 8, 8)).active


@pytest.mark.parametrize("way", ["modules", "functions", "in place", "skip", "residual"])
def test_planes_of_such_nets_are_plain_evaluations(way: str) -> None:
    class Whole(nn.Module):
        """With a head."""

        def __init__(self, seed: int) -> None:
            super().__init__()
            self.net = Net(way)
            torch.manual_seed(seed)
            for p in self.net.parameters():
                nn.init.normal_(p, std=0.3)
            self.head = nn.LazyLinear(4)
            self(torch.zeros(2, 3, 8, 8))

        def forward(self, x: Any) -> Any:
            return self.head(self.net(x).flatten(1))

    a, b, c = (Whole(seed) for seed in range(3))
    torch.manual_seed(5)
    x, y = torch.randn(50, 3, 8, 8), torch.randint(4, (50,))
    plane = layerscope.plane(a, b, c, layerscope.TorchEvaluator(a, (x, y), batch=20), u=(0, 1, 3), v=(0, 1, 3))
    net = Whole(0)
    for i, v in enumerate(plane.v):
        for j, u in enumerate(plane.u):
            with torch.no_grad():
                for p, q, r, s in zip(net.parameters(), *(m.parameters() for m in (a, b, c)), strict=True):
                    p.copy_((1 - u - v) * q + u * r + v * s)
                expected = float(functional.cross_entropy(net(x), y))
            assert float(plane.metrics["loss"][i, j]) == pytest.approx(expected, rel=1e-6)


def test_a_first_layer_that_is_the_last_too() -> None:
    """Its output in every part is a view of one buffer."""
    torch.manual_seed(0)
    a, b, x, y = nn.Linear(5, 3), nn.Linear(5, 3), torch.randn(70, 5), torch.randint(3, (70,))
    line = layerscope.line(a, b, layerscope.TorchEvaluator(a, (x, y), batch=20), points=5)
    for t, loss in zip(line.t, line.metrics["loss"], strict=True):
        weight, bias = ((1 - t) * p + t * q for p, q in zip(a.parameters(), b.parameters(), strict=True))
        expected = functional.cross_entropy(functional.linear(x, weight.float(), bias.float()), y).detach()
        assert float(loss) == pytest.approx(float(expected), abs=1e-6)


def test_parts_stay_in_the_cache() -> None:
    x, y = torch.randn(1000, 3, 8, 8), torch.randint(4, (1000,))
    net = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 64, 4))
    each = 64 * 8 * 8 * 4
    found = layerscope.TorchEvaluator(net, (x, y)).batch
    parts = -(-1000 // found)
    assert found * each <= CACHE_BYTES < 1000 / (parts - 1) * each
    assert found * parts - 1000 < parts  # of equal size
    assert layerscope.TorchEvaluator(net, (x, y), batch=300).batch == 300
    assert layerscope.TorchEvaluator(net, (x[:10], y[:10])).batch == 10
    small = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    assert layerscope.TorchEvaluator(small, (x, y)).batch == 1000


@pytest.mark.parametrize("classes", [2, 10, 15, 16, 40])
def test_losses_of_few_classes_are_torchs(classes: int) -> None:
    from layerscope.live.losses import Loss

    torch.manual_seed(0)
    logits, labels = 5 * torch.randn(200, classes), torch.randint(classes, (200,))
    labels[3] = -100
    logits[7, 0] = float("nan")
    expected = functional.cross_entropy(logits, labels, reduction="none")
    with torch.no_grad():
        found = Loss("cross_entropy").values(logits, labels)
    assert torch.allclose(found, expected, rtol=0, atol=2e-6, equal_nan=True)

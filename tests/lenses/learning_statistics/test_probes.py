"""The paper's theorems, its models, blocked updates and the last batch norm, on live networks."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import layerscope
from layerscope.errors import LayerscopeError, UsageError
from tests.requirements import require

torch: Any = require("torch")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from layerscope.lenses.learning_statistics.paper_networks import NormedLinear, mlp, resnet  # noqa: E402


def data(n: int = 80, d: int = 10) -> Any:
    torch.manual_seed(1)
    return torch.randn(n, d).double(), torch.randint(3, (n,))


@pytest.mark.parametrize("layer", ["fc1.weight", "fc3.weight", "fc5.weight"])
@pytest.mark.parametrize("alpha", [0.5, 3.0])
def test_a_rectifier_network_obeys_theorem_one(layer: str, alpha: float) -> None:
    net = mlp([10, 12, 12, 12, 12, 3], init="he").double()
    before = copy.deepcopy(net.state_dict())
    probe = layerscope.scale_probe(net, data(), layer, alpha)
    assert probe.kind == "homogeneous"
    assert probe.deviation < 1e-9
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("layer", ["fc1.weight", "fc4.weight"])
def test_a_normalised_network_obeys_theorem_two(layer: str) -> None:
    net = mlp([10, 12, 12, 12, 12, 3], init="he", norm=True).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eps = 1e-14
    probe = layerscope.scale_probe(net, data(), layer, 2.0)
    assert probe.kind == "scale-invariant"
    assert probe.deviation < 1e-6
    assert "scale-invariant" in repr(probe)
    scaled = next(scaled for scaled in probe.layers if scaled.name == layer)
    assert scaled.gradients == pytest.approx(0.25)
    assert scaled.domination == pytest.approx(0.25)
    assert layerscope.scale_probe(net, data(), "fc5.weight").kind == "homogeneous"  # the last one has no norm


def test_a_saturating_network_obeys_neither() -> None:
    net = nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    assert layerscope.scale_probe(net, data(), "0.weight", 4.0).kind == "neither"


def test_a_probe_that_fails_leaves_the_weight() -> None:
    net = mlp([10, 8, 3])
    before = net.fc1.weight.detach().clone()
    x, y = data()
    for bad in ((x[:, :3], y), (x.double(), y)):
        with pytest.raises(LayerscopeError):
            layerscope.scale_probe(net, bad, "fc1.weight")
    with pytest.raises(UsageError, match="did you mean 'fc1.weight'"):
        layerscope.scale_probe(net, (x.float(), y), "fc1.wieght")
    for alpha in (0.0, 1.0, -2.0, float("nan")):
        with pytest.raises(UsageError, match="alpha"):
            layerscope.scale_probe(net, (x.float(), y), "fc1.weight", alpha)
    assert torch.equal(net.fc1.weight, before)


def test_blocked_layers_do_not_move_and_the_others_do() -> None:
    net, (x, y) = mlp([10, 8, 8, 8, 3], norm=True), data()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    functional.cross_entropy(net(x.float()), y).backward()  # leaves gradients behind
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with layerscope.block_updates(net, "0101") as frozen:
        assert frozen == ("fc1", "fc3")
        for _ in range(3):
            functional.cross_entropy(net(x.float()), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    moved = {name for name, tensor in net.state_dict().items() if not torch.equal(before[name], tensor)}
    assert {"fc2.weight", "fc4.weight", "bn1.weight"} <= moved
    assert not {"fc1.weight", "fc3.weight"} & moved
    assert all(p.requires_grad for p in net.parameters())
    for pattern in ("010", "01012", "abcd"):
        with pytest.raises(UsageError, match="must be 4 zeros and ones"), layerscope.block_updates(net, pattern):
            pass


def test_the_last_norm_is_before_the_last_linear_layer() -> None:
    net, x = mlp([10, 8, 3], init="he"), data()[0].float()
    normed = layerscope.with_last_bn(net)
    assert isinstance(normed.fc2, NormedLinear)
    assert isinstance(net.fc2, nn.Linear)
    hidden = torch.relu(net.fc1(x))
    z = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
    assert torch.allclose(normed(x), net.fc2(z), atol=1e-5)
    pickle.loads(pickle.dumps(normed))
    alone = layerscope.with_last_bn(nn.Linear(10, 3))
    assert alone(torch.randn(4, 6, 10)).shape == (4, 6, 3)
    assert layerscope.with_last_bn(net, "fc1").fc1.norm.num_features == 10
    with pytest.raises(UsageError, match="did you mean 'fc1'"):
        layerscope.with_last_bn(net, "fc_1")
    with pytest.raises(UsageError, match="no linear layer"):
        layerscope.with_last_bn(nn.ReLU())


def test_the_models_of_the_paper() -> None:
    for init, variance in (("random", 1 / (3 * 400)), ("he", 2 / 400), ("orthogonal", 1 / 400)):
        weight = mlp([400, 300, 10], init=init).fc1.weight
        assert float(weight.detach().var()) == pytest.approx(variance, rel=0.05)
    w = mlp([40, 30, 10], init="orthogonal").fc1.weight.detach()
    assert torch.allclose(w @ w.T, torch.eye(30), atol=1e-5)
    assert [type(m).__name__ for m in mlp([4, 3, 3, 2], norm=True)] == [
        "Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear",
    ]  # fmt: skip
    for depth, params in ((20, 0.27e6), (56, 0.85e6), (110, 1.7e6)):  # He et al. 2016, Table 6
        net = resnet(depth)
        assert sum(p.numel() for p in net.parameters()) == pytest.approx(params, rel=0.02)
        assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in net.modules()) == depth
    assert resnet(8, last_bn=True, channels=1)(torch.randn(2, 1, 8, 8)).shape == (2, 10)
    assert torch.equal(resnet(8, seed=3).conv.weight, resnet(8, seed=3).conv.weight)
    for wrong in (lambda: mlp([3]), lambda: mlp([3, 2], init="glorot"), lambda: resnet(9)):
        with pytest.raises(LayerscopeError):
            wrong()

"""Hessian, GGN and Fisher matrices by products against the dense ones of torch.func in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import Unreadable, UsageError
from tests.requirements import require

torch: Any = require("torch")
from torch import nn  # noqa: E402
from torch.func import functional_call, hessian, jacrev  # noqa: E402
from torch.nn import functional  # noqa: E402


@pytest.fixture
def net() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double()


@pytest.fixture
def batch() -> Any:
    torch.manual_seed(1)
    return torch.randn(40, 5).double(), torch.randint(3, (40,))


def flat(net: Any) -> Any:
    return torch.cat([p.detach().reshape(-1) for p in net.parameters()])


def called(net: Any, theta: Any, x: Any) -> Any:
    named, start = {}, 0
    for name, p in net.named_parameters():
        named[name] = theta[start : start + p.numel()].reshape(p.shape)
        start += p.numel()
    return functional_call(net, named, (x,))


def dense(net: Any, batch: Any, matrix: str, kind: str = "cross_entropy") -> Any:
    x, y = batch
    if kind == "mse":
        losses = lambda out: 0.5 * (out - y).square().sum(1)  # noqa: E731
    else:
        losses = lambda out: functional.cross_entropy(out, y, reduction="none")  # noqa: E731
    theta = flat(net)
    if matrix == "hessian":
        return hessian(lambda t: losses(called(net, t, x)).mean())(theta)
    if matrix == "empirical":
        g = jacrev(lambda t: losses(called(net, t, x)))(theta)
        return g.T @ g / len(x)
    j = jacrev(lambda t: called(net, t, x))(theta)
    p = net(x).softmax(1).detach()
    inner = (
        torch.diag_embed(p) - p[:, :, None] * p[:, None] if kind != "mse" else torch.eye(3).double().expand(40, 3, 3)
    )
    return torch.einsum("nca,ncd,ndb->ab", j, inner, j) / len(x)


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize(
    ("matrix", "how", "truth"),
    [
        ("hessian", {}, "hessian"),
        ("ggn", {}, "ggn"),
        ("fisher", {"fisher": "exact"}, "ggn"),
        ("fisher", {"fisher": "empirical"}, "empirical"),
    ],
)
def test_whole_and_blocks_are_those_of_the_dense_matrix(
    net: Any, batch: Any, matrix: str, how: Any, truth: str, pieces: int
) -> None:
    x, y = batch
    batches = list(zip(x.chunk(pieces), y.chunk(pieces), strict=True))
    measured = layerscope.curvature(
        net, batches, matrix=matrix, k=4, layers="*", rtol=1e-9, probes=3, steps=40, seed=2, **how
    )
    a = dense(net, batch, truth).numpy()
    evals = np.linalg.eigvalsh(a)
    assert measured.values == pytest.approx(evals[::-1][:4], rel=1e-8)
    assert measured.params == len(a)
    assert measured.converged
    assert measured.least >= evals[0] - 1e-9
    start = 0
    for name, p in net.named_parameters():
        if name in measured.layers:
            block = a[start : start + p.numel(), start : start + p.numel()]
            assert measured.layers[name].values[0] == pytest.approx(np.linalg.eigvalsh(block)[-1], rel=1e-8)
        start += p.numel()
    assert list(measured.layers) == ["0.weight", "2.weight", "4.weight"]
    second = float((measured.weights * measured.nodes**2).sum(1).mean()) * len(a)  # tr A² by the same probes
    assert second == pytest.approx(float((a * a).sum()), rel=0.8)
    assert measured.loss == pytest.approx(float(functional.cross_entropy(net(x), y).detach()))


def test_the_trace_of_many_probes_is_near_and_its_error_says_how_near(net: Any, batch: Any) -> None:
    truth = float(torch.trace(dense(net, batch, "ggn")))
    measured = layerscope.curvature(net, batch, matrix="ggn", probes=200)
    assert measured.trace is not None
    assert measured.trace_error is not None
    assert abs(measured.trace - truth) < 4 * measured.trace_error
    assert measured.trace_error < 0.1 * truth


def test_mse_has_the_gaussian_one(net: Any) -> None:
    torch.manual_seed(3)
    batch = torch.randn(40, 5).double(), torch.randn(40, 3).double()
    for matrix, how in (("ggn", {}), ("fisher", {"fisher": "exact"})):
        measured = layerscope.curvature(net, batch, "mse", matrix, rtol=1e-9, **how)
        assert measured.values[0] == pytest.approx(float(torch.linalg.eigvalsh(dense(net, batch, "ggn", "mse"))[-1]))
    measured = layerscope.curvature(net, batch, "mse", rtol=1e-9)
    assert measured.values[0] == pytest.approx(float(torch.linalg.eigvalsh(dense(net, batch, "hessian", "mse"))[-1]))


@pytest.mark.parametrize("kind", ["cross_entropy", "mse"])
def test_the_drawn_fisher_is_unbiased(net: Any, batch: Any, kind: str) -> None:
    batch = batch if kind == "cross_entropy" else (batch[0], torch.randn(40, 3).double())
    truth = float(torch.trace(dense(net, batch, "ggn", kind)))
    drawn = [layerscope.curvature(net, batch, kind, "fisher", fisher="mc", probes=30, seed=s).trace for s in range(20)]
    values = np.array([x for x in drawn if x is not None])
    assert abs(values.mean() - truth) < 4 * values.std(ddof=1) / np.sqrt(20)


def test_a_loss_of_ones_own_has_a_hessian_and_a_ggn_but_no_drawn_fisher(net: Any, batch: Any) -> None:
    def user_loss(output: Any, labels: Any) -> Any:
        return functional.cross_entropy(output, labels, reduction="none")

    for matrix in ("hessian", "ggn"):
        by_function, by_name = (
            layerscope.curvature(net, batch, loss, matrix, rtol=1e-9) for loss in (user_loss, "cross_entropy")
        )
        assert by_function.values == pytest.approx(by_name.values)
    with pytest.raises(UsageError, match="a distribution"):
        layerscope.curvature(net, batch, user_loss, "fisher", fisher="mc")


def test_eigenvectors_are_eigenvectors(net: Any, batch: Any) -> None:
    measured = layerscope.curvature(net, batch, k=2, vectors=True, rtol=1e-8)
    a = dense(net, batch, "hessian")
    for value, vector in zip(measured.values, measured.vectors, strict=True):
        assert torch.allclose(a @ vector, float(value) * vector, atol=1e-7)


def test_the_model_is_left_as_it_was(batch: Any) -> None:
    net = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(6, 3))
    net[0].weight.requires_grad_(False)
    x, y = batch[0].float(), batch[1]
    net(x)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    measured = layerscope.curvature(net, [(x[:20], y[:20]), (x[20:], y[20:])], "cross_entropy", probes=2)
    again = layerscope.curvature(net, [(x[:20], y[:20]), (x[20:], y[20:])], "cross_entropy", probes=2)
    assert measured.values.tolist() == again.values.tolist()  # dropout is drawn alike
    assert measured.params == 6 + 6 + 6 + 18 + 3
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert [p.requires_grad for p in net.parameters()] == [False, True, True, True, True, True]
    assert all(p.grad is None for p in net.parameters())
    assert net.training


def test_attention_has_second_derivatives(batch: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(8, 3)

        def forward(self, x: Any) -> Any:
            x = x.reshape(-1, 2, 5, 8)
            return self.head(functional.scaled_dot_product_attention(x, x, x).mean((1, 2)))

    x = torch.randn(10, 80)
    assert layerscope.curvature(Net(), (x, torch.randint(3, (10,)))).values[0] > 0


def test_wrong_calls_are_explained(net: Any, batch: Any) -> None:
    x, y = batch
    for arguments, options, message in (
        ((net, batch), {"matrix": "hesian"}, "did you mean 'hessian'"),
        ((net, batch), {"layers": "9.weight"}, "no weight called '9.weight'"),
        ((net, batch), {"k": 0}, "at least 1"),
        ((net, []), {}, "no batch"),
        ((net, (x[:, :2], y)), {}, "cannot be multiplied"),
        ((net, (x / 0, y)), {}, "the mean loss is nan"),
        ((net, (x, y + 1)), {}, "labels from 1 to 3"),
        ((nn.Linear(5, 3).half(), (x.half(), y)), {}, "float16: second derivatives need float32"),
    ):
        with pytest.raises((UsageError, Unreadable), match=message):
            layerscope.curvature(*arguments, **options)

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(_: Any, x: Any) -> Any:
            return x.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(_: Any, g: Any) -> Any:
            return g

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(5, 3)

        def forward(self, x: Any) -> Any:
            return self.fc(Once.apply(torch.tanh(self.fc(x))).repeat(1, 2)[:, :5])

    with pytest.raises(Unreadable, match="no second derivative"):
        layerscope.curvature(Net(), (x.float(), y))


def test_it_stands_in_the_report(net: Any, batch: Any, tmp_path: Any) -> None:
    report = layerscope.conditioning(net, batch, curvature_of="hessian")
    alone = layerscope.curvature(net, batch, layers="*")
    for name, block in alone.layers.items():
        assert report.layers[name].metrics["curvature_lambda_max"] == pytest.approx(block.values[0], rel=1e-6)
        assert report.layers[name].metrics["curvature_trace_error"] > 0
    whole = report.meta["conditioning"]["curvature"]
    assert whole["values"][0] == pytest.approx(alone.values[0], rel=1e-5)
    report.save(tmp_path / "r.layerscope")
    assert layerscope.load(tmp_path / "r.layerscope").meta["conditioning"]["curvature"] == whole
    assert "hessian of the whole model" in repr(alone)

"""What once was wrong: numbers of stale memory, of other functions, of layers that something else reads."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import LayerscopeError, UsageError
from layerscope.lenses.landscape.alignment.permutation_groups import trace_groups
from layerscope.sources.model_weights import weights_of
from tests.requirements import require

torch: Any = require("torch")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

X, Y = torch.randn(60, 6, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3


def mlp(seed: int = 0, *, norm: bool = False) -> Any:
    torch.manual_seed(seed)
    parts = [
        nn.Linear(6, 8),
        *([nn.BatchNorm1d(8)] if norm else []),
        nn.ReLU(),
        nn.Linear(8, 7),
        nn.ReLU(),
        nn.Linear(7, 3),
    ]
    return nn.Sequential(*parts)


def plain(a: Any, b: Any, t: float, x: Any = X, calibrate: Any = None) -> float:
    """The loss of the mixture, by torch alone."""
    net = mlp(norm=any(isinstance(m, nn.BatchNorm1d) for m in a))
    with torch.no_grad():
        for p, q, r in zip(net.parameters(), a.parameters(), b.parameters(), strict=True):
            p.copy_((1 - t) * q + t * r)
        for m in net:
            if isinstance(m, nn.BatchNorm1d):
                m.momentum = 1.0
        net.train()(X if calibrate is None else calibrate)
        return float(functional.cross_entropy(net.eval()(x), Y))


def test_repair_finds_the_same_layers_every_time() -> None:
    torch.manual_seed(0)
    parts = [nn.BatchNorm1d(6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)]
    net = nn.Sequential(*parts)
    found = {layerscope.TorchEvaluator(net, (X, Y), repair=True).about["repair"] for _ in range(20)}
    assert found == {"2 layers"}


@pytest.mark.parametrize("inplace", [False, True])
def test_repair_leaves_the_last_layer_and_what_stands_before_a_norm(inplace: bool) -> None:
    parts = [nn.Linear(6, 8), nn.ReLU(inplace), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(inplace),
             nn.Linear(8, 8), nn.ReLU(inplace), nn.Linear(8, 3), nn.LogSoftmax(1)]  # fmt: skip
    evaluate = layerscope.TorchEvaluator(nn.Sequential(*parts), (X, Y), repair=True)
    assert evaluate._repair is not None
    names = {module: name for name, module in evaluate.model.named_modules()}
    assert [names[layer] for layer in evaluate._repair.layers] == ["0", "6"]


@pytest.mark.parametrize("part", [slice(None, None, 2), slice(1, None, 2), slice(10, 40)])
def test_calibration_inputs_that_share_memory_are_themselves(part: slice) -> None:
    a, b = mlp(0, norm=True), mlp(1, norm=True)
    line = layerscope.line(a, b, layerscope.TorchEvaluator(a, (X, Y), calibrate=X[part], batch=10), points=3)
    for t, loss in zip(line.t, line.metrics["loss"], strict=True):
        assert loss == pytest.approx(plain(a, b, float(t), calibrate=X[part]), abs=1e-5)


def test_hooks_of_first_layers_run_once() -> None:
    nets = [mlp(0), mlp(1)]
    for net in nets:
        net[0].register_forward_hook(lambda _, __, out: out * 2 + 1)
    found = layerscope.line(*nets, layerscope.TorchEvaluator(nets[0], (X, Y)), points=3).metrics["loss"]
    middle = mlp(0)
    middle[0].register_forward_hook(lambda _, __, out: out * 2 + 1)
    with torch.no_grad():
        for p, q, r in zip(middle.parameters(), nets[0].parameters(), nets[1].parameters(), strict=True):
            p.copy_((q + r) / 2)
        assert found[1] == pytest.approx(float(functional.cross_entropy(middle(X), Y)), abs=1e-6)


def smoothed(output: Any, labels: Any, eps: float = 0.1) -> Any:
    return functional.cross_entropy(output, labels, reduction="none", label_smoothing=eps)


class Tempered(nn.Module):
    def __init__(self, seed: int, temperature: float) -> None:
        super().__init__()
        self.net, self.temperature = mlp(seed), temperature

    def forward(self, x: Any) -> Any:
        return self.net(x) / self.temperature


def test_a_store_belongs_to_one_evaluator(tmp_path: Path) -> None:
    a, b, c = (Tempered(seed, 1.0) for seed in range(3))

    def noise(scale: float) -> Any:
        return lambda output, labels: smoothed(output * scale, labels)

    data = np.arange(3.0)
    ways: list[Any] = [
        layerscope.TorchEvaluator(a, (X, Y)),
        layerscope.TorchEvaluator(a, (X, Y), forward=lambda net, x: net(-x)),
        layerscope.TorchEvaluator(Tempered(0, 0.1), (X, Y)),
        layerscope.TorchEvaluator(a, (X, Y), functools.partial(smoothed, eps=0.2)),
        layerscope.TorchEvaluator(a, (X, Y), functools.partial(smoothed, eps=0.3)),
        layerscope.TorchEvaluator(a, (X, Y), nn.CrossEntropyLoss(label_smoothing=0.2, reduction="none")),
        layerscope.TorchEvaluator(a, (X, Y), nn.CrossEntropyLoss(label_smoothing=0.3, reduction="none")),
        layerscope.TorchEvaluator(a, (X, Y), noise(1.0)),
        layerscope.TorchEvaluator(a, (X, Y), noise(2.0)),
        lambda weights: {"loss": float(data.sum())},
    ]
    how: Any = {"u": (0, 1, 2), "v": (0, 1, 2), "store": tmp_path / "g.zip"}
    layerscope.plane(a, b, c, ways[0], **how)
    layerscope.plane(a, b, c, layerscope.TorchEvaluator(a, (X, Y)), **how)
    for way in ways[1:]:
        with pytest.raises(UsageError, match="another grid"):
            layerscope.plane(a, b, c, way, **how)
    prints = [way.fingerprint for way in ways[:-1]]
    assert len(set(prints)) == len(prints)
    batched = [layerscope.TorchEvaluator(mlp(0, norm=True), (X, Y), bn="batch", batch=n) for n in (10, 60)]
    assert batched[0].fingerprint != batched[1].fingerprint
    assert batched[0].about["batch"] == 10


@pytest.mark.parametrize("bn", ["recompute", "batch", "interpolate", "keep"])
def test_the_gradient_is_that_of_what_is_evaluated(bn: str) -> None:
    net = mlp(0, norm=True).double()
    evaluate = layerscope.TorchEvaluator(net, (X.double(), Y), bn=bn, calibrate=X.double()[:45], batch=20)
    weights, rng = weights_of(net), np.random.default_rng(0)
    gradient = evaluate.gradient(weights)
    way = {name: rng.standard_normal(g.shape) for name, g in gradient.items()}
    slope = sum(float((gradient[name] * way[name]).sum()) for name in way)
    h = 1e-6
    ends = [
        evaluate({name: value + sign * h * way[name] if name in way else value for name, value in weights.items()})
        for sign in (1, -1)
    ]
    assert slope == pytest.approx((ends[0].metrics["loss"] - ends[1].metrics["loss"]) / (2 * h), rel=1e-5)


class Read(nn.Module):
    """Units that something else reads, in several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.a, self.bn = way, nn.Linear(6, 8), nn.BatchNorm1d(8)
        self.b, self.each = nn.Linear(8, 3), nn.Conv1d(8, 8, 1, groups=8, bias=False)

    def forward(self, x: Any) -> Any:
        h = self.a(x)
        if self.way == "sum":
            h = torch.relu(h)
            return self.b(h) + h.sum(1, keepdim=True)
        if self.way == "norm":
            return self.b(torch.relu(self.bn(h)) + torch.tanh(h))
        h = torch.relu(self.each(torch.relu(h)[..., None])[..., 0])
        return self.b(h)


@pytest.mark.parametrize("way", ["sum", "norm", "each"])
def test_canonical_forms_compute_the_same(way: str) -> None:
    torch.manual_seed(0)
    net = Read(way)
    net(X)
    form = layerscope.canonical(net.eval(), net, X)
    other = Read(way)
    other.load_state_dict({**net.state_dict(), **{name: torch.from_numpy(v) for name, v in form.items()}})
    with torch.no_grad():
        one, two = net.train()(X), other.train()(X)
    assert float((one - two).abs().max()) < 1e-3 * float(one.abs().max())


class Routed(nn.Module):
    """An expert that few inputs reach."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.common, self.rare, self.head = (nn.Linear(*s) for s in ((6, 8), (8, 8), (8, 8), (8, 3)))

    def forward(self, x: Any) -> Any:
        h = torch.relu(self.a(x))
        rare = x[:, 0] > 1.5
        out = torch.relu(self.common(h))
        return self.head(torch.where(rare[:, None], torch.relu(self.rare(h)), out) if bool(rare.any()) else out)


def test_what_the_run_did_not_meet_is_not_permuted_away() -> None:
    torch.manual_seed(0)
    net, x = Routed(), X[X[:, 0] < 1.4]
    groups = trace_groups(net, x[:4])
    assert all("was not used" in group.fixed for group in groups if group.units == 8)
    found = layerscope.align(net, net, Routed(), x)
    assert found.groups == 0


def test_frames_are_no_examples() -> None:
    class Time(nn.Module):
        """Time first, two steps."""

        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, x: Any) -> Any:
            return self.b(torch.relu(self.a(x.transpose(0, 1)))[-1])

    torch.manual_seed(3)
    x, y = torch.randn(25, 2, 5), torch.arange(25) % 3
    a, b = Time(0), Time(1)
    line = layerscope.line(a, b, layerscope.TorchEvaluator(a, (x, y), batch=10), points=3)
    middle = Time(0)
    with torch.no_grad():
        for p, q, r in zip(middle.parameters(), a.parameters(), b.parameters(), strict=True):
            p.copy_((q + r) / 2)
        assert line.metrics["loss"][1] == pytest.approx(float(functional.cross_entropy(middle(x), y)), abs=1e-6)


def test_rows_without_a_label_are_nobodys_errors() -> None:
    a, b = mlp(0), mlp(1)
    labels = Y.clone()
    labels[::2] = -100
    found = layerscope.function_distance(a, b, layerscope.TorchEvaluator(a, (X, labels)))
    kept = layerscope.function_distance(a, b, layerscope.TorchEvaluator(a, (X[1::2], Y[1::2])))
    assert (found.disagreement, found.errors, found.examples) == (kept.disagreement, kept.errors, 30)
    assert (found.js, found.cka) == pytest.approx((kept.js, kept.cka), abs=1e-6)


def test_models_that_make_float32_are_aligned_too() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Any) -> Any:
            return self.b(torch.relu(self.a(x.float()) + torch.zeros(len(x), 8)))

    torch.manual_seed(0)
    a, b = Single(), Single()
    found = layerscope.align(a, a, b, X)
    assert found.after < found.before
    assert found.groups == 1


def test_wrapped_and_tied_models_are_what_they_are() -> None:
    a, b = mlp(0), mlp(1)
    bare = layerscope.align(a, a, b, X)
    wrapped = layerscope.align(nn.DataParallel(a), a, b, X)
    assert wrapped.after == pytest.approx(bare.after)
    assert wrapped.after < wrapped.before

    class Tied(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.emb, self.mid, self.head = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20, bias=False)
            self.head.weight = self.emb.weight

        def forward(self, x: Any) -> Any:
            return self.head(torch.relu(self.mid(self.emb(x).mean(1))))

    one, other, x = Tied(0), Tied(1), torch.randint(20, (6, 4))
    live = layerscope.align(one, one, other, x)
    for given in (other.state_dict(), other):
        assert layerscope.align(one, one.state_dict(), given, x).after == pytest.approx(live.after)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: layerscope.align(mlp(), mlp(), mlp(1), X.numpy()), "x is of type ndarray: pass a torch tensor"),
        (lambda: layerscope.align(mlp(), mlp(), mlp(1), X[:0]), "at least one example"),
        (lambda: layerscope.align(mlp(), mlp(), mlp(1), X, restarts=-1), "restarts"),
        (lambda: layerscope.align(mlp(), mlp(), mlp(1), X, groups={"0.weight": 0}), "pass a list of mappings"),
        (lambda: layerscope.align(mlp(), mlp(), mlp(1), X, groups=[{"0.weight": "0"}]), "with an axis '0'"),
        (lambda: layerscope.TorchEvaluator(mlp(), (X, Y), batch=-5), "batch size must be"),
        (lambda: layerscope.TorchEvaluator(mlp(), (X, Y), batch=2.5), "batch size must be"),
        (lambda: layerscope.TorchEvaluator(mlp(), (X, Y), calibrate=X[:0]), "calibrate= is empty"),
        (lambda: layerscope.TorchEvaluator(mlp(), (X, Y), examples=True), "examples=True: it must be"),
        (lambda: layerscope.line(mlp(), mlp(1), lambda w: {"loss": 1.0}, span=(0, 1, 2)), "pass two numbers"),
        (lambda: layerscope.plane(mlp(), mlp(1), mlp(2), lambda w: {"loss": 1.0}, u=(0, 1)), "first, last, points"),
        (lambda: layerscope.plane(mlp(), mlp(1), mlp(2), lambda w: {"loss": 1.0}, u=3), "first, last, points"),
        (lambda: layerscope.trajectory([mlp(k) for k in range(3)], names=["a"]), "1 names for 3 checkpoints"),
        (lambda: layerscope.basins([mlp(), mlp(1)], lambda w: 1 / 0), "failed: ZeroDivisionError"),
        (lambda: layerscope.basins([mlp(), mlp(1)], lambda w: {"loss": 1.0}, tolerance=math.nan), "tolerance"),
        (lambda: layerscope.distances({1: mlp(), "1": mlp(1)}), r"differ as text; two of \[1, '1'\] do not"),
        (lambda: layerscope.TorchEvaluator(nn.Sequential(mlp(), Random()), (X, Y)), "same inputs differ"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_told_in_a_line(call: Any, said: str) -> None:
    with pytest.raises(LayerscopeError, match=said) as told:
        call()
    assert "\n" not in str(told.value)


class Random(nn.Module):
    def forward(self, x: Any) -> Any:
        return functional.dropout(x, 0.5)

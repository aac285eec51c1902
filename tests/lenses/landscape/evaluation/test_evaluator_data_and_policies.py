"""Networks and data that a fast evaluator, or a trace, gets wrong easily."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import LayerscopeError, UsageError
from layerscope.lenses.landscape.alignment.permutation_groups import trace_groups
from layerscope.lenses.landscape.alignment.weight_matching import permute
from layerscope.sources.model_weights import weights_of
from tests.requirements import require

torch: Any = require("torch")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402


class Tokens(nn.Module):
    """A first layer whose rows are tokens, not examples."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.a, self.head = nn.Linear(4, 6), nn.Linear(30, 3)

    def forward(self, x: Any) -> Any:
        return self.head(torch.relu(self.a(x.view(-1, 4))).view(len(x), -1))


class TimeFirst(Tokens):
    def forward(self, x: Any) -> Any:
        h = torch.relu(self.a(x.view(len(x), 5, 4).transpose(0, 1)))
        return self.head(h.transpose(0, 1).flatten(1))


class Linear(nn.Module):
    """The first layer is the last one."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.fc = nn.Linear(20, 3)

    def forward(self, x: Any) -> Any:
        return self.fc(x)


class Scaled(Linear):
    """A buffer that is no statistic."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.register_buffer("scale", torch.tensor(1.0 + 4 * seed))

    def forward(self, x: Any) -> Any:
        return self.fc(x) * self.scale


class Instance(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.a, self.norm, self.head = nn.Linear(4, 6), nn.InstanceNorm1d(5, track_running_stats=True), nn.Linear(30, 3)
        self.norm(torch.randn(8, 5, 6) * (seed + 1))

    def forward(self, x: Any) -> Any:
        return self.head(self.norm(self.a(x.view(len(x), 5, 4))).flatten(1))


def loss_of(model: Any, x: Any, y: Any) -> float:
    with torch.no_grad():
        return float(functional.cross_entropy(model.eval()(x), y))


@pytest.mark.parametrize("batch", [None, 50])
@pytest.mark.parametrize("make", [Tokens, TimeFirst, Linear, Scaled, Instance])
def test_ends_and_middle_are_those_of_the_models(make: Any, batch: int | None) -> None:
    a, b = make(1), make(2)
    torch.manual_seed(5)
    x, y = torch.randn(130, 20), torch.randint(3, (130,))
    evaluate = layerscope.TorchEvaluator(a, (x, y), batch=batch, bn="interpolate")
    line = layerscope.line(a, b, evaluate, points=3)
    middle = make(1)
    with torch.no_grad():
        for t, p, q in zip(middle.state_dict().values(), a.state_dict().values(), b.state_dict().values(), strict=True):
            if t.is_floating_point():
                t.copy_(0.5 * p + 0.5 * q)
    truth = [loss_of(model, x, y) for model in (a, middle, b)]
    assert line.metrics["loss"] == pytest.approx(truth, abs=1e-6)


def test_labels_that_are_ignored_do_not_count() -> None:
    net, x, y = Linear(0), torch.randn(60, 20), torch.randint(3, (60,))
    y[::2] = -100
    with torch.no_grad():
        out = net(x)
    value = layerscope.TorchEvaluator(net, (x, y))(net)
    assert value.metrics["loss"] == pytest.approx(float(functional.cross_entropy(out, y)), abs=1e-6)
    assert value.metrics["accuracy"] == pytest.approx(float((out.argmax(1)[1::2] == y[1::2]).float().mean()))
    assert len(value.samples) == 30


def test_a_policy_lasts_as_long_as_it_is_asked_for() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    x, y = torch.randn(70, 20), torch.randint(3, (70,))
    net(x)
    evaluate = layerscope.TorchEvaluator(net, (x, y), bn="keep")
    before = evaluate(net).metrics["loss"]
    with evaluate.policy("batch"):
        other = evaluate(net).metrics["loss"]
    assert evaluate(net).metrics["loss"] == before != other
    by_batch = layerscope.TorchEvaluator(net, (x, y), bn="batch")
    assert [layerscope.line(net, net, by_batch, points=2).metrics["loss"][0] for _ in range(2)] == pytest.approx(
        [other] * 2
    )
    with by_batch.policy("recompute"):
        assert by_batch.about["bn"] == "recompute"
        assert by_batch(net).metrics["loss"] != other
    untracked = nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 3))
    layerscope.line(untracked, untracked, layerscope.TorchEvaluator(untracked, (x, y)), points=2)


def test_a_stored_grid_is_of_its_data_and_its_loss(tmp_path: Path) -> None:
    nets = [Linear(s) for s in range(3)]
    x, y = torch.randn(40, 20), torch.randint(3, (40,))
    how: Any = {"u": (0, 1, 3), "v": (0, 1, 3), "store": tmp_path / "g"}
    layerscope.plane(*nets, layerscope.TorchEvaluator(nets[0], (x, y)), **how)
    for data, loss in (
        ((3 * x, y), "cross_entropy"),
        ((x, (y + 1) % 3), "cross_entropy"),
        ((x, y), layerscope.inverted_cross_entropy),
    ):
        with pytest.raises(UsageError, match="another grid"):
            layerscope.plane(*nets, layerscope.TorchEvaluator(nets[0], data, loss), **how)


def test_biases_of_attention_count() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c_attn, self.attn = nn.Linear(8, 16), nn.Linear(8, 8)

    a, b = Block(), Block()
    b.load_state_dict(a.state_dict())
    with torch.no_grad():
        b.c_attn.bias += 5
    found = layerscope.distances([a, b])
    assert found.params == sum(p.numel() for p in a.parameters())
    assert found.matrix()[0, 1] == pytest.approx(20)


def test_tied_tensors_count_once_everywhere() -> None:
    class Tied(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.emb, self.mid, self.head = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20, bias=False)
            self.head.weight = self.emb.weight

        def forward(self, x: Any) -> Any:
            return self.head(torch.relu(self.mid(self.emb(x).mean(1))))

    nets = [Tied(s) for s in range(3)]
    d = layerscope.distances(nets).matrix()
    assert layerscope.trajectory(nets).from_start[1:] == pytest.approx(d[0, 1:])
    x = torch.randint(20, (6, 4))
    assert layerscope.align(nets[0], nets[0], nets[1], x).before == pytest.approx(d[0, 1])
    (free,) = [group for group in trace_groups(nets[0].eval(), x) if not group.fixed]
    assert {(p.tensor, p.axis) for p in free.places} == {("emb.weight", 1), ("mid.weight", 0), ("mid.bias", 0),
                                                         ("mid.weight", 1)}  # fmt: skip


@pytest.mark.parametrize("method", ["weights", "activations"])
def test_units_are_found_whatever_axis_they_are_on(method: str) -> None:
    class Last(nn.Module):
        """Linear layers on images with channels last."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 12), nn.Linear(12, 4)

        def forward(self, x: Any) -> Any:
            return self.b(torch.relu(self.a(x))).mean((1, 2))

    torch.manual_seed(0)
    cases = (
        (nn.Sequential(nn.Conv1d(2, 9, 3), nn.ReLU(), nn.Conv1d(9, 4, 3), nn.Flatten()), torch.randn(40, 2, 12)),
        (Last(), torch.randn(40, 5, 5, 3)),
    )
    for net, x in cases:
        free = [group for group in trace_groups(net.eval(), x) if not group.fixed]
        assert len(free) == 1
        rng = np.random.default_rng(0)
        planted = permute(weights_of(net), free, [rng.permutation(group.units) for group in free])
        assert layerscope.align(net, net, planted, x, method=method).after == pytest.approx(0, abs=1e-6)


def test_an_order_that_the_network_reads_is_followed() -> None:
    class Reordered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.c = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Any) -> Any:
            return self.c(torch.relu(self.a(x))[:, list(range(8))[::-1]]) + 1e5

    torch.manual_seed(0)
    a, b, x = Reordered(), Reordered(), torch.randn(9, 6)
    found = layerscope.align(a, a, b, x)
    assert found.output_change < 1e-6
    assert found.after <= found.before


def test_narrow_wrapped_and_unfinished_models() -> None:
    x, y = torch.randn(30, 20), torch.randint(3, (30,))
    narrow = Linear(0).bfloat16()
    evaluate = layerscope.TorchEvaluator(narrow, (x.bfloat16(), y))
    assert layerscope.sharpness(narrow, evaluate, draws=2).loss > 0
    wrapped = nn.DataParallel(Linear(0))
    assert layerscope.TorchEvaluator(wrapped, (x, y))(wrapped).metrics["loss"] == pytest.approx(
        loss_of(Linear(0), x, y), abs=1e-6
    )
    checkpoint = {"epoch": 3, "state_dict": Linear(0).state_dict()}
    assert layerscope.TorchEvaluator(Linear(1), (x, y))(checkpoint).metrics["loss"] == pytest.approx(
        loss_of(Linear(0), x, y), abs=1e-6
    )
    mixed = nn.Sequential(nn.Linear(20, 4), nn.Linear(4, 3).bfloat16())
    nan = Linear(0)
    with torch.no_grad():
        nan.fc.weight[0, 0] = float("nan")
    for call, said in (
        (lambda: layerscope.TorchEvaluator(mixed, (x, y)), "several dtypes"),
        (lambda: layerscope.TorchEvaluator(nn.Sequential(nn.LazyLinear(3)), (x, y)), "no shape yet"),
        (lambda: layerscope.TorchEvaluator(Linear(0), [(x, y), (x[:, :5], y)]), "putting the batches together"),
        (lambda: layerscope.trajectory([nan, nan, nan]), "checkpoint 0 contains NaN"),
        (lambda: layerscope.align(nan, nan, nan, x), "model A contains NaN"),
        (lambda: layerscope.sharpness(nan, layerscope.TorchEvaluator(nan, (x, y))), "not finite"),
        (lambda: layerscope.line(nan, nan, lambda w: {"loss": 1.0}, points=5.0), "points must be"),
        (lambda: layerscope.plane(nan, nan, nan, lambda w: {"loss": 1.0}, u=(0, 1, 10**12)), "at most"),
    ):
        with pytest.raises(LayerscopeError, match=said):
            call()


def test_calibration_is_told_for_what_it_is() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3))
    x, y = torch.randn(30, 3, 6, 6), torch.randint(3, (30,))
    assert layerscope.TorchEvaluator(net, (x, y)).about["calibration"] == "30 of the evaluation examples"
    assert layerscope.TorchEvaluator(net, (x, y), calibrate=x[:20].clone()).about["calibration"] == "20"

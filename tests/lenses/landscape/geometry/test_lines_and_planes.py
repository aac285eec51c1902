"""Lines, planes and barriers: closed forms, direct evaluation, statistics by each policy, holes, resumption."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import UnknownName, Unreadable, UsageError
from layerscope.lenses.landscape.evaluation.value import Value
from tests.requirements import require

torch: Any = require("torch")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402


def mlp(seed: int) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 20), nn.ReLU(inplace=True), nn.Linear(20, 4))


def cnn(seed: int) -> Any:
    torch.manual_seed(seed)
    parts = nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 2), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*parts, nn.Linear(8, 4))


def normed(seed: int) -> Any:
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, 4)
    )
    net(torch.randn(50, 1, 4, 4))
    return net


class Odd(nn.Module):
    """A first layer that is called twice: no image of it may be kept."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.fc, self.head = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Any) -> Any:
        x = x.flatten(1)
        return self.head(torch.relu(self.fc(torch.relu(self.fc(x)))))


@pytest.fixture
def data() -> Any:
    torch.manual_seed(9)
    return torch.randn(130, 1, 4, 4), torch.randint(4, (130,))


def direct(make: Any, models: Any, c: Any, data: Any) -> float:
    net = make(0).eval()
    with torch.no_grad():
        for p, *others in zip(net.parameters(), *(m.parameters() for m in models), strict=True):
            p.copy_(sum(w * q for w, q in zip(c, others, strict=True)))
        return float(functional.cross_entropy(net(data[0]), data[1]))


@pytest.mark.parametrize("batch", [None, 50])
@pytest.mark.parametrize("make", [mlp, cnn, Odd])
def test_every_point_is_that_of_direct_evaluation(make: Any, batch: int | None, data: Any) -> None:
    a, b, c = (make(s) for s in (1, 2, 3))
    before = [copy.deepcopy(m.state_dict()) for m in (a, b, c)]
    evaluate = layerscope.TorchEvaluator(a, data, batch=batch)
    line = layerscope.line(a, b, evaluate, points=7, span=(-1, 2))
    for t, value in zip(line.t, line.metrics["loss"], strict=True):
        assert value == pytest.approx(direct(make, (a, b), (1 - t, t), data), abs=1e-6)
    ends = [evaluate(m).metrics["loss"] for m in (a, b)]
    assert [line.metrics["loss"][line.t == x][0] for x in (0, 1)] == pytest.approx(ends, abs=1e-7)
    plane = layerscope.plane(a, b, c, evaluate, u=(-0.5, 1.5, 5), v=(0, 1, 3))
    for i, v in enumerate(plane.v):
        for j, u in enumerate(plane.u):
            truth = direct(make, (a, b, c), (1 - u - v, u, v), data)
            assert plane.metrics["loss"][i, j] == pytest.approx(truth, abs=1e-6)
    value, u, v = plane.best("loss")
    assert value == np.nanmin(plane.metrics["loss"])
    assert plane.metrics["loss"][plane.v == v, plane.u == u] == value
    for model, state in zip((a, b, c), before, strict=True):
        assert all(torch.equal(state[k], t) for k, t in model.state_dict().items())
        assert model.training


def test_quadratic_bowls_have_their_closed_forms() -> None:
    rng = np.random.default_rng(0)
    q = rng.standard_normal((6, 6))
    h = q @ q.T
    a, b, c = ({"w": rng.standard_normal(6)} for _ in range(3))

    def bowl(weights: Any) -> dict[str, float]:
        return {"loss": float(weights["w"] @ h @ weights["w"]) / 2}

    line = layerscope.line(a, b, bowl, points=101)
    d = b["w"] - a["w"]
    assert line.barrier("chord").value == pytest.approx(0, abs=1e-9)  # a bowl lies below its chords
    assert (
        line.barrier("signed").value
        == pytest.approx(
            min(bowl({"w": a["w"] + t * d})["loss"] for t in line.t) - (bowl(a)["loss"] + bowl(b)["loss"]) / 2, rel=0.3
        )
        or line.barrier("signed").value > 0
    )
    plane = layerscope.plane(a, b, c, bowl, u=(-1, 1, 5), v=(-1, 1, 5))
    for i, v in enumerate(plane.v):
        for j, u in enumerate(plane.u):
            w = a["w"] + u * d + v * (c["w"] - a["w"])
            assert plane.metrics["loss"][i, j] == pytest.approx(float(w @ h @ w) / 2)
    x, y = plane.coordinates()
    assert np.hypot(x[2, 4], y[2, 4]) == pytest.approx(np.linalg.norm(d))
    assert plane.about["evaluate"].endswith("bowl")


def test_statistics_by_each_policy(data: Any) -> None:
    a, b = normed(1), normed(2)
    x, y = data
    half = {}
    for bn in ("recompute", "batch", "interpolate", "keep"):
        evaluate = layerscope.TorchEvaluator(a, data, bn=bn, calibrate=x[:64])
        half[bn] = layerscope.line(a, b, evaluate, points=3)
        assert half[bn].about["bn"] == bn
    mid = normed(0)
    with torch.no_grad():
        for p, q, r in zip(mid.parameters(), a.parameters(), b.parameters(), strict=True):
            p.copy_(0.5 * q + 0.5 * r)
    h = mid[1](x[:64].flatten(1)).detach()
    truth = {}
    mid.eval()
    for bn in ("recompute", "interpolate", "keep"):
        mean, var = {
            "recompute": (h.mean(0), h.var(0)),
            "interpolate": tuple(
                0.5 * getattr(a[2], n) + 0.5 * getattr(b[2], n) for n in ("running_mean", "running_var")
            ),
            "keep": (a[2].running_mean, a[2].running_var),
        }[bn]
        mid[2].running_mean.copy_(mean)
        mid[2].running_var.copy_(var)
        truth[bn] = float(functional.cross_entropy(mid(x), y).detach())
    mid[2].train()
    truth["batch"] = float(functional.cross_entropy(mid(x), y).detach())
    for bn, value in truth.items():
        assert half[bn].metrics["loss"][1] == pytest.approx(value, abs=1e-5), bn
    own = layerscope.TorchEvaluator(a, data, bn="keep")
    a.eval()
    assert own(a).metrics["loss"] == pytest.approx(float(functional.cross_entropy(a(x), y).detach()), abs=1e-6)


def test_variances_below_zero_are_counted(data: Any) -> None:
    a, b = normed(1), normed(2)
    with torch.no_grad():
        b[2].running_var.mul_(50)
    evaluate = layerscope.TorchEvaluator(a, data, bn="interpolate")
    line = layerscope.line(a, b, evaluate, span=(-1, 2), points=7)
    assert line.clamped > 0
    assert "negative batch-norm variances" in repr(line)


def test_holes_are_holes_and_the_rest_is_kept(data: Any) -> None:
    a, b = mlp(1), mlp(2)
    with torch.no_grad():
        b[1].weight[0, 0] = math.nan
    evaluate = layerscope.TorchEvaluator(a, data)
    line = layerscope.line(a, b, evaluate, points=5)
    assert line.holes == {"not finite (because of 1.weight of B)": 4}
    assert np.isfinite(line.metrics["loss"]).tolist() == [True, False, False, False, False]
    assert math.isnan(line.metrics["accuracy"][2])
    assert math.isnan(line.barrier().value)

    def sometimes(weights: Any) -> dict[str, float]:
        if weights["w"][0] > 0.4:
            raise RuntimeError("out of memory")
        return {"loss": 1.0}

    line = layerscope.line({"w": np.zeros(2)}, {"w": np.ones(2)}, sometimes, points=11)
    assert line.holes == {"RuntimeError: out of memory": 6}
    with pytest.raises(UsageError, match="no point could be evaluated"):
        layerscope.line({"w": np.ones(2)}, {"w": np.ones(2)}, sometimes)


def test_an_interrupted_plane_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def bowl(weights: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 13:
            raise KeyboardInterrupt
        return {"loss": float(np.square(weights["w"]).sum())}

    rng = np.random.default_rng(0)
    a, b, c = ({"w": rng.standard_normal(3)} for _ in range(3))
    how: Any = {"u": (0, 1, 5), "v": (0, 1, 5), "store": tmp_path / "grid.zip"}
    from layerscope.lenses.landscape.evaluation import points

    monkeypatch.setattr(points.GridStore, "WRITE_INTERVAL", 0.0)
    with pytest.raises(KeyboardInterrupt):
        layerscope.plane(a, b, c, bowl, **how)
    plane = layerscope.plane(a, b, c, bowl, **how)
    assert len(calls) == 13 + 13
    assert np.array_equal(
        plane.metrics["loss"], layerscope.plane(a, b, c, bowl, u=(0, 1, 5), v=(0, 1, 5)).metrics["loss"]
    )
    with pytest.raises(UsageError, match="holds another grid"):
        layerscope.plane(a, c, b, bowl, **how)
    (tmp_path / "grid.zip").write_bytes(b"junk")
    with pytest.raises(Unreadable, match="not a file of stored grid points"):
        layerscope.plane(a, b, c, bowl, **how)


def test_what_is_wrong_is_said(data: Any) -> None:
    a, b = mlp(1), mlp(2)
    evaluate = layerscope.TorchEvaluator(a, data)
    wider = nn.Sequential(nn.Flatten(), nn.Linear(16, 21), nn.ReLU(), nn.Linear(21, 4))
    for call, said in (
        (lambda: layerscope.line(a, wider, evaluate), r"same architecture.*1.bias \(shape \(20,\) and \(21,\)\)"),
        (lambda: layerscope.line(a, b, evaluate, points=1), "between 2 and"),
        (lambda: layerscope.line(a, b, evaluate, points=10**6), "between 2 and"),
        (lambda: layerscope.line(a, b, evaluate, span=(1, 0)), "first value must be smaller"),
        (lambda: layerscope.plane(a, b, b, evaluate, u=(0, 1, 1000), v=(0, 1, 1000)), "1,000,000 points"),
        (lambda: layerscope.plane(a, b, b, evaluate, u=(0, 1, 0)), "two or more points"),
        (lambda: layerscope.TorchEvaluator(a, data, bn="none"), "no batch-norm policy"),
        (lambda: layerscope.TorchEvaluator(a, data, device="cuda:7"), "device 'cuda:7'"),
        (lambda: layerscope.TorchEvaluator(a, []), "data is a list: pass"),
        (lambda: layerscope.TorchEvaluator(a, (data[0][:0], data[1][:0])), "0 examples"),
        (lambda: layerscope.TorchEvaluator(a, (data[0], data[1] + 9)), "labels from"),
        (lambda: layerscope.line(a, b, lambda w: 3.0), "must return metrics by name"),
    ):
        with pytest.raises((UsageError, UnknownName), match=said):
            call()

    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(16, 4)

        def forward(self, x: Any) -> Any:
            return self.fc(x.sub_(1.0).flatten(1))

    with pytest.raises(UsageError, match="changes its input in place"):
        layerscope.TorchEvaluator(Changing(), data)


def test_the_error_of_a_barrier_is_paired(data: Any) -> None:
    a, b = mlp(1), mlp(2)
    line = layerscope.line(a, b, layerscope.TorchEvaluator(a, data), points=11)
    hill = line.barrier()
    assert line.samples.shape == (11, 130)
    over = line.samples[list(line.t).index(hill.at)] - (1 - hill.at) * line.samples[0] - hill.at * line.samples[-1]
    assert hill.value == pytest.approx(over.mean(), abs=1e-9)
    assert hill.error == pytest.approx(over.std(ddof=1) / math.sqrt(130))
    assert line.barrier(metric="accuracy").error is None
    with pytest.raises(UsageError, match="kind must be one of"):
        line.barrier("tall")


def test_the_loss_of_the_abyss_is_stable_and_right() -> None:
    logits = torch.tensor([[2.0, 1.0, -1.0], [500.0, 0.0, 0.0], [0.0, 500.0, 0.0]]).double()
    found = layerscope.inverted_cross_entropy(logits, torch.tensor([0, 0, 0]))
    p = logits[0].softmax(0)[0]
    assert float(found[0]) == pytest.approx(-math.log(1 - float(p)))
    assert float(found[1]) == pytest.approx(500 - math.log(2))
    assert float(found[2]) == pytest.approx(0, abs=1e-12)


def test_values_of_ones_own_count() -> None:
    line = layerscope.line(
        {"w": np.zeros(2)}, {"w": np.ones(2)}, lambda w: Value({"loss": float(w["w"][0])}, np.ones(3)), points=3
    )
    assert line.samples.shape == (3, 3)
    assert line.rise == 1


class Watched(nn.Module):
    """A first layer whose weight something else reads too."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        return self.b(torch.relu(self.a(x))) * self.a.weight.norm()


@pytest.mark.parametrize("kind", ["watched", "normed", "hooked"])
def test_first_layers_that_are_not_affine_are_computed_at_every_point(kind: str) -> None:
    def made(seed: int) -> Any:
        net = Watched(seed)
        if kind == "normed":
            torch.nn.utils.parametrizations.weight_norm(net.a)
        if kind == "hooked":
            net.a.register_forward_pre_hook(lambda module, inputs: (inputs[0] * module.bias.norm(),))
        return net

    a, b = made(0), made(1)
    torch.manual_seed(3)
    x, y = torch.randn(40, 5), torch.randint(3, (40,))
    line = layerscope.line(a, b, layerscope.TorchEvaluator(a, (x, y)), points=5)
    for t, loss in zip(line.t, line.metrics["loss"], strict=True):
        net = made(0)
        with torch.no_grad():
            for p, q, r in zip(net.parameters(), a.parameters(), b.parameters(), strict=True):
                p.copy_((1 - float(t)) * q + float(t) * r)
            assert loss == pytest.approx(float(functional.cross_entropy(net(x), y)), abs=1e-5)

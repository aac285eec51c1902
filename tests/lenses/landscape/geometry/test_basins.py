"""Mountains of small networks on real digits: warm starts share one, other starts do not."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import UsageError
from tests.requirements import require

torch: Any = require("torch")
require("sklearn")
from layerscope.experiments.conditioning import train  # noqa: E402
from layerscope.experiments.image_data import digits  # noqa: E402
from layerscope.lenses.learning_statistics.paper_networks import mlp  # noqa: E402


@pytest.fixture(scope="module")
def task() -> Any:
    found = digits(0)
    x, y = torch.from_numpy(found.x.copy()).flatten(1), torch.from_numpy(found.y.copy())
    return x[500:], y[500:], x[:500], y[:500]


@pytest.fixture(scope="module")
def models(task: Any) -> Any:
    x, y, _, _ = task

    def trained(init: int, order: int, start: Any = None, steps: int = 300) -> Any:
        net = copy.deepcopy(start) if start is not None else mlp([64, 96, 96, 10], init="he", norm=True, seed=init)
        train(net, x, y, steps=steps, lr=0.1, batch=64, seed=order, momentum=0.9, weight_decay=5e-4)
        return net

    warm = trained(0, 0, steps=100)
    return {"one": trained(1, 1), "two": trained(2, 2), "warm 1": trained(0, 1, warm), "warm 2": trained(0, 2, warm)}


@pytest.fixture(scope="module")
def evaluate(task: Any, models: Any) -> Any:
    x, _, x_test, y_test = task
    return layerscope.TorchEvaluator(models["one"], (x_test, y_test), calibrate=x[:512])


def test_warm_starts_share_a_mountain_and_others_do_not(models: Any, evaluate: Any) -> None:
    found = layerscope.basins(models, evaluate)
    assert ("warm 1", "warm 2") in found.clusters
    assert len(found.clusters) == 3
    raw, mixed = found.barriers["recompute"], found.barriers["interpolate"]
    assert raw[2, 3] <= found.tolerance < raw[0, 1]
    assert raw[0, 1] < mixed[0, 1]  # statistics are part of a barrier
    assert found.barriers["aligned"][0, 1] < 0.4 * raw[0, 1]
    assert {"LS301", "LS302"} <= {finding.code for finding in found.findings}
    assert "Three basins: {warm 1, warm 2}, {one} and {two}." in repr(found)
    straight = layerscope.line(models["one"], models["two"], evaluate, points=11).barrier().value
    assert raw[0, 1] == pytest.approx(straight)
    assert found.mean["accuracy"] < 0.97


def test_verdicts_about_pairs() -> None:
    from layerscope.rules.judging import judge_landscape
    from layerscope.rules.landscape_facts import Pair, Pairs

    def codes(*pairs: Any, mean: float = 9.0) -> set[str]:
        return {f.code for f in judge_landscape(pairs=Pairs(pairs, "recompute", 0.1, mean, 1.0))}

    calm, high = Pair(("a", "b"), {"recompute": 0.0}), Pair(("a", "c"), {"recompute": 2.0})
    assert codes(calm) == {"LS301"}
    assert codes(high) == {"LS302"}
    assert codes(calm, mean=0.5) == {"LS301", "LS310"}
    assert codes(Pair(("a", "b"), {"recompute": 2.0, "aligned": 0.3})) == {"LS302", "LS303"}
    assert codes(Pair(("a", "b"), {"recompute": 2.0, "aligned": 1.3})) == {"LS302"}
    assert codes(Pair(("a", "b"), {"recompute": 0.05, "interpolate": 3.0})) == {"LS301", "LS304"}
    assert codes(Pair(("a", "b"), {"recompute": math.inf}, holes=3)) == {"LS305"}
    assert codes(Pair(("a", "b"), {"recompute": 0.12}, error=0.02)) == {"LS302", "LS311"}


def test_the_mean_of_warm_started_models_is_as_good(models: Any, evaluate: Any) -> None:
    warm = {name: model for name, model in models.items() if name.startswith("warm")}
    found = layerscope.basins(warm, evaluate)
    assert len(found.clusters) == 1
    assert found.mean["accuracy"] >= min(m["accuracy"] for m in found.ends.values()) - 0.005


def test_a_trained_curve_goes_around_the_hill(models: Any, evaluate: Any, task: Any) -> None:
    found = layerscope.connect(models["one"], models["two"], evaluate, task[:2], steps=300)
    assert found.curved.barrier().value < 0.5 * found.straight.barrier().value
    assert found.stretch >= 1
    ends = [evaluate(models[name]).metrics["loss"] for name in ("one", "two")]
    assert found.curved.metrics["loss"][[0, -1]] == pytest.approx(ends, abs=1e-6)


def test_functions_are_nearer_where_mountains_are(models: Any, evaluate: Any) -> None:
    warm = layerscope.function_distance(models["warm 1"], models["warm 2"], evaluate)
    other = layerscope.function_distance(models["one"], models["two"], evaluate)
    same = layerscope.function_distance(models["one"], models["one"], evaluate)
    assert (same.disagreement, same.js) == (0, pytest.approx(0, abs=1e-9))
    assert same.cka == pytest.approx(1)
    assert warm.js < other.js < math.log(2)
    assert warm.disagreement <= other.disagreement


def test_sharpness_of_a_bowl_is_its_closed_form() -> None:
    class Bowl(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor([[1.0, -2.0, 0.5]]).double())

        def forward(self, x: Any) -> Any:
            return x * self.w

    net, curvature = Bowl(), torch.tensor([[1.0, 4.0, 9.0]]).double()
    ev = layerscope.TorchEvaluator(net, (torch.ones(1, 3).double(), torch.zeros(1)),
                                   loss=lambda o, y: 0.5 * (curvature * (o - net.w.detach()) ** 2).sum(1))  # fmt: skip
    found = layerscope.sharpness(net, ev, sigma=0.1, rho=0.2, draws=400)
    w = net.w.detach()
    truth = 0.5 * 0.01 * float((curvature * w**2).sum())
    assert found.average == pytest.approx(truth, abs=4 * found.average_error)
    assert found.gradient == pytest.approx(0, abs=1e-12)
    assert found.loss == 0


def test_directions_are_as_long_as_the_filters_they_move() -> None:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 5, 3), torch.nn.BatchNorm2d(5), torch.nn.Flatten(), torch.nn.Linear(45, 4)
    )
    direction = layerscope.random_direction(net, seed=3)
    for name in ("0.weight", "3.weight"):
        own = net.state_dict()[name].flatten(1).norm(dim=1).numpy()
        assert np.linalg.norm(direction[name].reshape(len(own), -1), axis=1) == pytest.approx(own, rel=1e-5)
    assert not direction["0.bias"].any()
    assert not direction["1.running_var"].any()
    again = layerscope.random_direction(torch.nn.Sequential(net[0]), seed=3)
    assert np.array_equal(again["0.weight"], direction["0.weight"])
    layer = layerscope.random_direction(net, norm="layer", seed=3)
    assert np.linalg.norm(layer["3.weight"]) == pytest.approx(float(net[3].weight.detach().norm()), rel=1e-5)


def test_a_plane_around_a_model_has_it_in_the_middle(models: Any, evaluate: Any) -> None:
    plane = layerscope.plane_around(models["one"], evaluate, u=(-1, 1, 5))
    assert plane.metrics["loss"][2, 2] == pytest.approx(evaluate(models["one"]).metrics["loss"], abs=1e-6)
    assert abs(plane.angle - 90) < 10
    top = layerscope.curvature(models["one"].eval(), (evaluate.x, evaluate.y), k=2, vectors=True)
    named = dict(models["one"].named_parameters())
    pair = []
    for vector in top.vectors:
        parts = vector.split([p.numel() for p in named.values()])
        pair.append({name: part.reshape(p.shape).numpy() for (name, p), part in zip(named.items(), parts, strict=True)})
    hessian = layerscope.plane_around(models["one"], evaluate, directions=pair, u=(-0.5, 0.5, 3))
    assert hessian.angle == pytest.approx(90, abs=0.1)
    with pytest.raises(UsageError, match="two directions"):
        layerscope.plane_around(models["one"], evaluate, directions=pair[:1])


def test_a_trajectory_lies_on_its_plane_where_it_does() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(50) for _ in range(2))
    points = [{"w": np.cos(t) * a + np.sin(t) * b} for t in np.linspace(0, 2, 9)]
    found = layerscope.trajectory(points)
    assert found.shares.sum() == pytest.approx(1)
    assert found.off_plane.max() == pytest.approx(0, abs=1e-6)
    assert found.coordinates[-1] == pytest.approx([0, 0])
    ends = np.linalg.norm(points[0]["w"] - points[-1]["w"])
    assert found.from_start[-1] == pytest.approx(ends)
    assert np.linalg.norm(found.coordinates[0]) == pytest.approx(ends)
    assert found.length > ends
    with pytest.raises(UsageError, match="three checkpoints"):
        layerscope.trajectory(points[:2])

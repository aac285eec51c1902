"""Rescaled copies of a network are the same point once scale is taken out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.sources.model_weights import weights_of
from tests.requirements import require

torch: Any = require("torch")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402


def run(net: Any, weights: Any, x: Any) -> Any:
    state = {k: torch.from_numpy(np.array(v)) for k, v in weights.items()}
    return torch.func.functional_call(net, state, (x,))


def test_rescaled_relu_networks_are_one_point() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 7), nn.ReLU(), nn.Linear(7, 3)
    ).double()
    x = torch.randn(5, 1, 8, 8).double()
    plain = weights_of(net)
    other = {k: v.copy() for k, v in plain.items()}
    s, t = np.array([0.1, 3.0, 7.0, 0.5]), np.linspace(0.2, 4, 7)
    other["0.weight"] *= s[:, None, None, None]
    other["0.bias"] *= s
    other["4.weight"] = (other["4.weight"].reshape(7, 4, 9) / s[None, :, None]).reshape(7, 36)
    other["4.weight"] *= t[:, None]
    other["4.bias"] *= t
    other["6.weight"] /= t[None]
    forms = [layerscope.canonical(net, w, x) for w in (plain, other)]
    raw = layerscope.distances({"a": plain, "b": other}).matrix()[0, 1]
    assert raw > 1
    assert layerscope.distances({"a": forms[0], "b": forms[1]}).matrix()[0, 1] < 1e-12
    assert torch.allclose(run(net, forms[0], x), net(x))
    assert np.linalg.norm(forms[0]["0.weight"].reshape(4, -1), axis=1) == pytest.approx(np.ones(4))


def test_filters_before_a_norm_have_no_length() -> None:
    torch.manual_seed(0)

    class Stream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.na, self.b, self.nb = (
                nn.Conv2d(1, 4, 3, padding=1),
                nn.BatchNorm2d(4),
                nn.Conv2d(4, 4, 3, padding=1),
                nn.BatchNorm2d(4),
            )
            self.head = nn.Linear(4, 3)

        def forward(self, x: Any) -> Any:
            x = functional.relu(self.na(self.a(x)))
            return self.head((x + self.nb(self.b(x))).mean((2, 3)))

    net, x = Stream().double().eval(), torch.randn(6, 1, 5, 5).double()
    plain = weights_of(net)
    other = {k: v.copy() for k, v in plain.items()}
    other["a.weight"] *= 5
    other["a.bias"] *= 5
    other["b.weight"] *= 0.2
    forms = [layerscope.canonical(net, w, x) for w in (plain, other)]
    learned = [k for k in plain if "running" not in k]
    for k in learned:
        if k != "b.bias":
            assert forms[0][k] == pytest.approx(forms[1][k]), k
    assert np.linalg.norm(forms[0]["b.weight"].reshape(4, -1), axis=1) == pytest.approx(np.ones(4))
    assert np.array_equal(forms[0]["head.weight"], plain["head.weight"])


def test_raw_canonical_and_aligned_distances_stand_side_by_side() -> None:
    from layerscope.lenses.landscape.alignment.permutation_groups import trace_groups
    from layerscope.lenses.landscape.alignment.weight_matching import permute

    torch.manual_seed(0)
    make = lambda: nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 3)).double()  # noqa: E731
    net, x, rng = make(), torch.randn(5, 10).double(), np.random.default_rng(0)
    plain = weights_of(net)
    free = [group for group in trace_groups(net, x) if not group.fixed]
    moved = permute(plain, free, [rng.permutation(16)])
    s = np.linspace(0.3, 3, 16)
    moved["0.weight"] = moved["0.weight"] * s[:, None]
    moved["0.bias"] = moved["0.bias"] * s
    moved["2.weight"] = moved["2.weight"] / s[None]
    found = layerscope.distances({"a": plain, "b": moved, "c": make()}, module=net, x=x)
    raw, scale, order = (found.matrix(kind) for kind in ("symmetric", "scale", "order"))
    assert raw[0, 1] > 0.5
    assert scale[0, 1] > 0.5
    assert order[0, 1] < 1e-12
    assert 0.3 < order[0, 2] <= scale[0, 2] + 1e-9
    assert "order" in repr(found)


def test_activations_that_mind_scale_are_left_alone() -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 3))
    x = torch.randn(4, 6)
    plain = weights_of(net)
    assert all(np.array_equal(plain[k], v) for k, v in layerscope.canonical(net, net, x).items())

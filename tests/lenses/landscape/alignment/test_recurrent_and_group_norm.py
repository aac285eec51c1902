"""Units of recurrent layers and of layers before group norms: a permuted copy is matched exactly."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import layerscope
from tests.requirements import require

torch: Any = require("torch")
nn: Any = torch.nn

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
UNITS = 12


class Recurrent(nn.Module):  # type: ignore[misc]
    """Reads the outputs of the last step, or the last states of the last layer."""

    def __init__(self, kind: str, states: bool, **options: Any) -> None:
        super().__init__()
        self.r = getattr(nn, kind)(10, UNITS, batch_first=True, **options)
        self.l = nn.Linear(UNITS * (1 + self.r.bidirectional), 4)
        self.states = states

    def forward(self, x: Any) -> Any:
        outputs, last = self.r(x)
        if not self.states:
            return self.l(outputs[:, -1])
        last = last[0] if isinstance(last, tuple) else last
        return self.l(torch.cat([*last[-1 - self.r.bidirectional :]], -1))


def permuted_copy(net: Any, kind: str) -> Any:
    """A copy with the units of every layer and direction in another order, which computes the same function."""
    twin, generator = copy.deepcopy(net), torch.Generator().manual_seed(1)
    state, directions = twin.state_dict(), 1 + net.r.bidirectional
    for level in range(net.r.num_layers):
        orders = []
        for direction in range(directions):
            suffix = f"_l{level}" + ("_reverse" if direction else "")
            p = torch.randperm(UNITS, generator=generator)
            rows = torch.cat([gate * UNITS + p for gate in range(GATES[kind])])
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                if f"r.{name}{suffix}" in state:
                    state[f"r.{name}{suffix}"].copy_(state[f"r.{name}{suffix}"][rows].clone())
            state[f"r.weight_hh{suffix}"].copy_(state[f"r.weight_hh{suffix}"][:, p].clone())
            orders.append(direction * UNITS + p)
        above = [f"r.weight_ih_l{level + 1}{end}" for end in ("", "_reverse")[:directions]]
        for reader in above if level + 1 < net.r.num_layers else ["l.weight"]:
            state[reader].copy_(state[reader][:, torch.cat(orders)].clone())
    return twin


@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"bidirectional": True}, {"num_layers": 2, "bias": False}])
@pytest.mark.parametrize("kind", list(GATES))
def test_the_units_of_recurrent_layers_are_matched(kind: str, options: dict[str, Any], states: bool) -> None:
    torch.manual_seed(0)
    net, x = Recurrent(kind, states, **options), torch.randn(30, 7, 10)
    twin = permuted_copy(net, kind)
    assert torch.allclose(net(x), twin(x), atol=1e-5)
    aligned = layerscope.align(net, net, twin, x)
    assert aligned.before > 1
    assert aligned.after < 1e-4
    assert aligned.groups == options.get("num_layers", 1) * (1 + options.get("bidirectional", False))
    assert aligned.fixed == ("the model's output",)


@pytest.mark.parametrize("kind", list(GATES))
def test_the_units_of_cells_are_matched(kind: str) -> None:
    class Cells(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.c, self.l = getattr(nn, f"{kind}Cell")(10, UNITS), nn.Linear(UNITS, 4)

        def forward(self, x: Any) -> Any:
            state = None
            for step in range(x.shape[1]):
                state = self.c(x[:, step], state)
            return self.l(state[0] if isinstance(state, tuple) else state)

    torch.manual_seed(0)
    net, x, p = Cells(), torch.randn(30, 7, 10), torch.randperm(UNITS)
    twin = copy.deepcopy(net)
    rows = torch.cat([gate * UNITS + p for gate in range(GATES[kind])])
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            twin.c.get_parameter(name).copy_(net.c.get_parameter(name)[rows])
        twin.c.weight_hh.copy_(net.c.weight_hh[rows][:, p])
        twin.l.weight.copy_(net.l.weight[:, p])
    aligned = layerscope.align(net, net, twin, x)
    assert (aligned.groups, aligned.before > 1, aligned.after < 1e-4) == (1, True, True)


@pytest.mark.parametrize(("channels", "groups"), [(12, 3), (12, 1), (12, 12), (12, 6)])
def test_channels_move_within_the_groups_of_a_group_norm(channels: int, groups: int) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, channels, 3), nn.GroupNorm(groups, channels), nn.ReLU(), nn.Conv2d(channels, 5, 3)]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(5 * 16, 4))
    with torch.no_grad():
        for parameter in net[1].parameters():
            parameter.add_(torch.randn(channels))
    twin = copy.deepcopy(net)
    size = channels // groups if 1 < groups < channels else channels
    p = torch.cat([start + torch.randperm(size) for start in range(0, channels, size)])
    with torch.no_grad():
        for place, axis in ((0, 0), (1, 0), (3, 1)):
            twin[place].weight.copy_(net[place].weight.index_select(axis, p))
        for place in (0, 1):
            twin[place].bias.copy_(net[place].bias[p])
    x = torch.randn(20, 3, 8, 8)
    assert torch.allclose(net(x), twin(x), atol=1e-5)
    aligned = layerscope.align(net, net, twin, x)
    assert aligned.before > 0.5
    assert aligned.after < 1e-4
    assert aligned.output_change < 1e-6


def train(net: Any, x: Any, y: Any) -> None:
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()


def test_basins_do_not_call_unmatched_units_different_basins() -> None:
    class Projected(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.r = nn.LSTM(10, UNITS, batch_first=True, proj_size=6)
            self.l = nn.Linear(6, 4)

        def forward(self, x: Any) -> Any:
            return self.l(self.r(x)[0][:, -1])

    torch.manual_seed(0)
    x, y = torch.randn(200, 7, 10), torch.randint(4, (200,))
    nets = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        nets.append(Projected())
        train(nets[-1], x, y)
    found = layerscope.basins({"a": nets[0], "b": nets[1]}, layerscope.TorchEvaluator(nets[0], (x, y)), points=5)
    [verdict] = [finding for finding in found.findings if finding.code == "LS302"]
    assert "could not be matched" in verdict.message
    assert "may still share a basin" in " ".join(found.advice())
    assert "different basins, so averaging" not in verdict.message


def test_basins_of_a_permuted_lstm() -> None:
    torch.manual_seed(0)
    net, x, y = Recurrent("LSTM", False), torch.randn(200, 7, 10), torch.randint(4, (200,))
    train(net, x, y)
    found = layerscope.basins({"a": net, "b": permuted_copy(net, "LSTM")}, layerscope.TorchEvaluator(net, (x, y)))
    assert len(found.clusters) == 2
    assert len(found.aligned) == 1
    assert {finding.code for finding in found.findings} >= {"LS303"}
    assert np.nanmax(found.barriers["aligned"]) < found.tolerance

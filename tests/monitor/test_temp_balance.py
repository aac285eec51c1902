"""TempBalance on a real optimiser: the paper's map of the layers' α, beside another schedule."""

from __future__ import annotations

from typing import Any

import pytest

import layerscope
from layerscope.edit import temp_balance
from layerscope.errors import UsageError
from layerscope.monitor.temp_balance import TempBalance
from tests.requirements import require

torch: Any = require("torch")
from torch import nn  # noqa: E402


def net() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(60, 80), nn.BatchNorm1d(80), nn.ReLU(), nn.Linear(80, 70), nn.ReLU(), nn.Linear(70, 64), nn.ReLU(),
        nn.Linear(64, 60),
    )  # fmt: skip


def test_rates_are_the_papers_map_and_groups_hold_everything_once() -> None:
    model = net()
    groups = TempBalance.groups(model, weight_decay=1e-4)
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    assert [group["layer"] for group in groups] == ["0.weight", "3.weight", "5.weight", "7.weight"]
    assert any(p is model[1].weight for p in groups[0]["params"])  # a norm follows its layer
    optimizer = torch.optim.SGD(groups, lr=0.2)
    rates = TempBalance(optimizer, model).step()
    report = layerscope.analyze(model)
    assert rates == pytest.approx(temp_balance(report, 0.2))
    hill = {name: report.layers[name].metrics["alpha_hill"] for name in ("3.weight", "5.weight")}
    low, high = sorted(hill, key=lambda name: hill[name])
    assert (rates[low], rates[high]) == pytest.approx((0.1, 0.3))
    assert rates["0.weight"] == rates["7.weight"] == 0.2
    assert [group["lr"] for group in optimizer.param_groups] == list(rates.values())


def test_another_schedule_goes_on_beneath() -> None:
    model = net()
    optimizer = torch.optim.Adam(TempBalance.groups(model), lr=0.1)
    schedule, balance = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5), TempBalance(optimizer, model, every=2)
    before = balance.step()
    balance.undo()
    optimizer.step()
    schedule.step()
    after = balance.step()
    assert after == pytest.approx({name: rate / 2 for name, rate in before.items()})
    assert balance.step() == pytest.approx(after)


def test_what_is_wrong_is_said() -> None:
    model = net()
    with pytest.raises(UsageError, match="have no layer names"):
        TempBalance(torch.optim.SGD(model.parameters(), 0.1), model)
    optimizer = torch.optim.SGD(TempBalance.groups(model), 0.1)
    with pytest.raises(UsageError, match="every must be"):
        TempBalance(optimizer, model, every=0)
    with pytest.raises(UsageError, match="no trainable parameter"):
        TempBalance.groups(model.requires_grad_(False))

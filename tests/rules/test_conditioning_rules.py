"""Verdicts of the conditioning lens fire on the nets that the paper describes, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

import layerscope
from layerscope.records.report import Report
from tests.requirements import require

torch: Any = require("torch")
from torch import nn  # noqa: E402

WIDTH, DEPTH = 64, 12


def mlp(init: str, *, norm: bool = False, scale: float = 1.0) -> Any:
    torch.manual_seed(0)
    parts: list[Any] = []
    for _ in range(DEPTH):
        layer = nn.Linear(WIDTH, WIDTH, bias=False)
        if init == "random":
            nn.init.uniform_(layer.weight, -(WIDTH**-0.5), WIDTH**-0.5)
        else:
            nn.init.kaiming_normal_(layer.weight)
        with torch.no_grad():
            layer.weight *= scale
        parts += [layer, *([nn.BatchNorm1d(WIDTH)] if norm else []), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(WIDTH, 10)).double()


def judged(net: Any, rows: int = 600, **options: Any) -> Report:
    torch.manual_seed(1)
    data = torch.randn(rows, WIDTH).double(), torch.randint(10, (rows,))
    return layerscope.conditioning(net, data, **options)


def codes(report: Report) -> dict[str, int]:
    found = [f.code for f in report.findings if f.code.startswith("LS2")]
    return {code: found.count(code) for code in sorted(set(found))}


def test_random_weights_fade_both_ways_and_the_product_hides_it() -> None:
    found = codes(judged(mlp("random"), fisher="exact"))
    assert found["LS201"] == found["LS202"] == found["LS203"] == 1
    slopes = {f.code: float(f.value) for f in judged(mlp("random")).findings if f.code in ("LS201", "LS202")}
    assert slopes["LS201"] < 0 < slopes["LS202"]


@pytest.mark.parametrize("norm", [False, True])
def test_good_initialisation_or_norms_leave_nothing_to_say_about_depth(norm: bool) -> None:
    found = codes(judged(mlp("he", norm=norm), fisher="exact"))
    assert not {"LS201", "LS202", "LS203"} & found.keys()


def test_weights_too_large_explode_forward() -> None:
    (finding,) = [f for f in judged(mlp("he", scale=1.5)).findings if f.code == "LS201"]
    assert float(finding.value) == pytest.approx(0.35, abs=0.06)  # 1.5² in energy, less what the ReLUs' mean adds
    assert finding.layer is None


def test_a_step_is_too_large_only_beside_a_rate() -> None:
    net = mlp("he", scale=1.5)
    assert "LS204" not in codes(judged(net, fisher="exact"))
    plain, momentum = (codes(judged(net, fisher="exact", lr=0.1, momentum=m)).get("LS204", 0) for m in (0.0, 0.9))
    assert plain >= momentum > 0
    (one, *_) = [f for f in judged(net, fisher="exact", lr=0.1, momentum=0.9).findings if f.code == "LS204"]
    assert one.limit == pytest.approx(2 * 1.9 / 0.1)
    (one, *_) = [
        f for f in judged(net, fisher="exact", lr=0.1, momentum=0.9, nesterov=True).findings if f.code == "LS204"
    ]
    assert one.limit == pytest.approx(2 * 1.9 / (1 + 1.8) / 0.1)


def test_domination_needs_a_loss_at_chance() -> None:
    dead = mlp("random", scale=0.5)
    with torch.no_grad():
        dead[-1].bias.zero_()
    assert codes(judged(dead))["LS206"] > 5
    assert "LS206" not in codes(judged(mlp("he", norm=True)))
    assert "LS206" not in codes(judged(dead, loss=lambda output, labels: output.square().sum(1)))


def test_rows_too_few_are_said_and_silence_the_condition_number() -> None:
    few = codes(judged(mlp("he"), rows=100))
    assert few["LS209"] == DEPTH + 1
    assert "LS208" not in few
    assert "LS209" not in codes(judged(mlp("he")))


def test_a_direction_that_is_hardly_fed_is_ill_conditioned() -> None:
    torch.manual_seed(1)
    x = torch.randn(600, WIDTH).double()
    x[:, : WIDTH // 2 + 4] *= 1e-4
    report = layerscope.conditioning(mlp("he"), (x, torch.randint(10, (600,))), layers="0.weight")
    (finding,) = [f for f in report.findings if f.code == "LS208"]
    assert finding.layer == "0.weight"
    assert "of the inputs" in finding.message


def test_a_last_layer_that_must_overshoot_is_told_before_the_first_step() -> None:
    class Stream(nn.Module):
        def __init__(self, last_bn: bool) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(40))
            self.norms = nn.ModuleList(nn.BatchNorm1d(WIDTH) for _ in range(40))
            self.last = nn.BatchNorm1d(WIDTH) if last_bn else nn.Identity()
            self.fc = nn.Linear(WIDTH, 10)

        def forward(self, x: Any) -> Any:
            for block, norm in zip(self.blocks, self.norms, strict=True):
                x = torch.relu(x + norm(block(x)))
            return self.fc(self.last(x))

    def found(last_bn: bool, **options: Any) -> Report:
        torch.manual_seed(0)
        return judged(Stream(last_bn).double(), fisher="exact", **options)

    (finding,) = [f for f in found(False, lr=0.2).findings if f.code == "LS205"]
    assert finding.layer == "fc.weight"
    assert finding.limit == pytest.approx(10)
    assert "LS205" not in codes(found(True, lr=0.2))
    assert "LS205" not in codes(found(False))  # no rate, no verdict


def test_domination_and_convergence_are_told_apart_by_the_loss() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(WIDTH, 32), nn.ReLU(), nn.Linear(32, 10)).double()
    x, y = torch.randn(400, WIDTH).double(), torch.randint(10, (400,))
    first = layerscope.conditioning(net, (x, y))
    with torch.no_grad():
        net[0].weight *= 1e3
        net[2].weight *= 1e-3
    grown = layerscope.conditioning(net, (x, y), since=first)
    (finding,) = [f for f in grown.findings if f.code == "LS206"]
    assert finding.layer == "0.weight"
    assert "σmax of the weight is 1e+03 times its first value" in finding.message
    with torch.no_grad():
        net[0].weight *= 1e-3
        net[2].weight *= 1e3
        net[2].weight.copy_(
            torch.linalg.lstsq(torch.relu(net[0](x[:20])), 40 * nn.functional.one_hot(y[:20], 10).double())[0].T
        )
        net[2].bias.zero_()
    done = layerscope.conditioning(net, (x[:20], y[:20]), since=first)
    found = codes(done)
    assert done.meta["conditioning"]["whole"]["loss"] < 1e-6
    assert found["LS207"] == 2
    assert "LS206" not in found


def test_features_that_are_switched_off_are_told() -> None:
    net = mlp("he", norm=True)
    first = judged(net)
    with torch.no_grad():
        for module in list(net)[-12:]:
            if isinstance(module, nn.BatchNorm1d):
                module.bias.fill_(-30.0)
    assert "LS211" not in codes(judged(net))  # of one moment alone nothing is said
    (finding,) = [f for f in judged(net, since=first).findings if f.code == "LS211"]
    assert finding.layer is None
    assert "100% of β are below zero" in finding.message
    assert "LS211" not in codes(judged(net, since=judged(net)))


def test_a_product_that_is_far_off_is_told() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(WIDTH, 20, bias=False), nn.ReLU(), nn.Linear(20, 3)).double()
    x = torch.randn(100, WIDTH).double()
    x[0] *= 100  # one example holds both factors
    report = layerscope.conditioning(net, (x, torch.randint(3, (100,))), exact=True)
    off = {row.name: float(row.metrics["kfac_ratio"]) for row in report.rows if not row.skipped}
    fired = {f.layer for f in report.findings if f.code == "LS212"}
    assert fired == {name for name, ratio in off.items() if not 1 / 3 <= ratio <= 3}
    assert "0.weight" in fired
    assert "LS212" not in codes(judged(mlp("he", norm=True), rows=200))


def test_what_was_left_out_and_how_the_data_were_cut_is_told() -> None:
    net = nn.Sequential(nn.Linear(WIDTH, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    net.unused = nn.Linear(3, 3)
    net.forward = lambda x: net[3](net[2](net[1](net[0](x))))  # type: ignore[method-assign]
    x, y = torch.randn(60, WIDTH), torch.randint(10, (60,))
    whole, cut = (layerscope.conditioning(net, batches) for batches in ([(x, y)], [(x[:30], y[:30]), (x[30:], y[30:])]))
    (finding,) = [f for f in whole.findings if f.code == "LS213"]
    assert finding.message.startswith("1 weight could not be measured: 1 × the module was not called")
    assert "LS214" not in codes(whole)
    assert codes(cut)["LS214"] == 1
    net.eval()
    assert "LS214" not in codes(layerscope.conditioning(net, [(x[:30], y[:30]), (x[30:], y[30:])]))

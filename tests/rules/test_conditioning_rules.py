"""Verdicts of the conditioning lens fire on the nets that the paper describes, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

import layerscope
from layerscope.report import Report

torch: Any = pytest.importorskip("torch")
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

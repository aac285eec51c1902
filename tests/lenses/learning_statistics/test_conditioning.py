"""The conditioning lens through the public call: columns against dense float64 algebra, and a Report like others."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.numerics.kronecker import kappa, product_kappa
from layerscope.records.report import Report
from layerscope.views.plots import drawing, pictures
from layerscope.views.rerun_command import report_command
from tests.requirements import require

torch: Any = require("torch")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402


@pytest.fixture
def net() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)
    ).double()


@pytest.fixture
def batch() -> Any:
    torch.manual_seed(1)
    return torch.randn(200, 8).double(), torch.randint(3, (200,))


def test_the_columns_are_those_of_the_dense_matrices(net: Any, batch: Any) -> None:
    x, y = batch
    m = layerscope.conditioning(net, batch).layers["2.weight"].metrics
    a = torch.relu(net[0](x)).detach()
    h = net[2](a).detach().requires_grad_()
    (d,) = torch.autograd.grad(functional.cross_entropy(net[3:](h), y, reduction="sum"), h)
    s_x, s_d = (rows.T @ rows / 200 for rows in (a, d))
    e_x, e_d = (np.linalg.eigvalsh(s.numpy()) for s in (s_x, s_d))
    w, g = net[2].weight.detach(), d.T @ a / 200
    truth = {
        "lambda_max_x": e_x[-1],
        "lambda_max_d": e_d[-1],
        "lambda_max_fim": e_x[-1] * e_d[-1],
        "trace_fim": e_x.sum() * e_d.sum(),
        "mean_energy": float(a.mean(0).square().sum()) / e_x[-1],
        "grad_sigma_max": float(torch.linalg.matrix_norm(g, 2)),
        "domination": float(torch.linalg.matrix_norm(g, 2) / torch.linalg.matrix_norm(w, 2)),
        "coherence": float(torch.linalg.matrix_norm(g, 2)) / math.sqrt(e_x[-1] * e_d[-1]),
        "scale_invariance": float((g * w).sum().abs() / (g.norm() * w.norm())),
        **{f"kappa_{p}_x": kappa(e_x, p) for p in (20, 50, 80, 100)},
        **{f"kappa_{p}_fim": product_kappa(e_x, e_d, p) for p in (20, 50)},
    }
    for name, value in truth.items():
        assert m[name] == pytest.approx(value, rel=1e-8, abs=1e-12), name
    assert m["scale_invariance"] < 1e-3  # a norm follows, with its epsilon
    assert m["coherence"] <= 1


def test_scaling_the_input_scales_its_moment_by_the_square(net: Any, batch: Any) -> None:
    x, y = batch
    plain, scaled = (layerscope.conditioning(net, (c * x, y)).layers["0.weight"].metrics for c in (1.0, 3.0))
    assert scaled["lambda_max_x"] == pytest.approx(9 * plain["lambda_max_x"])


def test_a_rectifier_net_obeys_theorem_one() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(10, 10, bias=False) for _ in range(4)]
    net = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2], nn.ReLU(), layers[3])
    net, x = net.double(), torch.randn(100, 10).double()
    loss = lambda output, _: output.sum(1)  # noqa: E731  its gradient by the output is the same whatever the scale
    before = layerscope.conditioning(net, (x, x), loss)
    with torch.no_grad():
        layers[1].weight *= 0.5
    after = layerscope.conditioning(net, (x, x), loss)
    ratios = {
        name: [after.rows[i].metrics[name] / before.rows[i].metrics[name] for i in range(4)]
        for name in ("lambda_max_x", "lambda_max_d", "domination")
    }
    assert ratios["lambda_max_x"] == pytest.approx([1, 1, 0.25, 0.25])
    assert ratios["lambda_max_d"] == pytest.approx([0.25, 1, 1, 1])
    assert ratios["domination"] == pytest.approx([0.5, 2, 0.5, 0.5])


def test_every_tensor_is_listed(batch: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift, self.unused = nn.Linear(8, 12), nn.Linear(3, 3)
            self.attend = nn.MultiheadAttention(12, 2, batch_first=True)
            self.head = nn.Linear(12, 3)

        def forward(self, x: Any) -> Any:
            x = self.lift(x)[:, None]
            return self.head(self.attend(x, x, x)[0][:, 0])

    report = layerscope.conditioning(Net().double(), batch)
    assert {name for name, row in report.layers.items() if not row.skipped} == {"lift.weight", "head.weight"}
    assert report.layers["unused.weight"].skipped == "the module was not called in the forward pass"
    assert "not called" in report.layers["attend.out_proj.weight"].skipped
    hidden = [name for name in report.layers if "in_proj_weight" in name]
    assert hidden
    assert all("linear or convolution layer that hooks can observe" in report.layers[name].skipped for name in hidden)
    assert not any(row.failed for row in report.rows)


def test_nan_in_one_layer_is_that_layers_affair(batch: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.bad, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Any) -> Any:
            return self.head(torch.relu(self.a(x)) + 0 * torch.nan_to_num(self.bad(x / 0)))

    report = layerscope.conditioning(Net().double(), batch)
    assert "lambda_max_x" in report.layers["a.weight"].metrics
    assert "not finite" in report.layers["bad.weight"].skipped


def test_groups_have_factors_and_the_steepest_product(batch: Any) -> None:
    net = nn.Sequential(nn.Conv1d(4, 4, 3, groups=2), nn.Flatten(), nn.LazyLinear(3)).double()
    x = torch.randn(50, 4, 9).double()
    net(x)
    row = layerscope.conditioning(net, (x, batch[1][:50]), conv="reduce").layers["0.weight"]
    assert {"lambda_max_x", "lambda_max_d", "domination"} <= row.metrics.keys()
    assert "one block per group" in row.absent["kappa_50_fim"]
    assert row.parts["input"].spectrum.k == 2
    halves = [nn.Conv1d(2, 2, 3), nn.Conv1d(2, 2, 3)]
    with torch.no_grad():
        for g, half in enumerate(halves):
            half.double().weight.copy_(net[0].weight[2 * g : 2 * g + 2])
            half.bias.copy_(net[0].bias[2 * g : 2 * g + 2])

    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.halves, self.head = nn.ModuleList(halves), net[2]

        def forward(self, x: Any) -> Any:
            parts = [half(x[:, 2 * g : 2 * g + 2]) for g, half in enumerate(self.halves)]
            return self.head(torch.cat(parts, 1).flatten(1))

    apart = layerscope.conditioning(Split(), (x, batch[1][:50]), conv="reduce").layers
    both = [apart[f"halves.{g}.weight"].metrics for g in range(2)]
    assert row.metrics["lambda_max_fim"] == pytest.approx(max(m["lambda_max_fim"] for m in both))
    assert row.metrics["trace_fim"] == pytest.approx(sum(m["trace_fim"] for m in both))


def test_it_is_a_report_like_any_other(net: Any, batch: Any, tmp_path: Path) -> None:
    report = layerscope.conditioning(net, [batch, batch], fisher="mc", layers="*.weight")
    assert report.meta["conditioning"]["fisher"] == "mc"
    assert set(report.layers["0.weight"].parts) == {"weight", "input", "gradient"}
    report.save(tmp_path / "r.layerscope")
    again = Report.load(tmp_path / "r.layerscope")
    assert [row.metrics for row in again.rows] == [row.metrics for row in report.rows]
    assert np.array_equal(again.rows[0].parts["input"].spectrum.evals, report.rows[0].parts["input"].spectrum.evals)
    judged = layerscope.rejudge(again)
    assert [row.metrics for row in judged.rows] == [row.metrics for row in report.rows]
    assert Report.from_json(report.to_json()).rows[0].parts["weight"].facts["examples"] == 400
    report.html(tmp_path / "x.html")
    assert "lambda_max_x" in report.frame().columns
    assert report_command(report).startswith("layerscope.conditioning(model, data, fisher='mc', conv='expand'")


def test_without_data_there_are_no_such_columns(net: Any) -> None:
    row = layerscope.analyze(net).rows[0]
    assert "lambda_max_x" not in row.metrics
    assert "lambda_max_x" not in row.absent


class Functional(nn.Module):
    def __init__(self, place: str) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.place = nn.Linear(4, 6), nn.Identity(), nn.Linear(6, 3), place

    def forward(self, x: Any) -> Any:
        h = self.norm(self.a(x))
        relu = {
            "function": functional.relu,
            "torch": torch.relu,
            "method": lambda t: t.relu(),
            "in place": lambda t: functional.relu(t, inplace=True),
            "tensor in place": lambda t: t.relu_(),
        }
        return self.b(relu[self.place](h))


@pytest.mark.parametrize("place", ["function", "torch", "method", "in place", "tensor in place"])
def test_dying_and_full_units_are_counted_by_hand(place: str) -> None:
    net = Functional(place).double()
    with torch.no_grad():
        net.a.weight.zero_()
        net.a.weight[:, 0] = torch.tensor([0.0, 0, 1, -1, 1, 0])
        net.a.bias.copy_(torch.tensor([-1.0, 1, 0, 0, 5, 0]))  # never, always, x>0, x<0, always, exactly zero
    x = torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0], [2.0, 0, 0, 0]]).double()
    batches = [(x[:1], torch.tensor([0])), (x[1:], torch.tensor([1, 2]))]
    report = layerscope.conditioning(net, batches)
    row = report.layers["a.weight"]
    assert (row.metrics["dying"], row.metrics["full"]) == (2, 2)
    alone = layerscope.conditioning(net, batches[:1]).layers["a.weight"]
    assert (alone.metrics["dying"], alone.metrics["full"]) == (3, 3)  # of one example every unit is one or the other
    assert report.layers["b.weight"].absent["dying"] == "no ReLU follows the layer"
    (finding,) = [f for f in report.findings if f.code == "LS210"]
    observed = "Of 6 units, 2 are never active and 2 always active in 3 examples (limit: 10% of the units)."
    assert finding.message.startswith(observed)
    zeros = int((report.layers["a.weight"].parts["gradient"].spectrum.evals == 0).sum())
    assert zeros >= 2  # a dying unit is an exact zero of its own gradients
    assert int(report.layers["b.weight"].metrics["rank_x"]) <= 4  # and of the next layer's inputs


def test_channels_behind_a_norm_are_units() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)).double()
    x = torch.randn(20, 2, 6, 6).double()
    net(x)
    with torch.no_grad():
        net[1].bias[1] = -100.0
        net[1].bias[2] = 100.0
    row = layerscope.conditioning(net, (x, torch.randint(3, (20,)))).layers["0.weight"]
    assert (row.metrics["dying"], row.metrics["full"]) == (1, 1)


def test_float32_agrees_with_float64_as_far_as_it_holds(net: Any, batch: Any) -> None:
    x, y = batch
    wide = layerscope.conditioning(net, batch).layers["2.weight"].metrics
    narrow = layerscope.conditioning(net.float(), (x.float(), y)).layers["2.weight"].metrics
    for name in (
        "lambda_max_x",
        "lambda_max_d",
        "lambda_max_fim",
        "kappa_50_x",
        "kappa_50_d",
        "domination",
        "coherence",
    ):
        assert narrow[name] == pytest.approx(wide[name], rel=1e-4), name


def test_the_pictures_show_both_factors_and_the_product(net: Any, batch: Any, tmp_path: Path) -> None:

    report = layerscope.conditioning(net, batch)
    (picture,) = pictures.make_pictures("factors_by_depth", report)
    measured = [row for row in report.rows if row.metrics]
    for label, name in (
        ("layer inputs", "lambda_max_x"),
        ("output gradients", "lambda_max_d"),
        ("product", "lambda_max_fim"),
    ):
        assert picture.mark(label).y == tuple(row.metrics[name] for row in measured)
    (picture,) = pictures.make_pictures("kappa_by_depth", report)
    assert picture.mark("κ50 x").y == tuple(row.metrics["kappa_50_x"] for row in measured)
    drawing.save_figure(report.plot("factors_by_depth"), tmp_path / "x.svg")
    report.html(tmp_path / "x.html")
    assert "Conditioning of inputs, gradients and curvature" in (tmp_path / "x.html").read_text("utf-8")
    assert "Conditioning of inputs, gradients and curvature" not in page_of(layerscope.analyze(net), tmp_path)


def page_of(report: Report, folder: Path) -> str:
    report.html(folder / "y.html")
    return (folder / "y.html").read_text("utf-8")


@pytest.mark.parametrize("fisher", ["empirical", "exact"])
def test_exact_blocks_are_those_of_per_example_gradients(fisher: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 3)
    ).double()
    x, y = torch.randn(25, 2, 6).double(), torch.randint(3, (25,))
    report = layerscope.conditioning(net, [(x[:10], y[:10]), (x[10:], y[10:])], fisher=fisher, exact=True)
    p = net(x).softmax(1).detach()
    labels = [(y[i : i + 1], 1.0) for i in range(25)] if fisher == "empirical" else None
    weights = [net[0].weight, net[3].weight, net[5].weight]
    rows: list[Any] = []
    for i in range(25):
        for label, share in labels[i : i + 1] if labels else [(torch.tensor([c]), float(p[i, c])) for c in range(3)]:
            loss = functional.cross_entropy(net(x[i : i + 1]), label)
            rows.append([share**0.5 * g.flatten() for g in torch.autograd.grad(loss, weights)])
    for k, name in enumerate(("0.weight", "3.weight", "5.weight")):
        g = torch.stack([row[k] for row in rows])
        truth = float(torch.linalg.matrix_norm(g, 2)) ** 2 / 25
        m = report.layers[name].metrics
        assert m["lambda_max_exact"] == pytest.approx(truth, rel=1e-9)
        assert m["kfac_ratio"] == pytest.approx(m["lambda_max_fim"] / truth, rel=1e-9)
        assert 0 < m["kfac_cosine"] <= 1 + 1e-12
        assert m["sample_floor"] <= truth * (1 + 1e-9)
    g = torch.cat([torch.stack([row[k] for row in rows]) for k in range(3)], 1)
    whole = report.meta["conditioning"]["whole"]
    truth = np.linalg.eigvalsh((g @ g.T / 25).numpy())[::-1]
    assert np.allclose(whole["evals"], truth[: len(whole["evals"])], atol=1e-5 * truth[0])
    assert whole["lambda_max"] == pytest.approx(float(torch.linalg.matrix_norm(g, 2)) ** 2 / 25, rel=1e-9)
    assert whole["trace"] == pytest.approx(float(g.square().sum()) / 25, rel=1e-9)
    tops = [report.layers[name].metrics["lambda_max_exact"] for name in ("0.weight", "3.weight", "5.weight")]
    assert max(tops) <= whole["lambda_max"] * (1 + 1e-9) <= sum(tops) * (1 + 2e-9)

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import layerscope
from tests.requirements import require

torch = require("torch")
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, parametrize  # noqa: E402


def singular(weight: Any) -> np.ndarray:
    return np.sort(np.linalg.svd(weight.detach().double().numpy(), compute_uv=False).ravel())


def analysed(module: Any) -> dict[str, Any]:
    return {row.name: row for row in layerscope.analyze(module).rows if not row.skipped}


def assert_spectrum(row: Any, *matrices: Any) -> None:
    exact = np.sort(np.concatenate([singular(m) ** 2 for m in matrices]))
    np.testing.assert_allclose(row.spectrum.evals, exact, rtol=1e-5, atol=1e-6 * exact[-1])


def test_linear_and_embedding() -> None:
    net = nn.Sequential(nn.Embedding(100, 60), nn.Linear(60, 70), nn.LayerNorm(70))
    report = layerscope.analyze(net)
    assert [row.ref.kind for row in report.rows] == ["embedding", "dense", "bias", "norm", "norm"]
    assert_spectrum(report.layers["1.weight"], net[1].weight)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_convolutions_by_position_and_group(d: int, transposed: bool, groups: int) -> None:
    kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{d}d")
    conv = kind(8, 12, 3, groups=groups)
    row = analysed(conv)["weight"]
    assert row.ref.kind == f"conv{d}d"
    w = conv.weight.detach().flatten(2)  # (out, in/g, positions), transposed: (in, out/g, positions)
    blocks = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    assert_spectrum(row, *(blocks[g, :, :, p] for g in range(groups) for p in range(w.shape[2])))
    assert (row.spectrum.k, row.spectrum.n, row.spectrum.m) == (3**d * groups, 12 // groups, 8 // groups)


def test_attention_is_split_and_its_projection_found() -> None:
    attention = nn.MultiheadAttention(64, 4)
    rows = analysed(attention)
    assert set(rows) == {"in_proj_weight[q]", "in_proj_weight[k]", "in_proj_weight[v]", "out_proj.weight"}
    assert_spectrum(rows["in_proj_weight[k]"], attention.in_proj_weight[64:128])
    separate = analysed(nn.MultiheadAttention(64, 4, kdim=32, vdim=48))
    assert {"q_proj_weight", "k_proj_weight", "v_proj_weight"} < set(separate)


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, "ifgo"), (nn.GRU, "rzn"), (nn.RNN, "")])
def test_recurrent_layers_by_gate(kind: Any, gates: str) -> None:
    net = kind(20, 60, bidirectional=True)
    rows = analysed(net)
    if gates:
        assert_spectrum(rows[f"weight_hh_l0_reverse[{gates[1]}]"], net.weight_hh_l0_reverse[60:120])
        assert len(rows) == 4 * len(gates)
    else:
        assert_spectrum(rows["weight_ih_l0"], net.weight_ih_l0)
    saved = analysed(dict(net.state_dict()))
    assert {n: dict(r.metrics) for n, r in rows.items()} == {n: dict(r.metrics) for n, r in saved.items()}
    assert {r.ref.kind for r in rows.values()} == {kind.__name__.lower()}


def test_projected_lstm_and_cells() -> None:
    rows = analysed(nn.LSTM(20, 60, proj_size=30))
    assert rows["weight_hh_l0[i]"].ref.shape == (60, 30)
    assert rows["weight_hr_l0"].ref.shape == (30, 60)
    assert set(analysed(nn.GRUCell(60, 60))) == {f"weight_{w}[{g}]" for w in ("ih", "hh") for g in "rzn"}


def test_tied_weights_are_one_layer_with_an_alias() -> None:
    net = nn.ModuleDict({"embed": nn.Embedding(90, 60), "head": nn.Linear(60, 90, bias=False)})
    net["head"].weight = net["embed"].weight
    report = layerscope.analyze(net)
    assert report.layers["embed.weight"].ref.aliases == ("head.weight",)
    assert report.layers["head.weight"].skipped == "same as embed.weight"


def test_norms_without_weight_do_not_disturb() -> None:
    net = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64, affine=False), nn.LayerNorm(64, elementwise_affine=False))
    assert net[1].weight is None
    assert set(analysed(net)) == {"0.weight"}


@pytest.mark.parametrize("how", ["parametrizations.weight_norm", "weight_norm", "spectral_norm", "orthogonal"])
def test_a_parametrized_weight_is_the_product_the_forward_uses(how: str) -> None:
    make = {
        "parametrizations.weight_norm": parametrizations.weight_norm,
        "weight_norm": getattr(nn.utils, "weight_norm"),  # noqa: B009
        "spectral_norm": parametrizations.spectral_norm,
        "orthogonal": parametrizations.orthogonal,
    }[how]
    with pytest.warns() if how == "weight_norm" else _nothing():
        net = nn.Sequential(make(nn.Linear(60, 70)))
    net.train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    rows = analysed(net)
    after = net.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before), "analysing changed a buffer"
    assert net.training
    net.eval()
    assert_spectrum(rows["0.weight"], net[0].weight)
    assert set(rows) == {"0.weight"}


def test_a_user_parametrization() -> None:
    class Double(nn.Module):
        def forward(self, x: Any) -> Any:
            return 2 * x

    linear = nn.Linear(60, 60)
    plain = linear.weight.detach().clone()
    parametrize.register_parametrization(linear, "weight", Double())
    assert_spectrum(analysed(linear)["weight"], 2 * plain)


def test_meta_tensors_have_a_shape_but_no_spectrum() -> None:
    net = nn.Linear(60, 60, device="meta")
    row = layerscope.analyze(net).layers["weight"]
    assert row.failed
    assert "meta device" in row.skipped


def test_bilinear_bare_parameters_and_quantised_leftovers() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bilinear = nn.Bilinear(20, 30, 4)
            self.pos_embed = nn.Parameter(torch.randn(1, 100, 64))
            self.matrix = nn.Parameter(torch.randn(64, 64))
            self.register_buffer("codes", torch.zeros(64, 64, dtype=torch.int8))

    report = layerscope.analyze(Odd())
    assert report.layers["bilinear.weight"].spectrum.k == 4
    assert report.layers["pos_embed"].ref.kind == "embedding"
    assert report.layers["matrix"].spectrum is not None
    assert "not decoded" in report.layers["codes"].skipped


def test_half_precision_and_gradients_are_left_alone() -> None:
    net = nn.Linear(64, 64).to(torch.bfloat16)
    net.weight.grad = torch.ones_like(net.weight)
    exact = singular(net.weight.float()) ** 2
    np.testing.assert_allclose(analysed(net)["weight"].spectrum.evals, exact, rtol=1e-6, atol=1e-9)
    assert net.weight.requires_grad
    assert net.weight.grad is not None


class _nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def test_flat_transposed_convolutions_in_groups_join_positions_to_the_input() -> None:
    layer = torch.nn.ConvTranspose2d(8, 12, 3, groups=2)
    report = layerscope.analyze(layer, conv="flat")
    w = layer.weight.detach().numpy().astype(np.float64)  # (in, out/g, kh, kw)
    blocks = [w[g * 4 : g * 4 + 4].transpose(1, 0, 2, 3).reshape(6, -1) for g in (0, 1)]
    expected = np.sort(np.concatenate([np.linalg.svd(b, compute_uv=False) ** 2 for b in blocks]))
    np.testing.assert_allclose(report.rows[0].spectrum.evals, expected, rtol=1e-9)

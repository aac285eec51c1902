"""New weights and schedules: pure, exact, of the same kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope import Settings, edit
from layerscope.edit.weights import tail_length
from layerscope.errors import UnknownName, UsageError
from layerscope.fits import fitting
from layerscope.numerics import spectra
from tests.requirements import require

torch = require("torch")


class Net(torch.nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(8, 16, 3, groups=2)
        self.attention = torch.nn.MultiheadAttention(64, 4)
        self.fc = torch.nn.Linear(100, 80)
        self.norm = torch.nn.LayerNorm(80)


def rank(matrix: Any) -> int:
    return int(np.linalg.matrix_rank(np.asarray(matrix, np.float64), tol=1e-6))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_smoothing_keeps_exactly_the_largest_singular_values(rng: np.random.Generator, dtype: type) -> None:
    w = rng.standard_normal((90, 60)).astype(dtype)
    new = edit.smooth({"fc.weight": w}, 7)["fc.weight"]
    assert new.dtype == dtype
    u, s, v = np.linalg.svd(w.astype(np.float64), full_matrices=False)
    assert new == pytest.approx((u[:, :7] * s[:7]) @ v[:7], abs=1e-5 if dtype is np.float32 else 1e-12)
    half = edit.smooth({"fc.weight": w}, 0.5)["fc.weight"]
    assert rank(half) == 30


@pytest.mark.parametrize("keep", ["power_law", "erg", "spikes"])
def test_smoothing_by_the_tail_of_each_kind(rng: np.random.Generator, keep: str) -> None:
    w = rng.standard_normal((120, 80)) + 3 * np.outer(rng.standard_normal(120), rng.standard_normal(80))
    metric = {"power_law": "num_pl_spikes", "erg": "detX_num", "spikes": "num_spikes"}[keep]
    expected = layerscope.analyze({"w.weight": w}).rows[0].metrics[metric]
    assert rank(edit.smooth({"w.weight": w}, keep)["w.weight"]) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_live_module_is_left_as_it_was(dtype: Any) -> None:
    torch.manual_seed(0)
    net = Net().to(dtype)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    new = edit.smooth(net, 0.25)
    assert set(new) == {"conv.weight", "attention.in_proj_weight", "attention.out_proj.weight", "fc.weight"}
    for name, tensor in new.items():
        assert tensor.dtype == dtype
        assert tensor.shape == before[name].shape
        assert not tensor.requires_grad
        assert not torch.equal(tensor, before[name])
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    net.load_state_dict({**net.state_dict(), **new})
    if dtype is torch.float64:
        for part in new["attention.in_proj_weight"].split(64):
            assert rank(part) == 16
        kernel = new["conv.weight"].numpy()
        assert sum(rank(kernel[g * 8 : g * 8 + 8, :, i, j]) for g in (0, 1) for i in range(3) for j in range(3)) == 18


def test_only_the_layers_that_are_named_are_changed() -> None:
    assert set(edit.smooth(Net(), 3, layers=["fc"])) == {"fc.weight"}
    assert edit.smooth(Net(), "spikes", layers=["fc"]) == {}


def test_sharpening_drops_as_many_as_there_are_traps(rng: np.random.Generator) -> None:
    w = rng.standard_normal((100, 80)).astype(np.float32)
    assert edit.sharpen({"w.weight": w}) == {}
    w[3, 4] = w[70, 60] = 60
    new = edit.sharpen({"w.weight": w})["w.weight"]
    u, s, v = np.linalg.svd(w.astype(np.float64), full_matrices=False)
    assert new == pytest.approx((u[:, 2:] * s[2:]) @ v[2:], abs=1e-4)
    assert not any(f.code == "LS104" for f in layerscope.analyze({"w.weight": new}, randomize=True).findings)


@pytest.mark.parametrize("keep", [0, -1, 0.0, 1.5, True, None])
def test_what_cannot_be_kept_is_refused(keep: Any) -> None:
    with pytest.raises(UsageError, match=r"keep=.*: give 'power_law', 'erg', 'spikes', a fraction"):
        edit.smooth({"w.weight": np.eye(60)}, keep)
    with pytest.raises(UnknownName, match="did you mean 'spikes'"):
        edit.smooth({"w.weight": np.eye(60)}, "spike")


def test_layers_that_are_no_numbers_are_left_out() -> None:
    assert edit.smooth({"w.weight": np.full((60, 60), np.nan), "z.weight": np.zeros((60, 60))}, "erg") == {}


# ---------------------------------------------------------------------------------------------------- schedules


@pytest.fixture(scope="module")
def report(shared: Path) -> layerscope.Report:
    return layerscope.analyze(shared / "models" / "mnist_mlp" / "mnist_9_100_nat.pth")


def test_learning_rates_rise_with_alpha(report: layerscope.Report) -> None:
    rates = edit.temp_balance(report, 0.1)
    rows = [row for row in report.rows if not row.skipped]
    assert rates[rows[0].name] == rates[rows[-1].name] == 0.1
    inner = {row.name: float(row.metrics["alpha_hill"]) for row in rows[1:-1]}
    assert min(rates.values()) == pytest.approx(0.05)
    assert max(rates.values()) == pytest.approx(0.15)
    assert sorted(inner, key=inner.__getitem__) == sorted(inner, key=rates.__getitem__)
    low, high = min(inner.values()), max(inner.values())
    for name, alpha in inner.items():
        assert rates[name] == pytest.approx(0.1 * (0.5 + (alpha - low) / (high - low)))
    for form in ("sqrt", "log2"):
        shared_out = edit.temp_balance(report, 0.1, form=form)
        assert np.mean([shared_out[name] for name in inner]) == pytest.approx(0.1)
    assert sorted(edit.temp_balance(report, 1.0, form="rank")[n] for n in inner) == pytest.approx(
        np.linspace(0.5, 1.5, len(inner))
    )


def test_weight_decay_rises_with_alpha(report: layerscope.Report) -> None:
    decays = edit.alpha_decay(report, 0.01, low=0.5, high=2.0)
    values = {row.name: float(row.metrics["alpha_hill"]) for row in report.rows if "alpha_hill" in row.metrics}
    assert decays[min(values, key=values.__getitem__)] == pytest.approx(0.005)
    assert decays[max(values, key=values.__getitem__)] == pytest.approx(0.02)


@pytest.mark.parametrize("sparsity", [0.3, 0.7, 0.95])
def test_sparsities_add_up_to_what_was_asked(report: layerscope.Report, sparsity: float) -> None:
    shares = edit.alpha_pruning(report, sparsity)
    weights = {row.name: row.ref.params for row in report.rows}
    pruned = sum(share * weights[name] for name, share in shares.items())
    assert pruned / sum(weights[name] for name in shares) == pytest.approx(sparsity)
    assert all(0 < share <= 1 for share in shares.values())
    alphas = {name: float(report.layers[name].metrics["alpha"]) for name in shares}
    if sparsity < 0.7:
        assert sorted(shares, key=shares.__getitem__) == sorted(alphas, key=alphas.__getitem__)


def test_blocks_are_pruned_alike(minilm: Path) -> None:
    report = layerscope.analyze(minilm)
    shares = edit.alpha_pruning(report, 0.5)
    assert not any("embedding" in name for name in shares)
    block = {share for name, share in shares.items() if name.startswith("encoder.layer.3.")}
    assert len(block) == 1
    assert len({round(share, 9) for share in edit.alpha_pruning(report, 0.5, by_block=False).values()}) > 20


def test_schedules_refuse_what_they_cannot_do(report: layerscope.Report) -> None:
    for wrong in (lambda: edit.temp_balance(report, -1), lambda: edit.alpha_pruning(report, 1.0),
                  lambda: edit.alpha_pruning(report, 0.5, eps=1.0),
        lambda: edit.alpha_decay(report, float("nan"))):  # fmt: skip
        with pytest.raises(UsageError):
            wrong()
    with pytest.raises(UnknownName, match="did you mean 'alpha_hill'"):
        edit.temp_balance(report, 0.1, metric="alpha_hil")
    with pytest.raises(UnknownName, match="known|Known"):
        edit.temp_balance(report, 0.1, form="cubic")


def test_editing_keeps_to_the_range_of_the_dtype() -> None:
    w = (65000 * np.sign(np.random.default_rng(0).standard_normal((80, 60)))).astype(np.float16)
    with pytest.raises(UsageError, match="exceed the range of float16"):
        edit.smooth({"w.weight": w}, 20)


def test_eigenvalues_kept_out_of_the_fit_stay_in_the_layer() -> None:
    rng = np.random.default_rng(0)
    spectrum = spectra.esd((rng.standard_normal((200, 100)) * rng.pareto(1.5, 100))[None])
    settings = Settings(drop_top=3)
    xmin = fitting.fit_all(spectrum, settings, ("power_law",))["power_law"].params["xmin"]
    assert tail_length(spectrum, "power_law", settings) == (spectrum.evals >= xmin).sum()

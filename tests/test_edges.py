"""Edges between the parts: shared weights, two adapters, odd modules, options that a report cannot take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
import layerscope.edit
import layerscope.weightwatcher as ww
from layerscope.errors import LayerscopeError, Unreadable, UsageError
from tests.sources.test_composed import save

torch = pytest.importorskip("torch")
nn = torch.nn


def test_a_weight_that_two_modules_share_is_changed_once() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    model[2].weight = model[0].weight
    ww.WeightWatcher(model=model).SVDSmoothing(method="svd", percent=-0.05)
    assert np.linalg.matrix_rank(model[0].weight.detach().double().numpy(), tol=1e-5) == 61


def test_smoothing_changes_all_layers_or_none() -> None:
    state = {"a.weight": np.random.default_rng(0).standard_normal((60, 50)), "b.weight": np.full((60, 50), np.nan)}
    before = state["a.weight"].copy()
    with pytest.raises((LayerscopeError, np.linalg.LinAlgError)):
        ww.WeightWatcher().SVDSmoothing(model=state, method="svd")
    assert (state["a.weight"] == before).all()


def test_modules_of_every_odd_kind_are_passed_over() -> None:
    class Odd(nn.Module):  # type: ignore[misc,name-defined]
        @property
        def weight(self) -> Any:
            raise RuntimeError("no")

    model = nn.ModuleList([nn.LazyLinear(10), Odd(), nn.Linear(60, 50), nn.LayerNorm(5, elementwise_affine=False)])
    model.append(nn.Linear(60, 50, device="meta"))
    watcher = ww.WeightWatcher(model=model)
    assert watcher.analyze().longname.tolist() == ["2"]
    assert len(watcher.analyze(layers=[1])) == 0  # a module without weights, as in 0.7.7


def test_left_out_layers_are_listed_with_the_reason() -> None:
    rng = np.random.default_rng(0)
    state = {"a.weight": rng.standard_normal((60, 50)), "nan.weight": np.full((60, 50), np.nan),
             "tiny.weight": rng.standard_normal((3, 3))}  # fmt: skip
    watcher = ww.WeightWatcher(model=state)
    details = watcher.analyze()
    assert details.status.tolist() == ["success", "failed"]
    assert set(watcher.left_out) == {"nan", "tiny"}
    assert "NaN" in watcher.left_out["nan"]


@pytest.mark.parametrize(
    "options",
    [{"min_evals": "x"}, {"max_N": None}, {"start_ids": "x"}, {"tolerance": None}, {"finger_thresh": "x"},
     {"layers": 3.7}, {"stacked": True, "layers": ["a"]}],
)  # fmt: skip
def test_arguments_of_the_wrong_type_are_refused(options: Any) -> None:
    with pytest.raises(UsageError):
        ww.WeightWatcher(model={"a.weight": np.eye(60)}).analyze(**options)


def test_two_adapters_of_one_module_are_not_added_silently(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {f"m.q.lora_{x}.{name}.weight": rng.standard_normal((4, 60) if x == "A" else (50, 4))
               for x in "AB" for name in ("one", "two")}  # fmt: skip
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 4}')
    save(tmp_path / "adapter_model.safetensors", tensors)
    assert [row.name for row in layerscope.analyze(tmp_path).rows] == ["m.q.lora.one", "m.q.lora.two"]
    with pytest.raises(Unreadable, match="analyse one adapter at a time"):
        layerscope.analyze(tmp_path, base={"m.q.weight": rng.standard_normal((50, 60))})


def test_adapters_are_compared_by_their_products(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((8, 60)), rng.standard_normal((50, 8))
    turn, _ = np.linalg.qr(rng.standard_normal((8, 8)))
    for name, (first, second) in {"x": (a, b), "y": (turn @ a, b @ turn.T)}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text('{"r": 8, "lora_alpha": 8}')
        save(tmp_path / name / "adapter_model.safetensors", {"q.lora_A.weight": first, "q.lora_B.weight": second})
    found = layerscope.compare(tmp_path / "x", tmp_path / "y").layers[0].distances[1]
    assert found["relative"] == pytest.approx(0, abs=1e-12)
    assert found["overlap"] == pytest.approx(1)
    delta = layerscope.analyze(tmp_path / "x", base=tmp_path / "y", layers=["*"])
    assert float(delta.rows[0].metrics.get("norm", 0.0)) < 1e-20


def test_saved_reports_refuse_what_needs_the_weights(tmp_path: Path) -> None:
    report = layerscope.analyze({"w.weight": np.random.default_rng(0).standard_normal((60, 50))}, randomize=True)
    for options in (
        {"conv": "flat"},
        {"seed": 9},
        {"max_evals": 100},
        {"base": {"w.weight": np.eye(3)}},
        {"window": 5},
    ):
        with pytest.raises(UsageError, match="need"):
            layerscope.analyze(report, **options)
    flat = layerscope.analyze({"w.weight": np.random.default_rng(0).standard_normal((60, 50))}, conv="flat")
    with pytest.raises(UsageError, match="was measured with 'flat'"):
        layerscope.analyze(flat, conv="slices")


def test_heads_that_nobody_knows_are_an_error() -> None:
    with pytest.raises(UsageError, match="how many heads"):
        layerscope.analyze({"q_proj.weight": np.eye(60)}, per_head=True)


def test_rows_per_matrix_do_not_take_the_names_of_others() -> None:
    rng = np.random.default_rng(0)
    layers = {"c.weight": rng.standard_normal((32, 16, 2, 2)), "c.weight[0]": rng.standard_normal((60, 50))}
    report = layerscope.analyze(layers, pool=False)
    assert len(report.rows) == 5
    assert len({row.name for row in report.rows}) == 5
    assert sum(row.ref.params for row in report.rows) == 32 * 16 * 4 + 60 * 50


def test_inverse_spectra_and_differences_carry_no_verdict_about_training() -> None:
    rng = np.random.default_rng(0)
    layers = {f"l{i}.weight": rng.standard_normal((100, 100)) for i in range(4)}
    assert layerscope.analyze(layers, inverse=True).findings == ()
    low = {name: w + np.outer(rng.standard_normal(100), rng.standard_normal(100)) for name, w in layers.items()}
    assert not [
        f for f in layerscope.analyze(low, base=layers).findings if f.code in ("LS101", "LS102", "LS105", "LS109")
    ]


def test_editing_keeps_to_the_range_of_the_dtype() -> None:
    w = (65000 * np.sign(np.random.default_rng(0).standard_normal((80, 60)))).astype(np.float16)
    with pytest.raises(UsageError, match="leave the range of float16"):
        layerscope.edit.smooth({"w.weight": w}, 20)

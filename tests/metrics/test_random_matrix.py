"""What shuffles say, on layers made for the purpose."""

from __future__ import annotations

import numpy as np
import pytest

import layerscope
from layerscope import Settings
from layerscope.numerics.similarity import jensen_shannon
from layerscope.records.layers import LayerReport
from layerscope.records.report import Report

SHAPES = [(16, 10), (64, 8), (32, 32), (128, 64), (100, 100), (300, 60), (16, 12, 3, 3), (256, 128)]


def shuffled(state: dict[str, np.ndarray], **options: object) -> Report:
    return layerscope.analyze(state, randomize=True, **options)


def one(array: np.ndarray, **options: object) -> LayerReport:
    return shuffled({"w.weight": array}, **options).layers["w.weight"]


def test_columns_follow_from_the_spectra_that_are_kept(rng: np.random.Generator) -> None:
    w = rng.standard_normal((120, 80)).astype(np.float32) + 2 * np.outer(
        rng.standard_normal(120), rng.standard_normal(80)
    )
    layer = one(w, shuffles=4)
    evals = layer.spectrum.evals
    mixed = [part.spectrum.evals for role, part in layer.parts.items() if role.startswith("shuffle")]
    assert len(mixed) == 4
    assert [m.sum() for m in mixed] == pytest.approx([evals.sum()] * 4)
    found = [jensen_shannon(evals, m) for m in mixed]
    m = layer.metrics
    assert m["rand_distance"] == pytest.approx(np.mean(found))
    assert m["rand_distance_sd"] == pytest.approx(np.std(found, ddof=1))
    pairs = [jensen_shannon(mixed[i], mixed[j]) for i in range(4) for j in range(i)]
    assert m["rand_null"] == pytest.approx(np.mean(pairs))
    assert m["max_rand_eval"] == max(x[-1] for x in mixed)
    assert m["ww_softrank"] == pytest.approx(np.mean([x[-1] for x in mixed]) / evals[-1])
    assert m["ww_maxdist"] == pytest.approx(evals[-1] - np.mean([x[-1] for x in mixed]))
    assert m["mp_softrank"] == pytest.approx(float(m["bulk_max"]) / evals[-1])


def test_shuffles_are_seeded_and_differ_from_layer_to_layer(rng: np.random.Generator) -> None:
    w = rng.standard_normal((80, 60))
    layers = {"a.weight": w, "b.weight": w}
    a, b = (row.metrics for row in shuffled(layers).rows)
    assert a["rand_distance"] != b["rand_distance"]
    assert a["rand_distance"] == shuffled(layers, jobs=1).rows[0].metrics["rand_distance"]
    assert a["rand_distance"] == shuffled(layers, layers=["a"]).rows[0].metrics["rand_distance"]
    assert a["rand_distance"] != shuffled(layers, seed=1).rows[0].metrics["rand_distance"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(200, 200), (128, 64), (64, 128), (40, 30)])
@pytest.mark.parametrize("planted", [1, 3])
def test_planted_traps_are_counted_sized_and_found(
    rng: np.random.Generator, dtype: type, shape: tuple[int, int], planted: int
) -> None:
    w = rng.standard_normal(shape).astype(dtype)
    entries = [(5 + 7 * i, 3 + 8 * i) for i in range(planted)]
    size = 6 * (shape[0] ** 0.5 + shape[1] ** 0.5) / 2
    for entry in entries:
        w[entry] = size
    layer = one(w)
    assert layer.metrics["max_traps"] == planted
    assert float(layer.metrics["rand_num_spikes"]) > planted - 0.7  # two in one row of a shuffle make one eigenvalue
    edge = (shape[0] ** 0.5 + shape[1] ** 0.5) ** 2
    beyond = float(layer.metrics["trap_size"]) + 1
    assert 0.8 * size**2 / edge < beyond < 1.1 * planted * size**2 / edge
    assert float(layer.metrics["trap_participation"]) < 2.5 * planted
    for entry in entries:
        assert f"[{entry[0]}, {entry[1]}] = {size:.3g}" in str(layer.metrics["trap_entries"])


def test_traps_in_a_pooled_convolution_are_named_by_their_index(rng: np.random.Generator) -> None:
    w = rng.standard_normal((16, 32, 3, 3)).astype(np.float32)
    w[4, 30, 2, 1] = 40
    assert one(w).metrics["trap_entries"] == "[4, 30, 2, 1] = 40"
    assert one(w, conv="flat").metrics["trap_entries"] == "[4, 30, 2, 1] = 40"


@pytest.mark.parametrize("ratio", [1.1, 1.5, 3.0])
def test_kernel_positions_of_different_sizes_are_no_traps(rng: np.random.Generator, ratio: float) -> None:
    layers = {f"c{i}.weight": rng.standard_normal((64, 64, 3, 3)).astype(np.float32) for i in range(6)}
    for w in layers.values():
        w[:, :, 1, 1] *= ratio
    report = shuffled(layers)
    assert sum(float(row.metrics["rand_num_spikes"]) for row in report.rows) < 1
    assert not [f for f in report.findings if f.code == "LS104"]


@pytest.mark.parametrize("theta", [0.4, 0.9, 1.1, 1.3, 2.0, 10.0])
@pytest.mark.parametrize("shape", [(300, 300), (400, 100), (32, 32, 7, 7)])
def test_a_mean_of_any_size_is_no_trap(rng: np.random.Generator, theta: float, shape: tuple[int, ...]) -> None:
    w = rng.standard_normal(shape) + theta / (shape[0] * shape[1]) ** 0.25
    layer = one(w.astype(np.float32))
    assert float(layer.metrics["rand_num_spikes"]) < 0.6
    w[(3, 4, *[0] * (len(shape) - 2))] = 80
    assert "[3, 4" in str(one(w).metrics["trap_entries"])


@pytest.mark.parametrize("size", [10.0, 100.0, 1e4])
def test_however_large_a_weight_it_is_found(rng: np.random.Generator, size: float) -> None:
    w = (0.02 * rng.standard_normal((512, 256))).astype(np.float32)
    w[9, 200] = size
    assert one(w).metrics["max_traps"] == 1
    assert "[9, 200]" in str(one(w).metrics["trap_entries"])


def test_pruned_layers_carry_no_verdict_on_traps(rng: np.random.Generator) -> None:
    w = rng.standard_normal((512, 512)) * (rng.random((512, 512)) < 0.05)
    report = shuffled({"w.weight": w})
    assert float(report.rows[0].metrics["rand_num_spikes"]) > 1
    assert not [f for f in report.findings if f.code == "LS104"]


def test_the_mean_of_the_entries_is_no_trap(rng: np.random.Generator) -> None:
    layer = one(rng.random((200, 150)))
    assert layer.metrics["num_spikes"] == 1
    assert layer.metrics["rand_num_spikes"] == 0
    assert "trap_size" in layer.absent


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("law", ["gaussian", "uniform", "uniform from 0"])
def test_verdicts_on_random_layers_keep_to_their_rates(shape: tuple[int, ...], law: str) -> None:
    rng = np.random.default_rng([*shape, len(law)])
    draw = {
        "gaussian": lambda: rng.standard_normal(shape),
        "uniform": lambda: rng.random(shape) - 0.5,
        "uniform from 0": lambda: rng.random(shape),
    }[law]
    trials = 60
    report = shuffled({f"l{i}.weight": draw() for i in range(trials)})
    counts = {code: sum(f.code == code for f in report.findings) for code in ("LS101", "LS103", "LS104", "LS105")}
    assert counts["LS101"] == 0
    assert counts["LS104"] <= 2  # 1 % of layers at most
    assert counts["LS105"] == 0
    large = int(report.rows[0].metrics["num_evals"]) >= 50
    assert (counts["LS103"] >= 0.93 * trials) if large else counts["LS103"] == 0
    assert any(f.layer is None and f.code == "LS111" for f in report.findings) == large


def test_trained_layers_do_not_look_like_their_shuffles() -> None:
    from layerscope.demo import NETWORKS

    for path in NETWORKS[:1]:  # the second one is damaged
        report = layerscope.analyze(path, randomize=True)
        assert not [f for f in report.findings if f.code in ("LS103", "LS111")]


def test_shuffles_of_a_constant_matrix_say_nothing_false() -> None:
    layer = one(np.full((80, 60), 7.0))
    assert layer.metrics["rand_distance"] == 0
    assert "rand_num_spikes" in layer.absent
    assert layer.skipped == ""


def test_localisation_of_eigenvectors_is_asked_for(rng: np.random.Generator) -> None:
    w = rng.standard_normal((90, 60))
    assert "tail_mean_loc_ratio" in one(w).absent
    m = one(w, vectors=True).metrics
    _, vectors = np.linalg.eigh(w.T @ w)
    ratios = np.abs(vectors).sum(axis=0) / np.abs(vectors).max(axis=0)
    k = int(m["num_pl_spikes"])
    assert m["tail_mean_loc_ratio"] == pytest.approx(ratios[-k:].mean())
    assert m["bulk_var_loc_ratio"] == pytest.approx(ratios[:-k].var())


def test_alpha_at_fixed_aspect_ratio_is_the_same_for_all_shapes_of_noise(rng: np.random.Generator) -> None:
    tall, square = rng.standard_normal((800, 100)), rng.standard_normal((250, 250))
    report = layerscope.analyze({"tall.weight": tall, "square.weight": square, "small.weight": square[:70]}, window=40)
    plain, farms = ([row.metrics.get(name) for row in report.rows[:2]] for name in ("alpha_hill", "alpha_farms"))
    assert abs(plain[0] - plain[1]) > 1
    assert farms[0] == pytest.approx(farms[1], abs=0.1)
    assert "smaller than a window of 80×40" in one(square[:70, :79], window=40).absent["alpha_farms"]


def test_erg_by_logarithms_is_the_product_where_that_does_not_overflow(rng: np.random.Generator) -> None:
    evals = layerscope.analyze({"w.weight": rng.standard_normal((300, 200))}).rows[0]
    x = evals.spectrum.evals / evals.spectrum.evals.mean()
    count = next(k for k in range(1, 201) if np.prod(x[200 - k :]) < 1)
    m = evals.metrics
    assert m["detX_num"] == count
    assert m["detX_val"] == evals.spectrum.evals[200 - count]
    assert m["ERG_gap"] == count - int(m["num_pl_spikes"])
    assert m["ERG_xmin"] == pytest.approx(float(m["xmin"]) / float(m["detX_val"]) - 1)


def test_erg_of_a_large_spectrum_does_not_overflow() -> None:
    from layerscope.metrics.erg import detX_num
    from layerscope.numerics.random_matrix import mp_table
    from tests.samples import spectrum_of

    grid, cdf = mp_table(4000, 4000)
    evals = np.interp((np.arange(4000) + 0.5) / 4000, cdf, grid)
    assert detX_num(spectrum_of(evals)) == pytest.approx(2925, abs=15)  # 0.7.7's product overflows: 2893


def test_saved_reports_keep_shuffles_and_traps(rng: np.random.Generator, tmp_path: object) -> None:
    w = rng.standard_normal((60, 60))
    w[3, 4] = 50
    report = shuffled({"w.weight": w, "conv.weight": rng.standard_normal((32, 16, 3, 3))}, vectors=True, window=10)
    path = f"{tmp_path}/r.layerscope"
    report.save(path)
    again = layerscope.rejudge(layerscope.load(path))
    assert [row.metrics for row in again.rows] == [row.metrics for row in report.rows]
    assert again.findings == report.findings
    with pytest.raises(layerscope.LayerscopeError, match="window=20 needs the weights"):
        layerscope.rejudge(report, Settings(window=20))

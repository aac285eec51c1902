"""Pictures: what they say, by value; and that every one of them can be drawn, whatever the report."""

from __future__ import annotations

import math
import warnings
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope import registry
from layerscope.errors import UsageError
from layerscope.numerics.random_matrix import mp_cdf, mp_density, mp_edges
from layerscope.records.comparison import Comparison
from layerscope.records.history import History
from layerscope.records.report import Report
from layerscope.views.plots import drawing, matplotlib_pen, pictures, run_lines, style
from layerscope.views.plots.marks import Cells, Line, Picture, Points, Rule, Steps, picture_to_json
from tests.command_line import cli
from tests.samples import HOSTILE, with_singular_values

NAMES = list(registry.plugins("plots"))
SCOPES = {name: registry.find("plots", name).target.SCOPE for name in NAMES}
LAYER = [name for name in NAMES if SCOPES[name] in ("layer", pictures.LAYER_OF_RUNS_SCOPE)]
FOREIGN = "層.重み.weight"  # a script that the font lacks


@pytest.fixture(scope="module")
def net() -> dict[str, np.ndarray]:
    """Heavy-tailed, random, too small, collapsed, convolutional, and one that a single weight holds."""
    rng = np.random.default_rng(5)
    heavy = with_singular_values(rng, np.sqrt((1 - rng.random(128)) ** (-1 / 1.6)), 160)
    trap = rng.standard_normal((120, 80))
    trap[3, 4] = 400.0
    return {
        "heavy.weight": heavy,
        "random.weight": rng.standard_normal((200, 100)),
        "head.weight": rng.standard_normal((10, 64)),
        "flat.weight": np.outer(rng.standard_normal(90), rng.standard_normal(70)),
        "conv.weight": rng.standard_normal((32, 16, 3, 3)),
        "trap.weight": trap,
        "norm.bias": np.ones(8),
    }


@pytest.fixture(scope="module")
def report(net: dict[str, np.ndarray]) -> Report:
    return layerscope.analyze(net, randomize=True)


@pytest.fixture(scope="module")
def comparison(net: dict[str, np.ndarray]) -> Comparison:
    other = {name: 2 * w if w.ndim > 1 else w for name, w in net.items()}
    return layerscope.compare(net, other, {"heavy.weight": net["heavy.weight"]})


def one(name: str, target: Any, *layers: str) -> Picture:
    (picture,) = pictures.make_pictures(name, target, layers)
    return picture


# --- by value --------------------------------------------------------------------------------------------------


def test_the_density_counts_every_eigenvalue_once(report: Report) -> None:
    picture = one("esd", report, "heavy.weight")
    steps, spectrum = picture.mark("eigenvalues"), report.layers["heavy.weight"].spectrum
    below = int((spectrum.live < steps.edges[0]).sum())
    assert np.dot(steps.heights, np.diff(steps.edges)) == pytest.approx(1.0 - below / 128)
    assert any(note.startswith(f"not shown: {below} eigenvalue") for note in picture.notes) == (below > 0)
    counts, _ = np.histogram(np.log(spectrum.evals), bins=np.log(steps.edges))
    assert np.allclose(np.multiply(steps.heights, np.diff(steps.edges)) * len(spectrum.evals), counts, atol=1.01)
    assert (picture.x.scale, picture.panels[0].scale) == ("log", "log")


def test_the_tail_is_the_fitted_law_with_the_share_of_its_eigenvalues(report: Report) -> None:
    p = report.layers["heavy.weight"].parts["weight"].fits["power_law"].params
    line = one("esd", report, "heavy.weight").mark("power law")
    assert line.x[0] == p["xmin"]
    assert line.x[-1] == pytest.approx(p["xmax"])
    assert line.y[0] == pytest.approx(p["n_tail"] / 128 * (p["alpha"] - 1) / p["xmin"])
    slope = np.diff(np.log(line.y)) / np.diff(np.log(line.x))
    assert slope == pytest.approx(np.full(len(slope), -p["alpha"]))
    assert one("esd", report, "heavy.weight").mark("xmin").at == p["xmin"]


def test_the_bulk_is_the_marchenko_pastur_density(report: Report) -> None:
    fit = report.layers["random.weight"].parts["weight"].fits["marchenko_pastur"].params
    line = one("esd_linear", report, "random.weight").mark("Marchenko")
    assert fit["bulk_min"] <= min(line.x) < max(line.x) <= fit["bulk_max"]
    assert np.trapezoid(line.y, line.x) == pytest.approx(1.0, abs=0.02)
    x = np.linspace(*mp_edges(200, 100, 1.3), 20_001)
    density = mp_density(x, 200, 100, 1.3)
    steps = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(x))])
    assert np.abs(steps - mp_cdf(x, 200, 100, 1.3)).max() < 1e-4


def test_spikes_are_the_eigenvalues_beyond_the_bulk(report: Report) -> None:
    count = int(report.layers["trap.weight"].metrics["num_spikes"])
    ticks = one("esd", report, "trap.weight").mark("spikes")
    assert ticks.shape == "tick"
    assert ticks.x == tuple(report.layers["trap.weight"].spectrum.evals[-count:])


def test_the_linear_axis_says_what_lies_beyond_it(report: Report) -> None:
    picture = one("esd_linear", report, "trap.weight")
    beyond = sum(report.layers["trap.weight"].spectrum.evals > picture.x.high)
    assert beyond == 1
    assert picture.notes[-1].startswith("not shown: 1 eigenvalue from")
    assert np.dot(picture.mark("eigen").heights, np.diff(picture.mark("eigen").edges)) == pytest.approx(79 / 80)


def test_the_search_has_its_minimum_where_the_tail_begins(report: Report) -> None:
    picture = one("xmin", report, "heavy.weight")
    fit = report.layers["heavy.weight"].parts["weight"].fits["power_law"].params
    line, chosen = picture.mark("KS distance D"), picture.mark("chosen xmin, D")
    assert (chosen.x, chosen.y) == ((fit["xmin"],), (fit["ks"],))
    assert min(line.y) == pytest.approx(fit["ks"], rel=1e-9)
    assert line.x[int(np.argmin(line.y))] == pytest.approx(fit["xmin"])
    alphas = next(m for m in picture.marks if isinstance(m, Line) and m.panel == 1)
    assert alphas.x == line.x
    assert picture.mark("chosen xmin, α").y == (fit["alpha"],)


def test_shuffles_stand_beside_the_layer_in_the_same_bins(report: Report) -> None:
    picture = one("randomized", report, "trap.weight")
    own, mixed = picture.mark("eigenvalues"), picture.mark("shuffled")
    assert own.edges == mixed.edges
    assert np.dot(mixed.heights, np.diff(mixed.edges)) == pytest.approx(1.0)
    modes = [m for role, part in report.layers["trap.weight"].parts.items() if role != "weight" for m in part.modes]
    assert picture.mark("correlation traps").x == tuple(mode.value for mode in modes)
    assert "from the weight at [3, 4]" in picture.mark("correlation traps").notes[0]
    edges = [
        p.fits["marchenko_pastur"].params["edge"]
        for r, p in report.layers["trap.weight"].parts.items()
        if r != "weight"
    ]
    assert picture.mark("bulk edge").at == pytest.approx(np.mean(edges))


def test_depth_pictures_show_every_layer_once(report: Report) -> None:
    analysed = [row for row in report.rows if not row.skipped]
    fitted = [row for row in analysed if "alpha" in row.metrics]
    shown = [m for m in one("alpha_by_depth", report).marks if isinstance(m, Points)]
    found = {report.rows[row].name: y for mark in shown for row, y in zip(mark.rows, mark.y, strict=True)}
    assert found == {row.name: min(row.metrics["alpha"], 12.0) for row in fitted}
    bars = {report.rows[row].name: low for m in shown if m.low for row, low in zip(m.rows, m.low, strict=True)}
    assert all(bars[name] == report.layers[name].metrics["alpha_low"] for name in bars)
    norms = one("norms_by_depth", report)
    assert norms.mark("λmax").y == tuple(row.metrics["log_spectral_norm"] for row in analysed)
    assert norms.mark("α-hat").panel == 0
    assert norms.mark("‖W‖²F / λmax").panel == 2


def test_a_point_says_its_verdict_by_tone_and_its_kind_by_shape(report: Report) -> None:
    marks = {(m.tone, m.shape, m.hollow): m for m in one("phases", report).marks}
    rows = {key: {report.rows[row].name for row in mark.rows} for key, mark in marks.items()}
    assert "flat.weight" in rows["bad", "circle", False]
    assert any("conv.weight" in names for (_, shape, _), names in rows.items() if shape == "square")
    phases = registry.find("plots", "phases").target.PHASES
    for mark in marks.values():
        assert [phases[int(y)] for y in mark.y] == [report.rows[row].metrics["phase"] for row in mark.rows]


def test_a_warning_is_seen_without_colours(report: Report) -> None:
    grave = {f.layer for f in report.findings if f.severity != "info"}
    for name in ("alpha_by_depth", "phases", "shape_scale"):
        for mark in one(name, report).marks:
            if isinstance(mark, Points) and mark.tone != "quiet":
                assert mark.grave == bool({report.rows[row].name for row in mark.rows} & grave)


def test_shape_stands_over_scale(report: Report) -> None:
    for mark in one("shape_scale", report).marks:
        if isinstance(mark, Points):
            for row, x, y in zip(mark.rows, mark.x, mark.y, strict=True):
                assert (x, y) == (report.rows[row].metrics["log_spectral_norm"], report.rows[row].metrics["alpha"])


def test_histograms_of_models_share_their_bins_and_sum_to_one(comparison: Comparison) -> None:
    steps = [m for m in one("alpha_histogram", comparison).marks if isinstance(m, Steps)]
    assert len(steps) == 3
    assert len({m.edges for m in steps}) == 1
    assert [sum(m.heights) for m in steps] == pytest.approx([1.0, 1.0, 1.0])
    alpha = comparison.reports[2].layers["heavy.weight"].metrics["alpha"]
    assert steps[2].label.endswith(f": 1 layer, median {alpha:.2f}")
    assert [m.at for m in one("alpha_histogram", comparison).marks if isinstance(m, Rule)] == [2.0, 6.0]


def test_distances_are_pooled_over_the_layers_in_common(comparison: Comparison) -> None:
    (cells,) = one("distances", comparison).marks
    assert isinstance(cells, Cells)
    values = np.array(cells.values)
    assert np.allclose(values, values.T)
    assert values[0, 1] == pytest.approx(1 / math.sqrt(2))  # ‖W−2W‖ / √(‖W‖‖2W‖)
    assert values[0, 2] == 0.0
    spectra = comparison.apart["spectra"]
    assert spectra[0][1] == pytest.approx(0.0, abs=1e-9)  # scaled spectra have one shape


def test_without_weights_distances_are_those_of_the_spectra(report: Report) -> None:
    picture = one("distances", layerscope.compare(report, report))
    assert picture.title == "Distances between models (spectra)"
    assert picture.marks[0].values == ((0.0, 0.0), (0.0, 0.0))


def test_one_layer_of_several_models_is_drawn_in_common_bins(comparison: Comparison) -> None:
    picture = one("esd_compared", comparison, "heavy.weight")
    assert [mark.label[:2] for mark in picture.marks] == ["A ", "B ", "C "]
    assert len({mark.edges for mark in picture.marks}) == 1
    total = [np.dot(mark.heights, np.diff(mark.edges)) for mark in picture.marks]
    assert total == pytest.approx([1.0, 1.0, 1.0])


# --- drawn, whatever the report --------------------------------------------------------------------------------


def every_of_runs(name: str, runs: list[History]) -> list[Picture]:
    if SCOPES[name] == pictures.RUN_SCOPE and not run_lines.measured_metrics(runs[:1]):
        with pytest.raises(UsageError, match="has measured none of the metrics"):
            pictures.make_pictures(name, runs)
        return []
    if all(row.skipped for row in runs[0].last.rows):
        with pytest.raises(UsageError, match="no layer was analyzed"):
            pictures.make_pictures(name, runs)
        return []
    return pictures.make_pictures(name, runs)


def every(name: str, target: Report | Comparison) -> list[Picture]:
    if SCOPES[name] in (pictures.LAYER_OF_RUNS_SCOPE, pictures.RUN_SCOPE):
        with pytest.raises(UsageError, match="shows a training run, not a report; pass a history"):
            pictures.make_pictures(name, target)
        reports = [target] if isinstance(target, Report) else target.reports
        return every_of_runs(
            name, [History("run", (0, 5), (report, report), ({}, {"loss": 1.0})) for report in reports]
        )
    nothing = isinstance(target, Report) and all(row.skipped for row in target.rows)
    if nothing and name in LAYER:
        with pytest.raises(UsageError, match="no layer was analyzed"):
            pictures.make_pictures(name, target)
        return []
    return pictures.make_pictures(name, target)


def drawn(picture: Picture) -> None:
    """On axes of its own: without a warning, nothing outside the figure, and as JSON without NaN."""
    import json

    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(6.8, 4 + 1.3 * (len(picture.panels) - 1)), layout="constrained")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        matplotlib_pen.draw(picture, figure.add_subplot())
        figure.draw_without_rendering()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    room = 0.02
    assert box.x0 > -room, picture.name
    assert box.y0 > -room, picture.name
    assert box.x1 < width + room, picture.name
    assert box.y1 < height + room, picture.name
    json.dumps(picture_to_json(picture), allow_nan=False)


def many(count: int) -> Report:
    rng = np.random.default_rng(1)
    return layerscope.analyze({f"layers.{i}.mlp.weight": rng.standard_normal((70, 60)) for i in range(count)})


@pytest.fixture(scope="module")
def reports(report: Report, net: dict[str, np.ndarray]) -> dict[str, Report]:
    return {
        "one": many(1),
        "few": report,
        "200": many(200),
        "no fits": layerscope.analyze({"small.weight": np.eye(4), "tiny.weight": np.ones((3, 2))}),
        "zero": layerscope.analyze({"zero.weight": np.zeros((60, 60))}),
        "empty": Report(report.meta, ()),
        "skipped": layerscope.analyze({"b.bias": np.ones(3)}),
        "described": layerscope.describe(net),
        "no spectra": Report.from_json(report.to_json()),
        "inverse": layerscope.analyze(net, inverse=True),
        "evidence": layerscope.analyze(net, evidence=True, bootstrap=5, fix_fingers="clip_xmax"),
        "hostile": layerscope.analyze({name: np.random.default_rng(2).standard_normal((60, 55)) for name in HOSTILE}),
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "kind",
    [
        "one",
        "few",
        "200",
        "no fits",
        "zero",
        "empty",
        "skipped",
        "described",
        "no spectra",
        "inverse",
        "evidence",
        "hostile",
    ],
)
def test_every_picture_is_drawn(name: str, kind: str, reports: dict[str, Report]) -> None:
    for picture in every(name, reports[kind])[:8]:
        drawn(picture)
        if kind in ("empty", "skipped", "described"):
            assert picture.empty


@pytest.mark.parametrize("name", NAMES)
def test_every_picture_of_several_models_is_drawn(name: str, comparison: Comparison) -> None:
    for picture in every(name, comparison)[:8]:
        drawn(picture)


def test_absent_fits_leave_the_histogram_and_say_so(reports: dict[str, Report]) -> None:
    picture = one("esd", reports["no fits"], "small.weight")
    assert [mark.kind for mark in picture.marks] == ["steps"]
    assert "no power-law fit: 4 eigenvalues, fewer than min_evals = 50" in picture.notes


# --- style -----------------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
def test_every_colour_stands_out_from_its_ground(dark: bool) -> None:
    ground = luminance(style.GROUND.dark if dark else style.GROUND.light)
    for tone in [*style.TONES, *(style.series_tone(i) for i in range(8))]:
        value = luminance(style.tone_color(tone, dark=dark))
        contrast = (max(value, ground) + 0.05) / (min(value, ground) + 0.05)
        assert contrast >= 3, tone  # WCAG 2.2, 1.4.11: graphics


# --- files and the command line --------------------------------------------------------------------------------


def test_figures_are_returned_and_show_themselves(report: Report) -> None:
    import matplotlib.figure

    figure = report.plot("esd", "heavy.weight", "random.weight")
    assert isinstance(figure, matplotlib.figure.Figure)
    assert figure._repr_png_().startswith(b"\x89PNG")
    own = matplotlib.figure.Figure()
    assert report.plot("alpha_by_depth", ax=own.add_subplot()) is own


def test_what_cannot_be_drawn_is_said(report: Report, reports: dict[str, Report]) -> None:
    with pytest.raises(UsageError, match="no layer called 'heavy.weigt'; did you mean 'heavy.weight'"):
        report.plot("esd", "heavy.weigt")
    with pytest.raises(
        UsageError, match="esd: 200 plots requested, but one figure takes at most 12; choose layers with -l"
    ):
        reports["200"].plot("esd")
    with pytest.raises(UsageError, match="shows a whole model"):
        report.plot("phases", "heavy.weight")
    with pytest.raises(UsageError, match="did you mean 'alpha_by_depth'"):
        report.plot("alpha_by_dept")


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_equal_pictures_are_equal_files(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    report = layerscope.analyze({name: rng.standard_normal((60, 55)) for name in (*HOSTILE, FOREIGN)})
    for i in (1, 2):
        drawing.save_figure(report.plot("esd"), tmp_path / f"{i}.{kind}")
    first = (tmp_path / f"1.{kind}").read_bytes()
    assert first == (tmp_path / f"2.{kind}").read_bytes()
    if kind == "svg":
        assert not [node for node in ET.fromstring(first).iter() if node.tag.endswith(("img", "script"))]


def test_the_command_draws_files_of_models_and_of_reports(tmp_path: Path, report: Report) -> None:
    from layerscope.demo import NETWORKS

    report.save(tmp_path / "r.layerscope")
    for arguments in (
        ("esd", NETWORKS[0], "-l", "fc2.weight"),
        ("randomized", NETWORKS[0]),
        ("distances", *NETWORKS),
        ("alpha_by_depth", *NETWORKS),
        ("phases", tmp_path / "r.layerscope"),
    ):
        done = cli("plot", *arguments, "-o", tmp_path / "x.png")
        assert (done.returncode, done.stderr) == (0, "")
        assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
        (tmp_path / "x.png").unlink()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("esdd", "NET", "-o", "x.png"), "no picture called 'esdd'; did you mean 'esd'?"),
        (("esd", "NET", "-o", "x.gif"), "no plot format called 'gif'"),
        (("esd", "NET", "-o", "no/x.png"), "no does not exist"),
        (("esd", "NET", "-o", "x.png", "-l", "nope"), "nope"),
        (("distances", "NET", "-o", "x.png"), "distances need at least two models"),
        (("esd", "NET", "NET", "-o", "x.png", "--base", "NET"), "take one TARGET"),
    ],
)
def test_a_wrong_plot_is_one_line(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    from layerscope.demo import NETWORKS

    words = [NETWORKS[0] if a == "NET" else str(tmp_path / a) if a.endswith((".png", ".gif")) else a for a in arguments]
    done = cli("plot", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1

"""Planes of runs, true angles, surfaces; sharpness beyond its closed forms; what distances say of ancestors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import UnknownName, UsageError
from layerscope.views.page import writing
from layerscope.views.plots import drawing, landscape_pictures
from tests.requirements import require
from tests.samples import HOSTILE

PITCH = np.array([1.0, 4.0, 0.5, 2.0])


def bowl(weights: Any) -> dict[str, float]:
    return {"loss": float((PITCH * np.square(weights["w"])).sum())}


def points(*rows: Any) -> list[dict[str, Any]]:
    return [{"w": np.array(row, float)} for row in rows]


def test_a_run_in_a_plane_is_drawn_as_it_is() -> None:
    run = points([3, 2, 0, 0], [2, 1.5, 0, 0], [1, 0.2, 0, 0], [0.5, 0.1, 0, 0], [0, 0, 0, 0])
    found = layerscope.plane_of_path(run, bowl, points=9)
    track = found.track
    assert track is not None
    assert track.losses == pytest.approx([bowl(each)["loss"] for each in run])
    assert track.below == pytest.approx(track.losses)
    assert track.off == pytest.approx(0, abs=1e-6)
    assert sum(track.shares) == pytest.approx(1)
    assert found.findings == ()
    assert found.angle == pytest.approx(90)
    assert np.linalg.norm(track.where[0]) == pytest.approx(math.sqrt(13))
    inside = [(found.u[0] <= u <= found.u[-1]) and (found.v[0] <= v <= found.v[-1]) for u, v in track.where]
    assert all(inside)
    assert "its two directions explain" in repr(found)


def test_a_run_beside_the_plane_is_told_from_its_contour() -> None:
    rng = np.random.default_rng(0)
    walk = points(*np.cumsum(rng.standard_normal((12, 4)), 0))
    found = layerscope.plane_of_path(walk, bowl, points=5)
    track = found.track
    assert track is not None
    assert track.gap == pytest.approx(max(abs(track.losses - track.below)))
    assert track.gap > 0.1 * np.ptp(track.losses)
    assert [finding.code for finding in found.findings] == ["LS308"]
    assert "LS308" in repr(found)
    far = points(*np.cumsum(rng.standard_normal((40, 4000)), 0))
    (code,) = {finding.code for finding in layerscope.trajectory(far).findings} or {""}
    assert code in ("", "LS308")
    with pytest.raises(UsageError, match="lie on a line"):
        layerscope.plane_of_path(points([0, 0, 0, 0], [1, 0, 0, 0], [2, 0, 0, 0]), bowl)


def test_orthonormal_axes_are_isometric() -> None:
    a, b, c = points([1, 0, 0, 0], [3, 0, 0, 0], [2, 2, 0, 0])
    found = layerscope.plane(a, b, c, bowl, u=(0, 1, 3), v=(0, 1, 3))
    picture = landscape_pictures.plane_picture(found, "loss", "orthonormal")
    field = picture.marks[0]
    marked = {mark.label: (mark.x[0], mark.y[0]) for mark in picture.marks[1:] if mark.kind == "points"}
    assert marked["A"] == pytest.approx((0, 0))
    assert marked["B"] == pytest.approx((2, 0))
    assert marked["C"] == pytest.approx((1, 2))
    corner = field.x[0] + field.shear * field.y[2], field.y[2]  # the cell of C
    assert corner == pytest.approx(marked["C"])
    assert field.values == landscape_pictures.plane_picture(found, "loss").marks[0].values
    x, y = found.coordinates()
    assert (x[2, 0], y[2, 0]) == pytest.approx(marked["C"])
    with pytest.raises(UnknownName, match="orthonormal"):
        found.plot("loss", coordinates="true")
    flat = layerscope.plane(a, b, points([5, 0, 0, 0])[0], bowl, u=(0, 1, 3), v=(0, 1, 3))
    with pytest.raises(UsageError, match="on a line"):
        flat.plot("loss", coordinates="orthonormal")


def test_surfaces_runs_and_trees_are_drawn(tmp_path: Path) -> None:
    def holed(weights: Any) -> dict[str, float]:
        return {"loss": math.nan} if weights["w"][0] > 2.9 else bowl(weights)

    names = list(HOSTILE)[:3]
    found = layerscope.plane(*points([0, 0, 0, 0], [3, 0, 0, 0], [0, 3, 0, 0]), holed, u=(0, 1, 6), v=(0, 1, 6),
                             names=(names[0], names[1], names[2]))  # fmt: skip
    for number, drawn in enumerate((
        found.plot("loss", surface=True), found.plot("loss", coordinates="orthonormal"),
        layerscope.plane_of_path(points([3, 2, 1, 0], [1, 1, 0, 0], [0.5, 0, 0, 1], [0, 0, 0, 0]), bowl).plot("loss"),
        layerscope.distances(dict(zip(names, points(*np.eye(4)[:3]), strict=True))).plot(),
    )):  # fmt: skip
        drawing.save_figure(drawn, tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").stat().st_size > 8000
    text = writing.render_page(found)
    assert "<img" not in text.replace("&lt;img", "")
    surface = landscape_pictures.surface_picture(found, "loss").marks[0]
    assert surface.values[0][0] == 0
    assert math.isnan(surface.values[0][-1])


def test_the_tree_joins_the_nearest_first() -> None:
    near = points([1, 0, 0, 0], [1, 0.1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0.2])
    found = layerscope.distances({"a": near[0], "c": near[2], "b": near[1], "d": near[3]})
    first = {found.names[int(i)] for i in found.tree[0, :2]}
    assert first in ({"a", "b"}, {"c", "d"})
    assert found.tree[-1, 2] == pytest.approx(found.matrix("symmetric")[[0, 0, 2, 2], [1, 3, 1, 3]].mean())
    picture = landscape_pictures.distance_matrix(found)
    assert {frozenset(picture.x.ticks[:2]), frozenset(picture.x.ticks[2:])} == {frozenset("ab"), frozenset("cd")}


def test_ancestors_are_seen_and_strangers_too() -> None:
    rng = np.random.default_rng(0)

    def model(base: Any = None, share: float = 1.0) -> dict[str, Any]:
        shapes = {"a.weight": (40, 30), "b.weight": (30, 40), "c.weight": (50, 30), "a.bias": (40,)}
        drawn = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
        return drawn if base is None else {name: base[name] + share * drawn[name] for name in drawn}

    root = model()
    one, other, strange = model(root, 0.5), model(root, 0.5), model()
    codes = {f.code: f.message for f in layerscope.distances([one, other]).findings}
    assert "1 share an ancestor" in codes["LS307"]
    codes = {f.code: f.message for f in layerscope.distances([one, strange]).findings}
    assert "1 are unrelated" in codes["LS307"]
    assert "LS306" not in codes
    long = {name: 3 * value for name, value in one.items()}
    codes = {f.code: f.message for f in layerscope.distances([one, long]).findings}
    assert "100%" in codes["LS306"]
    found = layerscope.distances({"one": one, "other": other}, origin=root)
    assert found.matrix("centred")[0, 1] == pytest.approx(0, abs=0.1)
    assert found.matrix("cosine")[0, 1] > 0.7
    length = math.sqrt(sum(float(np.square(one[name] - root[name]).sum()) for name in root))
    assert found.from_origin["one"] == pytest.approx(length)
    relative = found.matrix("relative")
    norm = math.sqrt(sum(float(np.square(value).sum()) for value in one.values()))
    assert relative[0, 1] == pytest.approx(found.matrix()[0, 1] / norm)
    assert "l2 distance from the origin" in repr(found)
    with pytest.raises(UnknownName, match="distance"):
        layerscope.distances([one, other]).matrix("centred")


def test_the_worst_rise_of_a_bowl_and_a_slope() -> None:
    torch = require("torch")

    class Bowl(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self, *at: float) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor([at]).double())

        def forward(self, x: Any) -> Any:
            return x @ self.w.T

    x = torch.eye(3).double()
    evaluate = layerscope.TorchEvaluator(Bowl(0, 0, 0), (x, torch.zeros(3, 1).double()), "mse")
    at = Bowl(1.0, -2.0, 0.5)
    found = layerscope.sharpness(at, evaluate, draws=2)
    w = np.array([1.0, -2.0, 0.5])
    base, top = (float(np.square(each).sum() / 6) for each in (w, w + np.sign(w) * 1e-3 * (np.abs(w) + 1)))
    assert found.worst == pytest.approx(100 * (top - base) / (1 + base))
    assert [finding.code for finding in found.findings] == ["LS309"]  # it stands on the wall of the bowl
    assert "LS309" in repr(found)
    floor = layerscope.sharpness(Bowl(1e-9, 0, 0), evaluate, draws=2)
    assert floor.findings == ()
    with pytest.raises(UsageError, match="needs gradients"):
        layerscope.sharpness(points([1.0])[0], bowl)

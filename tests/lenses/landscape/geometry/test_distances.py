"""Distances against closed forms and dense float64 arithmetic, from files and live."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import LayerscopeError, UnknownName, UsageError
from layerscope.numerics import parameter_geometry
from tests.requirements import require

torch: Any = require("torch")
from torch import nn  # noqa: E402


def net(seed: int) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 10))


def flat(model: Any) -> Any:
    return torch.cat([p.detach().double().reshape(-1) for p in model.parameters()])


def test_distances_are_those_of_the_flat_vectors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    models = [net(s) for s in range(4)]
    save_file(models[3].state_dict(), tmp_path / "d.safetensors")
    found = layerscope.distances(
        {"A": models[0], "B": models[1], "C": models[2].state_dict(), "D": tmp_path / "d.safetensors"}
    )
    vectors = torch.stack([flat(model) for model in models])
    truth = torch.cdist(vectors, vectors).numpy()
    assert np.allclose(found.matrix("l2"), truth, rtol=1e-7, atol=1e-9)
    lengths = vectors.norm(dim=1)
    assert np.allclose(found.matrix("symmetric")[0, 1], truth[0, 1] / math.sqrt(lengths[0] ** 2 + lengths[1] ** 2))
    assert np.allclose(found.matrix("cosine")[0, 1], float(vectors[0] @ vectors[1] / lengths[0] / lengths[1]))
    assert np.allclose(found.matrix("rms"), found.matrix("l2") / math.sqrt(found.params))
    assert found.params == len(vectors[0])
    by_layer = found.by_layer("A", "B")
    assert sum(d * d for d in by_layer.values()) == pytest.approx(truth[0, 1] ** 2)
    assert set(by_layer) == {"0", "1", "4"}
    length, angle = found.parts("A", "B")
    assert length == pytest.approx(float((lengths[0] - lengths[1]) ** 2) / truth[0, 1] ** 2)
    assert length + angle == pytest.approx(1)
    assert "3 models" not in repr(found)
    assert layerscope.distances(models[:2], select="weights").params == 8 * 27 + 1280
    assert layerscope.distances(models[:2], select="4.*").params == 1280 + 10
    assert layerscope.distances(models[:2], select="all").params == found.params + 16
    with pytest.raises(UnknownName, match="l2"):
        found.matrix("l3")


def test_fresh_models_are_as_far_apart_as_the_closed_form() -> None:
    models = {str(s): net(s) for s in range(12)}
    found = layerscope.distances(models)
    measured = found.matrix("l2")[np.triu_indices(12, 1)]
    expected = math.sqrt(2 / 3 * 8 + 2 * 8 / (3 * 27) + 2 / 3 * 10 + 2 * 10 / (3 * 128))
    assert found.expected["torch"] == pytest.approx(expected)
    assert measured.mean() == pytest.approx(expected, rel=0.02)


def test_near_copies_keep_their_distance() -> None:
    rng = np.random.default_rng(0)
    w = {"fc.weight": rng.standard_normal((400, 300))}
    for scale in (1e-3, 1e-6, 1e-9):
        other = {"fc.weight": w["fc.weight"] + scale * rng.standard_normal((400, 300))}
        truth = float(np.linalg.norm(other["fc.weight"] - w["fc.weight"]))
        assert layerscope.distances({"a": w, "b": other}).matrix("l2")[0, 1] == pytest.approx(truth, rel=1e-6)
    assert layerscope.distances({"a": w, "b": w}).matrix("symmetric")[0, 1] == 0


def test_models_of_other_kinds_are_refused_with_their_differences() -> None:
    a = {"x.weight": np.ones((4, 3)), "y.weight": np.ones((2, 2))}
    b = {"x.weight": np.ones((4, 5)), "z.weight": np.ones((2, 2))}
    with pytest.raises(
        UsageError, match=r"y.weight \(only in A\), z.weight \(only in B\).*x.weight \(4, 3\) and \(4, 5\)"
    ):
        layerscope.distances({"A": a, "B": b})
    with pytest.raises(UsageError, match="no tensor of the same name"):
        layerscope.distances({"A": a, "B": b}, partial=True)
    some = layerscope.distances({"A": a, "B": {**b, "y.weight": np.zeros((2, 2))}}, partial=True)
    assert some.matrix("l2")[0, 1] == 2
    assert set(some.unlike) == {"x.weight", "z.weight"}
    with pytest.raises(UsageError, match="two models or more"):
        layerscope.distances([a])
    with pytest.raises(UsageError, match="matches no tensor"):
        layerscope.distances({"A": a, "B": a}, select="q*")
    with pytest.raises(UsageError, match="y.weight of B has values that are not finite"):
        layerscope.distances({"A": a, "B": {**a, "y.weight": np.full((2, 2), np.nan)}})


def test_tied_weights_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb, self.head = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
            self.head.weight = self.emb.weight

    assert layerscope.distances([Tied(), Tied()]).params == 160


def test_real_networks(shared: Path) -> None:
    folder = shared / "models" / "cifar10_resnet_akamaster"
    files = sorted(folder.glob("resnet20*"))
    if not files:
        pytest.skip("no such network")
    found = layerscope.distances({"a": files[0], "b": files[0]})
    assert found.matrix("l2")[0, 1] == 0
    assert found.params > 2e5


def test_frames_and_barriers_in_closed_form() -> None:
    rng = np.random.default_rng(0)
    points = rng.standard_normal((3, 40))
    where, angle = parameter_geometry.frame(points @ points.T)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.linalg.norm(where[i] - where[j]) == pytest.approx(np.linalg.norm(points[i] - points[j]))
    cosine = (points[1] - points[0]) @ (points[2] - points[0])
    cosine /= np.linalg.norm(points[1] - points[0]) * np.linalg.norm(points[2] - points[0])
    assert angle == pytest.approx(math.degrees(math.acos(cosine)))
    with pytest.raises(ValueError, match="on a line"):
        parameter_geometry.frame(np.array([[0.0, 0, 0], [0, 1, 2], [0, 2, 4]]))
    t = np.linspace(-1, 2, 301)
    curve = 3 * t + 4 * t * (1 - t)  # chord 3t, hill 4t(1−t)
    assert parameter_geometry.barrier(t, curve, "chord").value == pytest.approx(1)
    assert parameter_geometry.barrier(t, curve, "chord").at == pytest.approx(0.5)
    inside = curve[(t >= 0) & (t <= 1)]
    assert parameter_geometry.barrier(t, curve, "mean_ends").value == pytest.approx(inside.max() - 1.5)
    assert parameter_geometry.barrier(t, curve, "max_ends").value == pytest.approx(max(0, inside.max() - 3))
    assert parameter_geometry.barrier(t, -curve, "signed").value < 0
    assert math.isnan(parameter_geometry.barrier(t[:100], curve[:100]).value)
    assert parameter_geometry.monotone_rise(np.array([5.0, 3, 4, np.nan, 2, 2.5])) == 1
    walk = np.cumsum(rng.standard_normal((60, 4000)), 0)
    mixes, shares = parameter_geometry.principal((walk - walk.mean(0)) @ (walk - walk.mean(0)).T)
    assert shares == pytest.approx([6 / math.pi**2, 6 / (4 * math.pi**2)], abs=0.05)
    axes = mixes @ (walk - walk.mean(0))
    assert axes @ axes.T == pytest.approx(np.eye(2), abs=1e-8)


def test_what_is_read_is_one_tensor_of_each_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from layerscope.sources import several_models

    sizes: list[int] = []
    plain = several_models.OpenedModels.read

    def counted(self: Any, name: str) -> Any:
        found = plain(self, name)
        sizes.append(sum(v.size for v in found))
        return found

    monkeypatch.setattr(several_models.OpenedModels, "read", counted)
    layerscope.distances([net(0), net(1)])
    assert len(sizes) == 6
    assert max(sizes) == 2 * 1280


def test_errors_are_ours(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"junk")
    with pytest.raises(LayerscopeError):
        layerscope.distances([tmp_path / "x.bin", net(0)])

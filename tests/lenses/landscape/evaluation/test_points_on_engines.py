"""Grids by engines: the same numbers, the same holes, whatever runs them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope import registry
from layerscope.errors import UnknownName, UsageError
from tests.requirements import require

torch: Any = require("torch")
from torch import nn  # noqa: E402

ENGINES = sorted(registry.plugins("engines"))


def net(seed: int) -> Any:
    torch.manual_seed(seed)
    norm = nn.BatchNorm1d(10)
    return nn.Sequential(nn.Linear(6, 10), norm, nn.ReLU(), nn.Linear(10, 9), nn.ReLU(), nn.Linear(9, 3))


def bowl(weights: Any) -> dict[str, float]:
    if weights["w"][0] > 0.9:
        raise ValueError("too far")
    return {"loss": float(np.square(weights["w"]).sum())}


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_gives_what_one_point_after_the_other_gives(engine: str, two_threads: None) -> None:
    torch.manual_seed(0)
    data = torch.randn(50, 6), torch.randint(3, (50,))
    a, b, c = (net(seed) for seed in range(3))
    evaluate = layerscope.TorchEvaluator(a, data, batch=50)
    how: Any = {"u": (-0.5, 1.5, 5), "v": (-0.5, 1.5, 4)}
    before = layerscope.plane(a, b, c, evaluate, **how)
    seen: list[int] = []
    after = layerscope.plane(a, b, c, evaluate, engine=engine, progress=lambda done, *_: seen.append(done), **how)
    for name, values in before.metrics.items():
        np.testing.assert_allclose(after.metrics[name], values, atol=1e-6)
    assert seen == list(range(1, 21))
    assert torch.get_num_threads() == 2
    repaired = layerscope.TorchEvaluator(a, data, batch=50, bn="keep", repair=True) if engine == "threads" else evaluate
    one, other = (layerscope.line(a, b, repaired, points=5, engine=each) for each in (None, engine))
    np.testing.assert_allclose(other.metrics["loss"], one.metrics["loss"], atol=1e-6)
    assert other.barrier().error == pytest.approx(one.barrier().error, abs=1e-6)


@pytest.mark.parametrize("engine", ["serial", "threads", "processes"])
def test_holes_are_kept_and_a_store_is_filled(engine: str, tmp_path: Path) -> None:
    points = [{"w": np.array(each)} for each in ([0.0, 0.0], [1.0, 0.0], [0.0, 1.0])]
    how: Any = {"u": (0, 1, 5), "v": (0, 1, 5), "store": tmp_path / "g.zip"}
    found = layerscope.plane(*points, bowl, engine=engine, **how)
    assert found.holes == {"ValueError: too far": 5}
    calls: list[int] = []
    again = layerscope.plane(*points, bowl, progress=lambda done, *_: calls.append(done), **how)
    assert len(calls) == 5  # only those that had no value are tried again
    np.testing.assert_array_equal(again.metrics["loss"], found.metrics["loss"])


def test_what_cannot_travel_is_said_before_anything_runs() -> None:
    points = [{"w": np.array([1.0])}, {"w": np.array([2.0])}]
    with pytest.raises(UsageError, match="cannot be pickled"):
        layerscope.line(*points, lambda w: {"loss": 1.0}, engine="processes")
    with pytest.raises(UnknownName, match="did you mean 'threads'"):
        layerscope.line(*points, bowl, engine="thread")

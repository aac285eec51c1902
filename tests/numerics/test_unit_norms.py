"""Dead units, the spread of their norms, and the largest weight, against sums over the tensor itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import layerscope


def facts(weight: np.ndarray, **options: Any) -> dict[str, float]:
    return dict(layerscope.analyze({"w.weight": weight}, **options).rows[0].parts["weight"].facts)


@pytest.mark.parametrize("conv", ["slices", "flat"])
@pytest.mark.parametrize("shape", [(60, 100), (100, 60), (64, 64), (64, 32, 3, 3), (16, 40, 3, 3), (64, 3, 7, 7)])
def test_units_are_counted_and_compared_as_in_the_tensor(
    rng: np.random.Generator, shape: tuple[int, ...], conv: str
) -> None:
    w = rng.standard_normal(shape)
    w[2:5], w[:, 1] = 0, 1e-9 * w[:, 1]
    w[6, 2] *= 3
    index = (7, 0, *(1,) * (len(shape) - 2))
    w[index] = -90.0
    found = facts(w, conv=conv)
    outputs, inputs = np.square(w).sum(tuple(range(1, w.ndim))), np.square(w).sum((0, *range(2, w.ndim)))
    assert (found["output_units"], found["input_units"]) == shape[:2]
    assert (found["dead_output_units"], found["dead_input_units"]) == (3, 1)
    for name, squares in (("output", outputs), ("input", inputs)):
        per_unit = w.size / len(squares)
        expected = per_unit * ((w**4).mean() - (w**2).mean() ** 2)
        assert found[f"{name}_norm_spread"] == pytest.approx(squares.var() / expected)
    assert found["largest_value"] == -90.0
    assert np.unravel_index(int(found["largest_index"]), shape) == index
    assert found["largest_ratio"] == pytest.approx(90 / np.sqrt(np.square(w).mean()))
    assert found["fourth_ratio"] == 0


def test_the_spread_of_independent_entries_is_one(rng: np.random.Generator) -> None:
    for draw in (rng.standard_normal, lambda shape: rng.random(shape) - 0.5, lambda shape: rng.laplace(size=shape)):
        found = facts(draw((400, 300)))
        for name, units in (("output", 400), ("input", 300)):
            assert abs(found[f"{name}_norm_spread"] - 1) < 4 * (2 / (units - 1)) ** 0.5


def test_parts_of_layers_have_no_units(rng: np.random.Generator) -> None:
    assert facts(np.zeros((60, 60)))["dead_output_units"] == 60
    report = layerscope.analyze({"w.weight": rng.standard_normal((60, 50, 3, 3))}, pool=False)
    assert len(report.rows) == 9
    assert not any(row.parts["weight"].facts for row in report.rows)
    assert report.rows[0].absent["dead_outputs"].startswith("not counted")


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1.0, 1e8, 1e15])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_scale_of_the_weights_changes_no_ratio(rng: np.random.Generator, scale: float, dtype: type) -> None:
    w = rng.standard_normal((200, 700))  # more than one block
    w[150, 600], w[:20] = 40, 0
    expected, found = facts(w), facts((scale * w).astype(dtype))
    for name in ("output_norm_spread", "input_norm_spread", "largest_ratio", "dead_output_units", "largest_index"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5)


def test_the_fourth_largest_weight_is_found_wherever_it_is(rng: np.random.Generator) -> None:
    w = 1e-3 * rng.standard_normal((300, 400))
    w[5] = rng.standard_normal(400)  # a row of many large weights
    w[200, 7], w[201, 8] = 9, 8
    order = np.sort(np.abs(w), axis=None)
    found, deviation = facts(w), np.sqrt(np.square(w).mean())
    assert found["largest_ratio"] == pytest.approx(order[-1] / deviation)
    assert found["fourth_ratio"] == pytest.approx(order[-4] / deviation)

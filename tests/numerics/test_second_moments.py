"""Sums over batches are sums over all rows, whatever the split."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerscope.numerics.second_moments import FactorSum, gram_of_rows
from tests.requirements import require


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_batches_merge_to_the_whole(sizes: list[int], d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    batches = [rng.standard_normal((size, d)) for size in sizes]
    whole = FactorSum().add(np.concatenate(batches))
    streamed, merged = FactorSum(), FactorSum()
    for batch in batches:
        streamed.add(batch)
        merged = merged.merge(FactorSum().add(batch))
    for found in (streamed, merged):
        assert found.rows == whole.rows
        assert np.allclose(found.finish(), whole.finish(), rtol=1e-12)
        assert found.mean_energy() == pytest.approx(whole.mean_energy())
    rows = np.concatenate(batches)
    assert np.allclose(whole.finish(), rows.T @ rows / len(rows))
    assert whole.mean_energy() == pytest.approx(float(np.square(rows.mean(0)).sum()))
    assert np.allclose(whole.finish(3), rows.T @ rows / 3)


@pytest.mark.parametrize("d", [1, 191, 384, 500, 577])
def test_wide_rows_are_squared_by_blocks_to_the_same(d: int, rng: np.random.Generator) -> None:
    rows = rng.standard_normal((7, d))
    assert np.allclose(gram_of_rows(rows), rows.T @ rows, rtol=1e-12)
    assert np.array_equal(gram_of_rows(rows), gram_of_rows(rows).T)


def test_the_mean_is_at_most_the_largest_eigenvalue(rng: np.random.Generator) -> None:
    found = FactorSum().add(np.abs(rng.standard_normal((200, 12))))
    assert 0.5 < found.mean_energy() / np.linalg.eigvalsh(found.finish())[-1] <= 1


def test_tensors_are_summed_where_they_are() -> None:
    torch: Any = require("torch")
    rows = torch.arange(12.0).reshape(4, 3)
    found = FactorSum().add(rows[:1]).add(rows[1:])
    assert isinstance(found.finish(), torch.Tensor)
    assert torch.equal(found.finish(), rows.T @ rows / 4)


def test_nothing_has_no_mean() -> None:
    with pytest.raises(ValueError, match="no rows"):
        FactorSum().merge(FactorSum()).finish()

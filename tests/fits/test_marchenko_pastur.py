from __future__ import annotations

import numpy as np
import pytest

from layerscope.fits import fit_all
from layerscope.numerics.spectra import esd
from layerscope.settings import Settings


@pytest.mark.parametrize(("n", "m"), [(300, 300), (450, 300), (1200, 300)])
@pytest.mark.parametrize("spikes", [0, 5, 40])
def test_sigma_and_spikes_are_recovered(rng: np.random.Generator, n: int, m: int, spikes: int) -> None:
    w = 0.3 * rng.standard_normal((n, m))
    for _ in range(spikes):
        u, v = rng.standard_normal(n), rng.standard_normal(m)
        w += 3 * 0.3 * (n**0.5 + m**0.5) * np.outer(u, v) / np.linalg.norm(u) / np.linalg.norm(v)
    params = fit_all(esd(w[None]), Settings())["marchenko_pastur"].params
    assert params["sigma"] == pytest.approx(0.3, rel=0.03)
    assert params["spikes"] == spikes
    assert params["ks"] < 0.05


def test_pooled_slices_share_one_bulk(rng: np.random.Generator) -> None:
    params = fit_all(esd(rng.standard_normal((9, 64, 32))), Settings())["marchenko_pastur"].params
    assert params["sigma"] == pytest.approx(1.0, rel=0.03)
    assert params["spikes"] == 0


def test_tiny_matrices_and_empty_bulks_say_so(rng: np.random.Generator) -> None:
    small = fit_all(esd(rng.standard_normal((9, 16, 3))), Settings())["marchenko_pastur"]
    assert "have no bulk" in small.reason
    low = rng.standard_normal((80, 5)) @ rng.standard_normal((5, 80))
    assert "are zero: no bulk" in fit_all(esd(low[None]), Settings())["marchenko_pastur"].reason

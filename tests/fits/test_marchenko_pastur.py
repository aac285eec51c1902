from __future__ import annotations

import numpy as np
import pytest

from layerscope.fits.fitting import fit_all
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


@pytest.mark.parametrize("q", [1, 1.5, 4, 16])
@pytest.mark.parametrize("spikes", [0, 1, 3, 10])
@pytest.mark.parametrize("times", [1.5, 4.0, 40.0])
def test_sigma_and_edges_within_two_percent_whatever_the_spikes(q: float, spikes: int, times: float) -> None:
    """Planted singular values of √times·edge: far beyond what would inflate σ, or close enough to hide."""
    rng = np.random.default_rng([spikes, int(10 * q), int(times)])
    m = 200
    n = int(q * m)
    edge = (n**0.5 + m**0.5) ** 2
    left, right = (np.linalg.qr(rng.standard_normal((size, max(spikes, 1))))[0] for size in (n, m))
    w = rng.standard_normal((n, m)) + (spikes > 0) * (times * edge) ** 0.5 * left @ right.T
    params = fit_all(esd(w[None]), Settings())["marchenko_pastur"].params
    assert params["sigma"] == pytest.approx(1, rel=0.02)
    low, high = (n**0.5 - m**0.5) ** 2, edge
    assert params["bulk_max"] == pytest.approx(high, rel=0.03)
    assert params["bulk_min"] == pytest.approx(low, rel=0.03, abs=1e-9 * edge)
    assert params["spikes"] == pytest.approx(spikes, abs=1)


def test_the_kernel_estimate_is_scikit_learns(rng: np.random.Generator) -> None:
    from sklearn.neighbors import KernelDensity

    from layerscope.fits.mp_kde import triangle_density

    values, grid = rng.random(300) * 4, np.linspace(0, 4.5, 200)
    theirs = np.exp(KernelDensity(kernel="linear", bandwidth=0.1).fit(values[:, None]).score_samples(grid[:, None]))
    assert triangle_density(values, grid) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("q", [1.5, 4])
def test_weightwatchers_fit_finds_the_sigma_of_a_gaussian_layer(rng: np.random.Generator, q: float) -> None:
    n = int(300 * q)
    spectrum = esd(0.2 * rng.standard_normal((1, n, 300)))
    params = fit_all(spectrum, Settings(), ("mp_kde",))["mp_kde"].params
    assert params["sigma"] / params["scale"] == pytest.approx(0.2 * n**0.5, rel=0.03)
    assert params["bulk_max"] == pytest.approx(0.04 * (n**0.5 + 300**0.5) ** 2, rel=0.06)
    assert params["spikes"] == 0
    assert "no σ to square layers" in fit_all(esd(np.eye(80)[None]), Settings(), ("mp_kde",))["mp_kde"].reason


def test_products_and_inverses_have_no_bulk(rng: np.random.Generator) -> None:
    from layerscope.numerics import spectra

    inverse = spectra.inverted(esd(rng.standard_normal((1, 80, 60))))
    assert "no random bulk" in fit_all(inverse, Settings())["marchenko_pastur"].reason

"""Distances against definitions computed another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.linalg import subspace_angles
from scipy.spatial.distance import jensenshannon

from layerscope.numerics import localization
from layerscope.numerics.similarity import distances, jensen_shannon, top_vectors


def test_jensen_shannon_is_scipys(rng: np.random.Generator) -> None:
    for _ in range(20):
        p, q = rng.random(50), rng.random(50) ** 4
        q[:5] = 0
        assert jensen_shannon(p, q) == pytest.approx(jensenshannon(p, q))
        assert jensen_shannon(7 * p, q) == pytest.approx(jensen_shannon(p, 0.1 * q))
    assert jensen_shannon(p, p) == 0
    assert jensen_shannon(np.array([1.0, 0]), np.array([0, 1.0])) == pytest.approx(math.sqrt(math.log(2)))
    assert jensen_shannon(np.zeros(3), np.ones(3)) == pytest.approx(math.sqrt(math.log(2)))
    with pytest.raises(ValueError, match="3 and 2"):
        jensen_shannon(np.ones(3), np.ones(2))


def test_distances_of_known_pairs(rng: np.random.Generator) -> None:
    a = rng.standard_normal((1, 60, 40))
    rotation, _ = np.linalg.qr(rng.standard_normal((40, 40)))
    same = distances(a, a)
    assert (same["frobenius"], same["relative"]) == (0, 0)
    assert [same[k] for k in ("cosine", "cka", "overlap")] == pytest.approx([1, 1, 1])
    assert same["angle"] == pytest.approx(0, abs=1e-5)
    scaled = distances(a, -3 * a)
    assert scaled["relative"] == pytest.approx(4)
    assert scaled["cosine"] == pytest.approx(-1)
    assert scaled["cka"] == pytest.approx(1)
    assert distances(a, a @ rotation)["cka"] == pytest.approx(1)
    b = rng.standard_normal((1, 60, 40))
    found = distances(a, b)
    assert found["frobenius"] == pytest.approx(np.linalg.norm(a - b))
    x, y = a[0] @ a[0].T, b[0] @ b[0].T
    assert found["cka"] == pytest.approx((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y))
    u, v = (np.linalg.svd(w[0])[2][:4].T for w in (a, b))
    assert found["angle"] == pytest.approx(np.degrees(subspace_angles(u, v).max()))


def test_distances_of_stacks_and_zeros(rng: np.random.Generator) -> None:
    a, b = rng.standard_normal((2, 9, 16, 8))
    assert distances(a, b)["frobenius"] == pytest.approx(np.linalg.norm(a - b))
    assert distances(np.zeros((1, 8, 8)), np.zeros((1, 8, 8))) == {"frobenius": 0}
    assert "relative" not in distances(np.zeros((1, 8, 8)), a[:1, :8])


def test_leading_vectors_by_lanczos_are_lapacks(rng: np.random.Generator) -> None:
    w = rng.standard_normal((700, 400))
    values, vectors = top_vectors(w.T @ w, 5)
    expected, exact = np.linalg.eigh(w.T @ w)
    assert values == pytest.approx(expected[-5:])
    assert np.abs((vectors * exact[:, -5:]).sum(axis=0)) == pytest.approx(np.ones(5))


def test_localisation_of_known_vectors() -> None:
    one, even = np.eye(64)[3], np.full(64, 0.125)
    assert localization.localization_ratio(one) == 1
    assert localization.localization_ratio(even) == pytest.approx(64)
    assert localization.participation_ratio(one) == 1
    assert localization.participation_ratio(even) == pytest.approx(64**0.25)
    assert localization.entropy(even) == pytest.approx(0, abs=1e-6)


def test_modes_are_the_eigenvectors(rng: np.random.Generator) -> None:
    w = rng.standard_normal((2, 50, 30)).astype(np.float32)
    modes = localization.all_modes(w)
    values = np.sort(np.linalg.eigvalsh(np.swapaxes(w, 1, 2).astype(float) @ w).ravel())
    assert [mode.value for mode in modes] == pytest.approx(values)
    gram = w[0].T.astype(float) @ w[0]
    exact, vectors = np.linalg.eigh(gram)
    solved = localization.eigenvectors(gram, exact[-4:] * (1 + 1e-7))
    assert np.abs(solved.T @ vectors[:, -4:]) == pytest.approx(np.eye(4), abs=1e-6)
    w[1, 7, 9] = 60
    gram = w[1].T.astype(float) @ w[1]
    ((mode, place),) = localization.locate_modes(w[1], gram, np.linalg.eigvalsh(gram)[-1:], 1, 10.0)
    assert (mode.slice, mode.edge, divmod(place, 30)) == (1, 10.0, (7, 9))
    assert mode.weight == 60
    assert mode.share == pytest.approx(1, abs=0.1)
    assert mode.participation == pytest.approx(1, abs=0.1)

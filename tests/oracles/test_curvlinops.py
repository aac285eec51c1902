"""Factors, Hessians and traces beside those of curvlinops, which finds them in another way."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from tests.requirements import require

torch: Any = require("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    curvlinops: Any = require("curvlinops")
from torch import nn  # noqa: E402

import layerscope  # noqa: E402
from layerscope.lenses.learning_statistics.capture import capture  # noqa: E402
from layerscope.live.losses import Loss  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def case() -> Any:
    torch.manual_seed(0)
    parts = nn.Conv2d(2, 4, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 12), nn.Tanh()
    net = nn.Sequential(*parts, nn.Linear(12, 5)).double()
    return net, (torch.randn(60, 2, 6, 6).double(), torch.randint(5, (60,)))


@pytest.mark.parametrize(("fisher", "theirs"), [("empirical", "empirical"), ("exact", "type-2")])
@pytest.mark.parametrize("conv", ["expand", "reduce"])
def test_the_factors_are_equal(case: Any, fisher: str, theirs: str, conv: str) -> None:
    net, (x, y) = case
    found, examples, _ = capture(net, [(x, y)], Loss.of("cross_entropy"), fisher=fisher, conv=conv)
    params = [p for p in net.parameters() if p.requires_grad]
    kfac = curvlinops.KFACLinearOperator(
        net, nn.CrossEntropyLoss(), params, [(x, y)], fisher_type=theirs, kfac_approx=conv, check_deterministic=False
    )
    kfac.compute_kronecker_factors()
    assert len(found) == len(kfac._input_covariances) == 3
    for caught in found:
        name = caught.name.removesuffix(".weight")
        theirs_of = kfac._input_covariances[name], kfac._gradient_covariances[name]
        for mine, other in zip(caught.factors(examples), theirs_of, strict=True):
            d = mine.shape[-1]  # theirs may have a row for the bias
            assert torch.allclose(mine[0], other[:d, :d], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("matrix", "operator"),
    [("hessian", "HessianLinearOperator"), ("ggn", "GGNLinearOperator"), ("fisher", "EFLinearOperator")],
)
def test_the_largest_eigenvalues_are_equal(case: Any, matrix: str, operator: str) -> None:
    from scipy.sparse.linalg import eigsh

    net, (x, y) = case
    params = [p for p in net.parameters() if p.requires_grad]
    theirs = getattr(curvlinops, operator)(net, nn.CrossEntropyLoss(), params, [(x, y)], check_deterministic=False)
    truth = np.sort(eigsh(theirs.to_scipy(), k=4, which="LA", return_eigenvectors=False))[::-1]
    mine = layerscope.curvature(net, (x, y), matrix=matrix, k=4, rtol=1e-8)
    assert mine.values == pytest.approx(truth, rel=1e-5)

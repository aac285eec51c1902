"""Compare the conditioning lens with a training step and with curvlinops; write docs/benchmarks-conditioning.md."""

from __future__ import annotations

import os
import tracemalloc
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np  # noqa: E402
import page_of  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

import layerscope  # noqa: E402
from layerscope.lenses.learning_statistics.capture import capture  # noqa: E402
from layerscope.live.losses import Loss  # noqa: E402
from layerscope.numerics.kronecker import product_kappa  # noqa: E402

warnings.filterwarnings("ignore")
TITLE = "Benchmarks: conditioning lens"
ABOUT = "This page compares the cost of one measurement with a training step, and with the package curvlinops."
CE = Loss.of("cross_entropy")
BATCH, WIDTHS = 512, (784, 256, 256, 256, 10)


def network() -> Any:
    """Build the MLP 784-256×3-10 with ReLUs."""
    torch.manual_seed(0)
    parts: list[Any] = []
    for d_in, d_out in pairwise(WIDTHS):
        parts += [nn.Linear(d_in, d_out), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def lens(repeats: int) -> list[str]:
    """Compare factors, spectra and the monitor with a training step."""
    net, x, y = network(), torch.rand(BATCH, 784), torch.randint(10, (BATCH,))
    optimizer = torch.optim.SGD(net.parameters(), 0.01)

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(net(x), y).backward()
        optimizer.step()

    def steps() -> None:
        for _ in range(10):
            step()

    monitor = layerscope.ConditioningMonitor(net, (x, y), every=1)
    sides: dict[str, Callable[[], Any]] = {"ten steps": steps}
    for fisher in ("empirical", "mc", "exact"):
        sides[f"factors, {fisher}"] = lambda fisher=fisher: capture(net, [(x, y)], CE, fisher=fisher)
    sides["factors, spectra, all columns (one measurement of a monitor)"] = monitor.step
    sides["the same, with the exact blocks"] = lambda: layerscope.conditioning(net, (x, y), exact=True, jobs=1, fits=())
    seconds_by_side = page_of.medians(repeats, sides)
    step_seconds = seconds_by_side["ten steps"] / 10
    lines = [
        f"| MLP {'-'.join(map(str, WIDTHS))}, batch {BATCH}, float32 | CPU s | relative to a training step |",
        "| --- | --- | --- |",
    ]
    lines += [f"| a training step | {step_seconds:.4f} | 1 |"]
    lines += [
        f"| {name} | {seconds:.4f} | {seconds / step_seconds:.1f} |"
        for name, seconds in seconds_by_side.items()
        if name != "ten steps"
    ]
    share = seconds_by_side["factors, spectra, all columns (one measurement of a monitor)"] / step_seconds
    return [*lines, "", f"A monitor that measures every 100 steps adds {share:.1f} % to the training time."]


def beside_curvlinops(repeats: int) -> list[str]:
    """Compare the K-FAC factors and the largest Hessian eigenvalue with curvlinops, at the same accuracy."""
    import curvlinops
    from scipy.sparse.linalg import eigsh

    net, x, y = network(), torch.rand(BATCH, 784), torch.randint(10, (BATCH,))
    params = list(net.parameters())

    def compute_curvlinops_factors(kind: str) -> Any:
        # without this, the check in the constructor computes the factors a second time
        operator = curvlinops.KFACLinearOperator(
            net, nn.CrossEntropyLoss(), params, [(x, y)], fisher_type=kind, check_deterministic=False
        )
        operator.compute_kronecker_factors()
        return operator

    lines = [
        "| same network | layerscope, CPU s | curvlinops 3.0.1, CPU s | layerscope / curvlinops |",
        "| --- | --- | --- | --- |",
    ]
    for fisher, fisher_type in (("empirical", "empirical"), ("mc", "mc"), ("exact", "type-2")):
        sides = {
            "mine": lambda fisher=fisher: capture(net, [(x, y)], CE, fisher=fisher),
            "theirs": lambda fisher_type=fisher_type: compute_curvlinops_factors(fisher_type),
        }
        seconds_by_side = page_of.medians(repeats, sides)
        lines.append(f"| factors, {fisher} | {seconds_by_side['mine']:.4f} | {seconds_by_side['theirs']:.4f} | "
                     f"{seconds_by_side['mine'] / seconds_by_side['theirs']:.2f} |")  # fmt: skip

    values: dict[str, float] = {}

    def hessian_layerscope() -> None:
        values["mine"] = float(layerscope.curvature(net, (x, y)).values[0])

    def hessian_curvlinops() -> None:
        operator = curvlinops.HessianLinearOperator(
            net, nn.CrossEntropyLoss(), params, [(x, y)], check_deterministic=False
        ).to_scipy()
        values["theirs"] = float(eigsh(operator, k=1, which="LA", tol=1e-3, return_eigenvectors=False)[0])

    seconds_by_side = page_of.medians(max(3, repeats // 3), {"mine": hessian_layerscope, "theirs": hessian_curvlinops})
    lines.append(
        f"| Hessian, λmax to 1e-3 | {seconds_by_side['mine']:.3f} "
        f"| {seconds_by_side['theirs']:.3f} (with scipy's eigsh) | "
        f"{seconds_by_side['mine'] / seconds_by_side['theirs']:.2f} |"
    )
    deviation = abs(values["mine"] / values["theirs"] - 1)
    return [
        *lines,
        "",
        f"Both find the same λmax: {values['mine']:.5g} and {values['theirs']:.5g}, "
        f"with a relative difference of {deviation:.1e}.",
    ]


def kappas(repeats: int) -> list[str]:
    """Measure κ₅₀ of a Kronecker product with 16.8 million eigenvalues."""
    rng = np.random.default_rng(0)
    a, b = (np.sort(rng.exponential(1, 4096) ** 4) for _ in range(2))
    seconds = page_of.medians(repeats, {"kappa": lambda: product_kappa(a, b, 50)})
    tracemalloc.start()
    product_kappa(a, b, 50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return ["| κ₅₀ of S_x ⊗ S_d, 4096 × 4096 | cost |", "| --- | --- |",
            f"| CPU | {1000 * seconds['kappa']:.0f} ms |", f"| memory | {peak / 2**20:.1f} MiB |"]  # fmt: skip


def main() -> None:
    """Measure and write the page."""
    options = page_of.options(__doc__, 15)
    torch.set_num_threads(1)
    tables = [lens(options.repeats), beside_curvlinops(options.repeats), kappas(options.repeats)]
    how = (
        f"It used torch {torch.__version__} and one thread. The numbers are medians of {options.repeats} runs in one "
        "process, in which the programs take turns."
    )
    page_of.write(TITLE, ABOUT, how, tables, options.write)


if __name__ == "__main__":
    main()

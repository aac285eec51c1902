"""Compare planes, distances and alignment with other methods; write docs/benchmarks-landscape.md."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np  # noqa: E402
import page_of  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

import layerscope  # noqa: E402

warnings.filterwarnings("ignore")
TITLE = "Benchmarks: loss landscape"
ABOUT = "This page compares the cost of planes and distances with other ways to compute them."
SIDE = 51


def mlp(seed: int) -> Any:
    """Build the MLP 784-300-100-10."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def cnn(seed: int) -> Any:
    """Build a CNN with 1, 8 and 16 channels for 28×28 images."""
    torch.manual_seed(seed)
    first_stage = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
    second_stage = nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
    return nn.Sequential(*first_stage, *second_stage, nn.Flatten(), nn.Linear(784, 10))


def planes(make: Callable[[int], Any], side: int, repeats: int) -> tuple[float, dict[str, float]]:
    """Measure a grid with 1,000 samples: return (largest deviation from plain evaluation, CPU seconds by method)."""
    import loss_landscapes
    from loss_landscapes.metrics import Metric

    a, b, c = (make(seed) for seed in range(3))
    x, y = torch.rand(1000, 1, 28, 28), torch.randint(10, (1000,))

    class Both(Metric):
        """Loss and accuracy in one pass, as layerscope computes them."""

        def __init__(self) -> None:
            super().__init__()

        def __call__(self, model: Any) -> float:
            with torch.no_grad():
                out = model.forward(x) if hasattr(model, "forward") else model(x)
                _ = (out.argmax(1) == y).float().mean()
                return float(functional.cross_entropy(out, y))

    def run_layerscope() -> Any:
        evaluate = layerscope.TorchEvaluator(a, (x, y))
        return layerscope.plane(a, b, c, evaluate, u=(0, 1, side), v=(0, 1, side))

    def run_plain() -> None:
        network = make(0).eval()
        parameters_by_model = [[p.detach() for p in model.parameters()] for model in (a, b, c)]
        with torch.no_grad():
            for v in np.linspace(0, 1, side):
                for u in np.linspace(0, 1, side):
                    for p, q, r, s in zip(network.parameters(), *parameters_by_model, strict=True):
                        p.copy_((1 - u - v) * q + u * r + v * s)
                    out = network(x)
                    float(functional.cross_entropy(out, y))
                    float((out.argmax(1) == y).float().mean())

    def run_loss_landscapes() -> None:
        loss_landscapes.planar_interpolation(a, b, c, Both(), side)

    grid, largest_deviation, network = run_layerscope(), 0.0, make(0).eval()
    rng = np.random.default_rng(0)
    for _ in range(40):
        i, j = rng.integers(0, side, 2)
        u, v = float(grid.u[j]), float(grid.v[i])
        with torch.no_grad():
            for p, *q in zip(network.parameters(), *(m.parameters() for m in (a, b, c)), strict=True):
                p.copy_((1 - u - v) * q[0] + u * q[1] + v * q[2])
            largest_deviation = max(
                largest_deviation,
                abs(float(functional.cross_entropy(network(x), y)) - float(grid.metrics["loss"][i, j])),
            )
    ways: dict[str, Callable[[], Any]] = {
        "layerscope": run_layerscope,
        "plain loop that copies the weights, one batch": run_plain,
        "loss-landscapes 3.0.6": run_loss_landscapes,
    }
    runs = [{way: page_of.cpu(run) for way, run in ways.items()} for _ in range(repeats)]
    return largest_deviation, {way: statistics.median(run[way] for run in runs) for way in ways}


READ = """
import re, sys, time
from pathlib import Path
files = sorted(str(p) for p in Path(sys.argv[1]).glob("*.safetensors"))
import numpy, safetensors.numpy, layerscope.lenses.landscape.geometry.distances, layerscope.sources.readers.safetensors
def peak(): return int(re.search("VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
before, clock = peak(), time.process_time()
{what}
print(time.process_time() - clock, peak() - before)
"""


def distances(scratch: Path, repeats: int) -> list[str]:
    """Measure reading eight files of eleven million parameters, and their distance matrix."""
    from safetensors.numpy import save_file

    shapes = (
        [(64, 3, 7, 7)]
        + [(64, 64, 3, 3)] * 4
        + [(128, 128, 3, 3)] * 4
        + [(256, 256, 3, 3)] * 4
        + [(512, 512, 3, 3)] * 3
    )
    for seed in range(8):
        rng = np.random.default_rng(seed)
        save_file(
            {f"l{k}.weight": rng.standard_normal(s, np.float32) for k, s in enumerate(shapes)},
            scratch / f"{seed}.safetensors",
        )
    sides = {
        "only reading all tensors and converting them to float64": (
            "for f in files:\n    for t in safetensors.numpy.load_file(f).values(): t.astype('float64').sum()"
        ),
        "layerscope.distances": "layerscope.lenses.landscape.geometry.distances.distances(files)",
    }
    runs_by_side: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, statements in sides.items():
            output = subprocess.check_output(
                [sys.executable, "-c", READ.format(what=statements), str(scratch)], text=True
            )
            seconds, peak = output.split()[-2:]
            runs_by_side[name].append((float(seconds), float(peak)))
    params = sum(int(np.prod(s)) for s in shapes)
    lines = [f"| 8 files of {params / 1e6:.1f} M parameters | CPU s | peak memory, MiB |", "| --- | --- | --- |"]
    two_layers_mib = 2 * 8 * 8 * max(int(np.prod(s)) for s in shapes) / 2**20  # for each of eight models, in float64
    for name, runs in runs_by_side.items():
        seconds, peak = (statistics.median(run[k] for run in runs) for k in (0, 1))
        lines.append(f"| {name} | {seconds:.2f} | {peak:.0f} |")
    return [*lines, f"| for comparison: size of two layers of all eight models in float64 | | {two_layers_mib:.0f} |"]


def alignment() -> list[str]:
    """Measure the alignment of two MLPs with four hidden layers of 512."""
    from layerscope.lenses.learning_statistics.paper_networks import mlp as build_mlp

    first, second, x = (
        build_mlp([784, 512, 512, 512, 512, 10], seed=0),
        build_mlp([784, 512, 512, 512, 512, 10], seed=1),
        torch.rand(8, 784),
    )
    layerscope.align(first, first, first, x)
    seconds = page_of.cpu(lambda: layerscope.align(first, first, second, x))
    head = ["| alignment of two MLPs 784-512×4-10 | CPU s |", "| --- | --- |"]
    return [*head, f"| weight matching to convergence | {seconds:.2f} |"]


def main() -> None:
    """Measure and write the page."""
    options = page_of.options(__doc__, 3)
    torch.set_num_threads(1)
    lines = [
        "| plane of 51 × 51 points, loss and accuracy of 1,000 samples | CPU s | relative to layerscope |",
        "| --- | --- | --- |",
    ]
    for title, make, side in (
        ("MLP 784-300-100-10", mlp, SIDE),
        ("CNN 1-8-16 on 28×28 (time for 21 × 21 points, scaled up)", cnn, 21),
    ):
        largest_deviation, seconds_by_way = planes(make, side, options.repeats)
        scale = SIDE**2 / side**2
        for way, seconds in seconds_by_way.items():
            lines.append(f"| {title}: {way} | {seconds * scale:.1f} | {seconds / seconds_by_way['layerscope']:.1f} |")
        lines.append(
            f"| {title}: largest difference in loss between layerscope and plain evaluation at 40 points "
            f"| {largest_deviation:.1e} | |"
        )
    with tempfile.TemporaryDirectory() as scratch:
        tables = [lines, distances(Path(scratch), options.repeats), alignment()]
    how = (
        f"It used torch {torch.__version__} and one thread. The numbers are medians of {options.repeats} runs, "
        "in which the programs take turns."
    )
    page_of.write(TITLE, ABOUT, how, tables, options.write)


if __name__ == "__main__":
    main()

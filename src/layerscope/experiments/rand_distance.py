"""Does rand_distance follow the accuracy? Train six small MLPs with different learning rates and batch sizes.

After "WeightWatcher" in the AI Shift Advent Calendar (2021, day 22). There 64-64-10 MLPs are trained with Adam on 1,000
MNIST images for 20 epochs. The mean rand_distance of their layers is compared with loss and accuracy on 1,000 other
images.
"""

from __future__ import annotations

import math
import statistics
import time
from itertools import pairwise
from typing import Any

from layerscope import analysis
from layerscope.experiments import repeated_runs as runs
from layerscope.experiments.image_data import Images, digits
from layerscope.experiments.outcome import Claim, Outcome, Table
from layerscope.numerics.similarity import spearman
from layerscope.views.plots.marks import Axis, Picture, Points

EPOCHS, UNITS = 20, 64
MAX_EXAMPLES = 1000  # examples for training, and as many for testing
PUBLISHED = {  # (learning rate, batch size) → rand_distance, loss, accuracy
    (0.01, 32): (0.2167, 0.4963, 0.872), (0.1, 64): (0.2471, 0.7368, 0.882), (0.01, 64): (0.2012, 0.4674, 0.869),
    (0.1, 32): (0.236, 0.7077, 0.889), (0.05, 64): (0.2272, 0.5859, 0.878), (0.05, 32): (0.2311, 0.6295, 0.887),
}  # fmt: skip
PUBLISHED_CORRELATIONS = tuple(
    spearman([d for d, *_ in PUBLISHED.values()], [row[k] for row in PUBLISHED.values()]) for k in (1, 2)
)


def run(
    data: Images | None = None, *, seed: int = 0, epochs: int = EPOCHS, engine: str | None = None, store: Any = None,
    progress: Any = None,
) -> Outcome:  # fmt: skip
    """Train the six MLPs and compare their mean rand_distance with test loss and accuracy.

    :param data: images to train on; the 8×8 digits by default.
    :param epochs: training epochs of each MLP.
    """
    data = digits(seed) if data is None else data
    start = time.perf_counter()
    cases = [{"lr": lr, "batch": batch, "seed": seed, "epochs": epochs} for lr, batch in PUBLISHED]
    results = runs.run(measure, data, cases, engine=engine, store=store, progress=progress)
    return _build_outcome(data, seed, results, time.perf_counter() - start)


def measure(data: Images, *, lr: float, batch: int, seed: int, epochs: int) -> dict[str, Any]:
    """Train one MLP; return the mean rand_distance and α of its layers and its test loss and accuracy."""
    import torch
    from torch import nn
    from torch.nn import functional

    x, y = torch.from_numpy(data.x.reshape(len(data.x), -1).copy()), torch.from_numpy(data.y.copy())
    half = min(MAX_EXAMPLES, len(x) // 2)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = (x.shape[1], UNITS, UNITS, 10)
        layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    net = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    optimizer, generator = torch.optim.Adam(net.parameters(), lr), torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for chosen in torch.randperm(half, generator=generator).split(batch):
            optimizer.zero_grad()
            functional.cross_entropy(net(x[chosen]), y[chosen]).backward()
            optimizer.step()
    with torch.no_grad():
        logits, labels = net(x[half : 2 * half]), y[half : 2 * half]
        loss = float(functional.cross_entropy(logits, labels))
        accuracy = float((logits.argmax(1) == labels).double().mean())
    rows = [row for row in analysis.analyze(net, randomize=True, seed=seed, min_evals=10).rows if not row.skipped]
    distances = [float(row.metrics["rand_distance"]) for row in rows if "rand_distance" in row.metrics]
    alphas = [float(row.metrics["alpha"]) for row in rows if "alpha" in row.metrics]
    means = {"rand_distance": statistics.fmean(distances), "alpha": statistics.fmean(alphas) if alphas else math.nan}
    return {"lr": lr, "batch": batch, **means, "loss": loss, "accuracy": accuracy}


def _build_outcome(data: Images, seed: int, results: list[dict[str, Any]], seconds: float) -> Outcome:
    distance, loss, accuracy = ([result[name] for result in results] for name in ("rand_distance", "loss", "accuracy"))
    to_loss, to_accuracy = spearman(distance, loss), spearman(distance, accuracy)
    by_rate = [result["rand_distance"] for result in sorted(results, key=lambda result: result["lr"])]
    accuracy_range = f"{min(accuracy):.3f} to {max(accuracy):.3f}"
    claims = [
        Claim(
            "loss",
            "The larger rand_distance, the larger the loss",
            f"ρ {to_loss:.2f} (published {PUBLISHED_CORRELATIONS[0]:.2f})",
            to_loss > 0.5,
        ),
        Claim(
            "accuracy",
            "The larger rand_distance, the better the accuracy",
            f"ρ {to_accuracy:.2f} (published {PUBLISHED_CORRELATIONS[1]:.2f}), {accuracy_range}",
            to_accuracy > 0.5,
        ),
        Claim(
            "rate",
            "Larger learning rates move the weights farther from random",
            f"rand_distance {statistics.fmean(by_rate[:2]):.3f} at 0.01, {statistics.fmean(by_rate[-2:]):.3f} at 0.1",
            statistics.fmean(by_rate[:2]) < statistics.fmean(by_rate[-2:]),
        ),
    ]
    columns = ("rate", "batch", "rand_distance", "published", "loss", "published", "accuracy", "published")
    rows = []
    for result in results:
        published = PUBLISHED[result["lr"], result["batch"]]
        rows.append((result["lr"], result["batch"], result["rand_distance"], published[0], result["loss"], published[1],
                     result["accuracy"], published[2]))  # fmt: skip
    numbers = {
        "ρ with loss": to_loss,
        "ρ with accuracy": to_accuracy,
        "published ρ with loss": PUBLISHED_CORRELATIONS[0],
        "published ρ with accuracy": PUBLISHED_CORRELATIONS[1],
    }
    about = f"{data.name}, {min(MAX_EXAMPLES, len(data.x) // 2):,} training images and as many test images"
    pictures = tuple(_draw_picture(results, what, about) for what in ("loss", "accuracy"))
    return Outcome("rand-distance", about, seed, tuple(claims), numbers, seconds,
                   (Table("Six MLPs, twenty epochs", columns, tuple(rows)),), pictures)  # fmt: skip


def _draw_picture(results: list[dict[str, Any]], metric: str, about: str) -> Picture:
    x, y = (tuple(float(result[name]) for result in results) for name in ("rand_distance", metric))
    notes = tuple(f"rate {result['lr']}, batch {result['batch']}: {a:.4f}, {b:.4f}"
                  for result, a, b in zip(results, x, y, strict=True))  # fmt: skip
    published = [(row[0], row[1 if metric == "loss" else 2]) for row in PUBLISHED.values()]
    axes = Axis("mean rand_distance"), (Axis(metric),)
    return Picture(
        f"rand_distance_{metric}",
        f"rand_distance against {metric}",
        about,
        *axes,
        (
            Points(tone="good", x=x, y=y, label="measured here", notes=notes),
            Points(
                tone="quiet",
                x=tuple(a for a, _ in published),
                y=tuple(b for _, b in published),
                label="published, MNIST",
                hollow=True,
                shape="square",
            ),
        ),
    )

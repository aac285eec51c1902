"""Is your layer over-trained? Train one layer of an MLP with smaller and smaller batches; compare α with accuracy.

After "Is your layer over-trained?" (C. H. Martin, 2022). The network is a 300-100-10 MLP on MNIST with Glorot-normal
weights. Only the layer 300 → 100 is trained, with batches of 32 to 1, until the training loss stops falling (patience
3, improvement 0.001). Published: accuracy rises from 0.890 at batch 32 to 0.894 at 4 and falls to 0.885 at 2; α falls
towards 2, and below 2 where the accuracy drops.
"""

from __future__ import annotations

import math
import time
from itertools import pairwise
from typing import Any

import numpy as np

from layerscope import analysis
from layerscope.experiments import repeated_runs as runs
from layerscope.experiments.image_data import Images, digits
from layerscope.experiments.outcome import Claim, Outcome, Table
from layerscope.numerics.similarity import spearman
from layerscope.views.plots.marks import Axis, Line, Picture, Points, Rule

BATCHES = (32, 16, 8, 4, 2, 1)
TEST_SHARE = 0.3  # share of the examples held out for testing
LEARNING_RATE, MAX_EPOCHS = 0.01, 100
PATIENCE, MIN_IMPROVEMENT = 3, 0.001  # early stopping: epochs without this improvement of the training loss
PUBLISHED = {32: 0.890, 4: 0.894, 2: 0.885}  # batch size → published accuracy


def run(
    data: Images | None = None, *, seed: int = 0, framework: str = "torch", batches: tuple[int, ...] = BATCHES,
    engine: str | None = None, store: Any = None, progress: Any = None,
) -> Outcome:  # fmt: skip
    """Train the layer with each batch size from the same initial weights, and compare its α with the accuracy.

    :param data: images to train on; the 8×8 digits by default.
    :param framework: "torch", or "keras" as in the publication.
    :param batches: batch sizes, largest first.
    :raises UnknownName: the framework is neither of these.
    """
    from layerscope.errors import UnknownName

    if framework not in FRAMEWORKS:
        raise UnknownName("framework", framework, FRAMEWORKS)
    data = digits(seed) if data is None else data
    start = time.perf_counter()
    cases = [{"batch": batch, "seed": seed, "framework": framework} for batch in batches]
    results = runs.run(measure, data, cases, engine=engine, store=store, progress=progress)
    return _build_outcome(data, seed, framework, results, time.perf_counter() - start)


def measure(data: Images, *, batch: int, seed: int, framework: str) -> dict[str, Any]:
    """Train with one batch size; return α of the layer, its interval, and the training and test accuracy."""
    x, y = data.x.reshape(len(data.x), -1), data.y
    test_count = int(TEST_SHARE * len(x))
    model, epochs, accuracy = FRAMEWORKS[framework](
        x[test_count:], y[test_count:], x[:test_count], y[:test_count], batch, seed
    )
    report = analysis.analyze(model, randomize=True, seed=seed)
    row = next(row for row in report.rows if not row.skipped and sorted(row.ref.shape) == [100, 300])
    metric_names = ("alpha", "alpha_low", "alpha_high", "rand_distance", "log_spectral_norm", "stable_rank")
    metrics = {name: float(row.metrics[name]) for name in metric_names if name in row.metrics}
    return {"batch": batch, "epochs": epochs, "train": accuracy[0], "test": accuracy[1], **metrics}


def _train_torch(
    x: Any, y: Any, x_test: Any, y_test: Any, batch: int, seed: int
) -> tuple[Any, int, tuple[float, float]]:
    import torch
    from torch import nn
    from torch.nn import functional

    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        sizes = (x.shape[1], 300, 100, 10)
        layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        for layer in layers:
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        net = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    net.requires_grad_(False)
    inputs, labels, test = torch.from_numpy(x.copy()), torch.from_numpy(y.copy()), torch.from_numpy(x_test.copy())
    with torch.no_grad():  # the layers before the trained one are fixed: compute their outputs once
        features = net[:2](inputs)
    layers[1].requires_grad_(True)
    generator = torch.Generator().manual_seed(seed)
    stopping = _EarlyStopping()
    while stopping.is_running:
        total = 0.0
        for chosen in torch.randperm(len(labels), generator=generator).split(batch):
            loss = functional.cross_entropy(net[2:](features[chosen]), labels[chosen])
            weight, bias = torch.autograd.grad(loss, [layers[1].weight, layers[1].bias])
            with torch.no_grad():
                layers[1].weight -= LEARNING_RATE * weight
                layers[1].bias -= LEARNING_RATE * bias
            total += float(loss.detach()) * len(chosen)
        stopping.step(total / len(labels), lambda: [p.detach().clone() for p in layers[1].parameters()])
    with torch.no_grad():
        for p, best in zip(layers[1].parameters(), stopping.best, strict=True):
            p.copy_(best)
        rates = [
            float((net(images).argmax(1).numpy() == targets).mean())
            for images, targets in ((inputs, y), (test, y_test))
        ]
    return net, stopping.epochs, (rates[0], rates[1])


class _EarlyStopping:
    """Keras's EarlyStopping on the training loss, which keeps the best weights."""

    def __init__(self) -> None:
        self.epochs, self.best, self._lowest_loss, self._remaining = 0, list[Any](), math.inf, PATIENCE

    @property
    def is_running(self) -> bool:
        """Whether training continues."""
        return self._remaining > 0 and self.epochs < MAX_EPOCHS

    def step(self, loss: float, weights: Any) -> None:
        """Record the loss and the weights at the end of an epoch."""
        self.epochs += 1
        self._remaining = PATIENCE if loss < self._lowest_loss - MIN_IMPROVEMENT else self._remaining - 1
        if loss < self._lowest_loss - MIN_IMPROVEMENT or not self.best:
            self._lowest_loss, self.best = loss, weights()


def _train_keras(
    x: Any, y: Any, x_test: Any, y_test: Any, batch: int, seed: int
) -> tuple[Any, int, tuple[float, float]]:
    import keras

    keras.utils.set_random_seed(seed + 42)
    layers = keras.layers
    net = keras.Sequential([layers.Input((x.shape[1],))])
    for units, activation in ((300, "relu"), (100, "relu"), (10, "softmax")):
        start = keras.initializers.GlorotNormal(seed=seed + 1)
        net.add(layers.Dense(units, activation=activation, kernel_initializer=start))
    net.layers[0].trainable = net.layers[2].trainable = False
    net.compile(keras.optimizers.SGD(LEARNING_RATE), "sparse_categorical_crossentropy", metrics=["accuracy"])
    early_stopping = keras.callbacks.EarlyStopping(
        monitor="loss", patience=PATIENCE, min_delta=MIN_IMPROVEMENT, restore_best_weights=True, verbose=0
    )
    logs = net.fit(x, y, batch_size=batch, epochs=MAX_EPOCHS, verbose=0, callbacks=[early_stopping])
    rates = [float(net.evaluate(images, targets, verbose=0)[1]) for images, targets in ((x, y), (x_test, y_test))]
    return net, len(logs.epoch), (rates[0], rates[1])


FRAMEWORKS = {"torch": _train_torch, "keras": _train_keras}


def _build_outcome(data: Images, seed: int, framework: str, results: list[dict[str, Any]], seconds: float) -> Outcome:
    alphas = [result.get("alpha", math.nan) for result in results]
    tests = [result["test"] for result in results]
    best = int(np.argmax(tests))
    trend = spearman([-math.log2(result["batch"]) for result in results], alphas)
    accuracy_correlation = spearman(alphas, tests)
    accuracy_drop = max(tests) - tests[-1]
    accuracies_text = ", ".join(f"{result['batch']}: {result['test']:.3f}" for result in results)
    worst_text = f"α {alphas[-1]:.2f} at batch {results[-1]['batch']}, accuracy {accuracy_drop:.3f} below the best"
    claims = [
        Claim("α", "α of the layer falls as the batch shrinks", f"ρ {trend:.2f}, {_format_span(alphas)}", trend < -0.8),
        Claim(
            "α",
            "The better the accuracy, the smaller α",
            f"Spearman's ρ {accuracy_correlation:.2f}",
            accuracy_correlation < -0.5,
        ),
        Claim("accuracy", "Accuracy rises as the batch shrinks, up to a point", accuracies_text, best > 0),
        Claim("accuracy", "Accuracy drops at the smallest batch", f"by {accuracy_drop:.3f}", accuracy_drop > 0),
        Claim("α < 2", "α is below 2 where accuracy drops", worst_text, accuracy_drop > 0 and alphas[-1] < 2),
    ]
    columns = ("batch", "epochs", "train", "test", "published", "α", "90 % interval", "rand_distance")
    rows = [
        (
            result["batch"],
            result["epochs"],
            result["train"],
            result["test"],
            PUBLISHED.get(result["batch"]),
            result.get("alpha"),
            _format_interval(result),
            result.get("rand_distance"),
        )
        for result in results
    ]
    numbers = {f"α, batch {result['batch']}": alpha for result, alpha in zip(results, alphas, strict=True)}
    numbers |= {f"accuracy, batch {result['batch']}": result["test"] for result in results} | {
        "ρ": accuracy_correlation
    }
    about = f"{data.name}, {len(data.x):,} images, {framework}"
    return Outcome("overtrained-layer", about, seed, tuple(claims), numbers, seconds,
                   (Table("One layer, smaller and smaller batches", columns, tuple(rows)),),
                   (_draw_picture(results, about),))  # fmt: skip


def _draw_picture(results: list[dict[str, Any]], about: str) -> Picture:
    fitted = [result for result in results if "alpha" in result]
    x, y = (tuple(float(result[name]) for result in fitted) for name in ("test", "alpha"))
    low, high = (
        tuple(float(result.get(name, result["alpha"])) for result in fitted) for name in ("alpha_low", "alpha_high")
    )
    notes = tuple(
        f"batch {result['batch']}: α {result['alpha']:.2f}, accuracy {result['test']:.4f}" for result in fitted
    )
    axes = Axis("test accuracy"), (Axis("α"),)
    return Picture("overtrained_layer", "α of the layer against test accuracy", about, *axes, (
        Rule(tone="over", at=2.0, along="x", label="α = 2"),
        Line(tone="quiet", x=x, y=y, label="batch 32 to 1", dashed=True),
        Points(tone="good", x=x, y=y, low=low, high=high, notes=notes),
    ))  # fmt: skip


def _format_span(values: list[float]) -> str:
    return f"α {values[0]:.2f} to {values[-1]:.2f}"


def _format_interval(result: dict[str, Any]) -> str | None:
    return f"{result['alpha_low']:.2f}–{result['alpha_high']:.2f}" if "alpha_low" in result else None

"""Is your layer over-trained? One layer of an MLP, trained with smaller batches: its α against the accuracy.

After "Is your layer over-trained?" (C. H. Martin, 2022): 300-100-10 on MNIST, Glorot normal, only the layer 300 → 100
is trained, until the training loss stands still (patience 3, 0.001); batches of 32 to 1. Published: accuracy rises from
0.890 at 32 to 0.894 at 4 and falls to 0.885 at 2; α falls towards 2, and below it where the accuracy drops.
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
HELD_OUT = 0.3  # of the examples
RATE, MOST, PATIENCE, LEAST = 0.01, 100, 3, 0.001  # of SGD; epochs at most; early stopping
PUBLISHED = {32: 0.890, 4: 0.894, 2: 0.885}  # accuracies that the text gives
LAYER = "2"  # the one that is trained


def run(
    data: Images | None = None, *, seed: int = 0, framework: str = "torch", batches: tuple[int, ...] = BATCHES,
    engine: str | None = None, store: Any = None, progress: Any = None,
) -> Outcome:  # fmt: skip
    """Train it with each batch size from the same start, and set α of the layer against the accuracy.

    :param data: the 8×8 digits where none are given.
    :param framework: "torch", or "keras" as it was published.
    :raises UnknownName: another framework.
    """
    from layerscope.errors import UnknownName

    if framework not in FRAMEWORKS:
        raise UnknownName("framework", framework, FRAMEWORKS)
    data = digits(seed) if data is None else data
    clock = time.perf_counter()
    cases = [{"batch": batch, "seed": seed, "framework": framework} for batch in batches]
    found = runs.run(measure, data, cases, engine=engine, store=store, progress=progress)
    return _judged(data, seed, framework, found, time.perf_counter() - clock)


def measure(data: Images, *, batch: int, seed: int, framework: str) -> dict[str, Any]:
    """One run: α of the layer, its interval, and the accuracies."""
    x, y = data.x.reshape(len(data.x), -1), data.y
    held = int(HELD_OUT * len(x))
    model, epochs, accuracy = FRAMEWORKS[framework](x[held:], y[held:], x[:held], y[:held], batch, seed)
    report = analysis.analyze(model, randomize=True, seed=seed)
    row = next(row for row in report.rows if not row.skipped and sorted(row.ref.shape) == [100, 300])
    names = ("alpha", "alpha_low", "alpha_high", "rand_distance", "log_spectral_norm", "stable_rank")
    told = {name: float(row.metrics[name]) for name in names if name in row.metrics}
    return {"batch": batch, "epochs": epochs, "train": accuracy[0], "test": accuracy[1], **told}


def _torch(x: Any, y: Any, x_test: Any, y_test: Any, batch: int, seed: int) -> tuple[Any, int, tuple[float, float]]:
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
    with torch.no_grad():  # what is fixed before the layer is computed once
        before = net[:2](inputs)
    layers[1].requires_grad_(True)
    drawn = torch.Generator().manual_seed(seed)
    stopping = _Stopping()
    while stopping.on:
        total = 0.0
        for chosen in torch.randperm(len(labels), generator=drawn).split(batch):
            loss = functional.cross_entropy(net[2:](before[chosen]), labels[chosen])
            weight, bias = torch.autograd.grad(loss, [layers[1].weight, layers[1].bias])
            with torch.no_grad():
                layers[1].weight -= RATE * weight
                layers[1].bias -= RATE * bias
            total += float(loss.detach()) * len(chosen)
        stopping.step(total / len(labels), lambda: [p.detach().clone() for p in layers[1].parameters()])
    with torch.no_grad():
        for p, best in zip(layers[1].parameters(), stopping.best, strict=True):
            p.copy_(best)
        rates = [float((net(part).argmax(1).numpy() == told).mean()) for part, told in ((inputs, y), (test, y_test))]
    return net, stopping.epochs, (rates[0], rates[1])


class _Stopping:
    """Keras' EarlyStopping on the training loss, best weights put back."""

    def __init__(self) -> None:
        self.epochs, self.best, self._least, self._left = 0, list[Any](), math.inf, PATIENCE

    @property
    def on(self) -> bool:
        """Does the training go on?"""
        return self._left > 0 and self.epochs < MOST

    def step(self, loss: float, weights: Any) -> None:
        """An epoch is over."""
        self.epochs += 1
        self._left = PATIENCE if loss < self._least - LEAST else self._left - 1
        if loss < self._least - LEAST or not self.best:
            self._least, self.best = loss, weights()


def _keras(x: Any, y: Any, x_test: Any, y_test: Any, batch: int, seed: int) -> tuple[Any, int, tuple[float, float]]:
    import keras

    keras.utils.set_random_seed(seed + 42)
    layers = keras.layers
    net = keras.Sequential([layers.Input((x.shape[1],))])
    for units, activation in ((300, "relu"), (100, "relu"), (10, "softmax")):
        start = keras.initializers.GlorotNormal(seed=seed + 1)
        net.add(layers.Dense(units, activation=activation, kernel_initializer=start))
    net.layers[0].trainable = net.layers[2].trainable = False
    net.compile(keras.optimizers.SGD(RATE), "sparse_categorical_crossentropy", metrics=["accuracy"])
    stop = keras.callbacks.EarlyStopping(
        monitor="loss", patience=PATIENCE, min_delta=LEAST, restore_best_weights=True, verbose=0
    )
    logs = net.fit(x, y, batch_size=batch, epochs=MOST, verbose=0, callbacks=[stop])
    rates = [float(net.evaluate(part, told, verbose=0)[1]) for part, told in ((x, y), (x_test, y_test))]
    return net, len(logs.epoch), (rates[0], rates[1])


FRAMEWORKS = {"torch": _torch, "keras": _keras}


def _judged(data: Images, seed: int, framework: str, found: list[dict[str, Any]], seconds: float) -> Outcome:
    alphas = [each.get("alpha", math.nan) for each in found]
    tests = [each["test"] for each in found]
    best = int(np.argmax(tests))
    trend = spearman([-math.log2(each["batch"]) for each in found], alphas)
    along = spearman(alphas, tests)
    lost = max(tests) - tests[-1]
    told = ", ".join(f"{each['batch']}: {each['test']:.3f}" for each in found)
    worst = f"α {alphas[-1]:.2f} at {found[-1]['batch']}, accuracy {lost:.3f} below the best"
    claims = [
        Claim("α", "α of the layer falls as the batch shrinks", f"ρ {trend:.2f}, {_span(alphas)}", trend < -0.8),
        Claim("α", "the better the accuracy, the smaller α", f"Spearman's ρ {along:.2f}", along < -0.5),
        Claim("accuracy", "it rises as the batch shrinks, up to a point", told, best > 0),
        Claim("accuracy", "at the smallest batch it drops", f"by {lost:.3f}", lost > 0),
        Claim("α < 2", "where accuracy drops α is below 2", worst, lost > 0 and alphas[-1] < 2),
    ]
    columns = ("batch", "epochs", "train", "test", "published", "α", "90 % interval", "rand_distance")
    rows = [
        (each["batch"], each["epochs"], each["train"], each["test"], PUBLISHED.get(each["batch"]), each.get("alpha"),
         _interval(each), each.get("rand_distance"))
        for each in found
    ]  # fmt: skip
    numbers = {f"α, batch {each['batch']}": alpha for each, alpha in zip(found, alphas, strict=True)}
    numbers |= {f"accuracy, batch {each['batch']}": each["test"] for each in found} | {"ρ": along}
    about = f"{data.name}, {len(data.x):,} images, {framework}"
    return Outcome("overtrained-layer", about, seed, tuple(claims), numbers, seconds,
                   (Table("One layer, smaller and smaller batches", columns, tuple(rows)),),
                   (_picture(found, about),))  # fmt: skip


def _picture(found: list[dict[str, Any]], about: str) -> Picture:
    known = [each for each in found if "alpha" in each]
    x, y = (tuple(float(each[name]) for each in known) for name in ("test", "alpha"))
    low, high = (tuple(float(each.get(name, each["alpha"])) for each in known) for name in ("alpha_low", "alpha_high"))
    notes = tuple(f"batch {each['batch']}: α {each['alpha']:.2f}, accuracy {each['test']:.4f}" for each in known)
    axes = Axis("test accuracy"), (Axis("α"),)
    return Picture("overtrained_layer", "α of the layer against test accuracy", about, *axes, (
        Rule(tone="over", at=2.0, along="x", label="α = 2"),
        Line(tone="quiet", x=x, y=y, label="batch 32 to 1", dashed=True),
        Points(tone="good", x=x, y=y, low=low, high=high, notes=notes),
    ))  # fmt: skip


def _span(values: list[float]) -> str:
    return f"α {values[0]:.2f} to {values[-1]:.2f}"


def _interval(each: dict[str, Any]) -> str | None:
    return f"{each['alpha_low']:.2f}–{each['alpha_high']:.2f}" if "alpha_low" in each else None

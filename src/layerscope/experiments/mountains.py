"""Which models share a basin? Loss barriers between models with different initial weights, data orders or a warm start.

After "Investigating models with different initial values" (ElasticDL issue 179), which trained eight ResNet-18s on
CIFAR-10. It measured their distances at the first and the last epoch and the accuracy on lines between them, in three
training regimes, and models trained on an inverted loss. Here the model is an 8-layer residual network on small images.
"""

from __future__ import annotations

import copy
import time
from typing import Any

import numpy as np
import torch

from layerscope.experiments import repeated_runs as runs
from layerscope.experiments.conditioning import TEST_EXAMPLES, train
from layerscope.experiments.image_data import Images, digits
from layerscope.experiments.outcome import Claim, Outcome, Table
from layerscope.lenses.landscape.evaluation.inverted_loss import inverted_cross_entropy
from layerscope.lenses.landscape.evaluation.torch_evaluator import TorchEvaluator
from layerscope.lenses.landscape.geometry.basins import basins
from layerscope.lenses.landscape.geometry.distances import distances
from layerscope.lenses.landscape.geometry.lines_and_planes import line, plane
from layerscope.lenses.learning_statistics.paper_networks import resnet
from layerscope.views.plots import landscape_pictures

SGD_OPTIONS: dict[str, Any] = {"lr": 0.3, "batch": 32, "momentum": 0.9, "weight_decay": 5e-4}
STARTS = 8  # models with different initial weights
PLANE_POINTS = 13  # points on each side of a plane
PLANE_SPAN = (-0.5, 1.5)  # range of both axes of the published planes
WARM_STEPS = 40  # training steps of the shared warm start
REGIME_LABELS = {"other starts": "initial weights", "other orders": "data orders", "warm start": "warm start"}
PUBLISHED = "published: 63.4 at epoch 0, 42.8 at epoch 30, 53.3 to the own initial weights"


def run(
    data: Images | None = None, *, seed: int = 0, steps: int = 300, starts: int = STARTS, side: int = PLANE_POINTS,
    engine: str | None = None, store: Any = None, progress: Any = None,
) -> Outcome:  # fmt: skip
    """Train a few networks and measure distances and loss barriers between them, in about a minute of CPU time.

    The outcome has the published table of distances, seven lines, three planes, warm starts and the inverted loss.

    :param data: images to train on; the 8×8 digits by default.
    :param steps: training steps of each network.
    :param starts: number of models with different initial weights, at least 4.
    :param side: points on each side of a plane; 0 draws no planes.
    """
    data = digits(seed) if data is None else data
    start = time.perf_counter()
    cases = [{"seed": seed, "steps": steps, "starts": starts, "side": side}]
    parts = runs.run(measure, data, cases, engine=engine, store=store, progress=progress)
    about = f"{data.name}, {len(data.x):,} images of {data.x.shape[1]}×{data.x.shape[2]}"
    return runs.combine_parts("mountains", about, seed, parts, time.perf_counter() - start)


def measure(data: Images, *, seed: int, steps: int, starts: int, side: int) -> dict[str, Any]:
    """Run the whole experiment and return its claims, numbers, tables and pictures as JSON types."""
    x, y = torch.from_numpy(data.x.copy())[:, None], torch.from_numpy(data.y.copy())
    x = (x - x.mean()) / x.std()
    learn, test = (x[TEST_EXAMPLES:], y[TEST_EXAMPLES:]), (x[:TEST_EXAMPLES], y[:TEST_EXAMPLES])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = {f"start {k + 1}": _build_network(seed, k) for k in range(starts)}
        trained = {name: _train_copy(net, *learn, steps, seed * 100 + k) for k, (name, net) in enumerate(fresh.items())}
        reordered = [_train_copy(_build_network(seed, 0), *learn, steps, seed * 100 + 50 + k) for k in range(3)]
        warm_start = _train_copy(_build_network(seed, 0), *learn, WARM_STEPS, seed * 100)
        warm_started = [_train_copy(warm_start, *learn, steps, seed * 100 + 60 + k) for k in range(3)]
        evaluate = TorchEvaluator(trained["start 1"], test, calibrate=learn[0][:512])
        interpolating = TorchEvaluator(trained["start 1"], test, bn="interpolate")
        claims, numbers = _judge_claims(fresh, trained, reordered, warm_started, evaluate, interpolating)
        pairs_by_time = [
            [_train_copy(_build_network(seed, k), *learn, step_count, seed * 100 + k) for k in (0, 1)]
            for step_count in _intermediate_steps(steps)
        ]
        barriers = [line(a, b, evaluate, points=11).barrier().value for a, b in pairs_by_time]
        barriers.append(numbers["barrier, other starts"])
        barriers_text = ", ".join(
            f"{barrier:.2g} after {step_count} steps"
            for barrier, step_count in zip(barriers, (*_intermediate_steps(steps), steps), strict=True)
        )
        claims.insert(
            4,
            Claim(
                "lines",
                "Different initial weights stay separated by a barrier throughout training",
                barriers_text,
                min(barriers) > 0.1,
            ),
        )
        inverted_claims, inverted_plots = _measure_inverted_loss(learn, test, seed, steps, numbers)
        tables, plots = _draw_published(fresh, trained, reordered, warm_started, evaluate, side)
        claims += inverted_claims
    return runs.to_json_parts(claims, numbers, tables, [*plots, *inverted_plots])


def _intermediate_steps(steps: int) -> tuple[int, int]:
    return steps // 3, 2 * steps // 3


def _draw_published(
    fresh: Any, trained: Any, reordered: Any, warm_started: Any, evaluate: TorchEvaluator, side: int
) -> tuple[tuple[Table, ...], list[Any]]:
    """Build the published table and plots: distances, lines from the first model, and one plane for each regime."""
    names = list(trained)
    before, after = distances(fresh, select="weights"), distances(trained, select="weights")
    upper = np.triu_indices(len(names), 1)
    training_distances = [
        float(distances([fresh[name], trained[name]], select="weights").matrix()[0, 1]) for name in names
    ]
    rows = (
        ("two models before training", *_mean_min_max(before.matrix()[upper]), 63.37),
        ("two models after training", *_mean_min_max(after.matrix()[upper]), 42.81),
        ("a model before and after training", *_mean_min_max(np.array(training_distances)), 53.26),
        ("two models after training, symmetric", *_mean_min_max(after.matrix("symmetric")[upper]), None),
    )
    tables = (Table("Distances in weight space", ("between", "mean", "smallest", "largest", "published"), rows),)
    lines = [line(trained[names[0]], trained[name], evaluate, points=17, names=(names[0], name)) for name in names[1:]]
    plots = [landscape_pictures.distance_matrix(before), landscape_pictures.distance_matrix(after)]
    plots.append(landscape_pictures.line_picture(lines, ["accuracy"]))
    regimes = (
        ("different initial weights", [trained[name] for name in names[:3]]),
        ("different data orders", reordered),
        ("shared warm start", warm_started),
    )
    for regime, models in regimes if side else ():
        axis = (*PLANE_SPAN, side)
        plane_names = (f"{regime} A", "B", "C")
        a, b, c = models
        grid = plane(a, b, c, evaluate, u=axis, v=axis, names=plane_names)
        plots.append(landscape_pictures.plane_picture(grid, "accuracy"))
    return tables, plots


def _mean_min_max(values: Any) -> tuple[float, float, float]:
    return float(values.mean()), float(values.min()), float(values.max())


def _build_network(seed: int, k: int) -> Any:
    return resnet(8, channels=1, width=8, seed=seed * 1000 + k)


def _train_copy(net: Any, x: Any, y: Any, steps: int, order: int) -> Any:
    trained = copy.deepcopy(net).train()
    train(trained, x, y, steps=steps, seed=order, **SGD_OPTIONS)
    return trained


def _judge_claims(
    fresh: Any, trained: Any, reordered: Any, warm_started: Any, evaluate: TorchEvaluator, interpolating: TorchEvaluator
) -> tuple[list[Claim], dict[str, float]]:
    before, after = distances(fresh, select="weights"), distances(trained, select="weights")
    upper = np.triu_indices(len(fresh), 1)
    training_distances = [distances([fresh[name], trained[name]], select="weights").matrix()[0, 1] for name in fresh]
    names = list(trained)
    regimes = {
        "other starts": (trained[names[0]], trained[names[1]]),
        "other orders": tuple(reordered[:2]),
        "warm start": tuple(warm_started[:2]),
    }
    lines = {regime: line(a, b, evaluate, points=21) for regime, (a, b) in regimes.items()}
    interpolated_lines = {
        regime: line(a, b, interpolating, points=21, span=(-1, 2)) for regime, (a, b) in regimes.items()
    }
    clustering = basins(
        {
            names[1]: trained[names[1]],
            names[2]: trained[names[2]],
            "warm 1": warm_started[0],
            "warm 2": warm_started[1],
        },
        evaluate,
    )
    heights = {regime: result.barrier().value for regime, result in lines.items()}
    numbers = {
        "distance at the start": float(before.matrix()[upper].mean()),
        "distance at the end": float(after.matrix()[upper].mean()),
        "distance from the own start": float(np.mean(training_distances)),
        "distance expected at the start": _expected_distance(fresh["start 1"]),
        "symmetric at the end": float(after.matrix("symmetric")[upper].mean()),
        **{f"barrier, {regime}": value for regime, value in heights.items()},
        **{f"barrier interpolated, {regime}": result.barrier().value for regime, result in interpolated_lines.items()},
        **{
            f"least accuracy, {regime}": float(np.nanmin(result.metrics["accuracy"]))
            for regime, result in lines.items()
        },
    }
    expected = numbers["distance expected at the start"]
    heights_text = ", ".join(f"{REGIME_LABELS[regime]} {value:.2g}" for regime, value in heights.items())
    lowered_text = ", ".join(
        f"{REGIME_LABELS[regime]} {interpolated_lines[regime].barrier().value:.2g} → {heights[regime]:.2g}"
        for regime in list(regimes)[:2]
    )
    distances_text = (
        f"{numbers['distance at the start']:.1f} → {numbers['distance at the end']:.1f}, "
        f"to the own initial weights {np.mean(training_distances):.1f}"
    )
    return [
        Claim(
            "distances",
            "Untrained models have the distance that the closed form predicts",
            f"{numbers['distance at the start']:.2f}, expected {expected:.2f}",
            abs(numbers["distance at the start"] / expected - 1) < 0.03,
        ),
        Claim(
            "distances",
            "Trained models stay far from each other and from their initial weights",
            f"{distances_text} ({PUBLISHED})",
            numbers["symmetric at the end"] > 0.9,
        ),
        Claim(
            "lines",
            "Accuracy drops on the line between models with different initial weights",
            f"lowest accuracy {numbers['least accuracy, other starts']:.2f}",
            numbers["least accuracy, other starts"] < 0.8,
        ),
        Claim(
            "lines",
            "Barriers are highest for different initial weights, lower for different data orders, lowest after a warm "
            "start",
            heights_text,
            heights["other starts"] > heights["other orders"] > heights["warm start"] - 1e-9,
        ),
        Claim(
            "lines",
            "Models with a shared warm start have no barrier between them",
            f"barrier {heights['warm start']:.2g}",
            heights["warm start"] <= clustering.tolerance,
        ),
        Claim(
            "basins",
            "The two models with a shared warm start are in one basin",
            ", ".join("{" + ", ".join(group) + "}" for group in clustering.clusters),
            ("warm 1", "warm 2") in clustering.clusters,
        ),
        Claim(
            "statistics",
            "Recomputing the batch-norm statistics lowers the barriers",
            lowered_text,
            all(heights[regime] < interpolated_lines[regime].barrier().value for regime in list(regimes)[:2]),
        ),
        Claim(
            "statistics",
            "Interpolated batch-norm variances become negative beyond the models",
            f"{interpolated_lines['other starts'].clamped} variances clamped to zero",
            interpolated_lines["other starts"].clamped > 0,
        ),
    ], numbers


def _expected_distance(net: Any) -> float:
    """Expected distance √(E‖a − b‖²) of two untrained networks.

    Convolution weights are N(0, 2/(k²·out)), linear weights U(±1/√in).
    """
    total = 0.0
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            total += 2 * module.weight.numel() * 2 / (9 * module.out_channels)
        elif isinstance(module, torch.nn.Linear):
            total += 2 * module.weight.numel() / (3 * module.in_features)
    return float(np.sqrt(total))


def _measure_inverted_loss(
    learn: Any, test: Any, seed: int, steps: int, numbers: dict[str, float]
) -> tuple[list[Claim], list[Any]]:
    """Train two models on the inverted loss and measure the accuracy on the line between them."""
    networks = []
    for k in range(2):
        net = _build_network(seed, 200 + k)
        optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
        generator = torch.Generator().manual_seed(k)
        for _ in range(min(steps, 150)):
            chosen = torch.randint(len(learn[1]), (64,), generator=generator)
            optimizer.zero_grad()
            inverted_cross_entropy(net(learn[0][chosen]), learn[1][chosen]).mean().backward()
            optimizer.step()
        networks.append(net)
    evaluate = TorchEvaluator(networks[0], test, inverted_cross_entropy, calibrate=learn[0][:512])
    between = line(networks[0], networks[1], evaluate, points=13, span=(-1, 2))
    accuracy = between.metrics["accuracy"]
    ends = [float(accuracy[between.t == t][0]) for t in (0.0, 1.0)]
    numbers["abyss accuracy"] = float(np.mean(ends))
    numbers["abyss, best between"] = float(accuracy[(between.t >= 0) & (between.t <= 1)].max())
    best_accuracy = numbers["abyss, best between"]
    plots = [landscape_pictures.line_picture([between], ["accuracy"])]
    return [
        Claim(
            "inverted loss",
            "Models trained on the inverted loss are almost always wrong",
            f"accuracy {ends[0]:.3f} and {ends[1]:.3f}",
            max(ends) < 0.05,
        ),
        Claim(
            "inverted loss",
            "Between two models trained on the inverted loss, accuracy rises again",
            f"up to {best_accuracy:.3f}",
            best_accuracy > 0.02 + max(ends),
        ),
    ], plots

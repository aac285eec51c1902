"""Rerun the figures of "Layer-wise Conditioning Analysis in Exploring the Learning Dynamics of DNNs" on small data.

Huang, Qin, Liu, Zhu & Shao, ECCV 2020 (arXiv 2002.10801). The claims are the trends that the figures show, not their
numbers, because data, widths and training lengths differ here. Settings follow the paper's code where they matter:
linear layers have no biases, and "random" weights are drawn from U(±1/√d). Residual networks are trained by SGD with
Nesterov momentum 0.9, learning rate 0.1, weight decay 1e-4 and batches of 128.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from layerscope.errors import UnknownName
from layerscope.experiments import repeated_runs as runs
from layerscope.experiments.image_data import Images, digits
from layerscope.experiments.outcome import Claim, Outcome
from layerscope.lenses.learning_statistics.conditioning import conditioning
from layerscope.lenses.learning_statistics.paper_networks import mlp, resnet
from layerscope.lenses.learning_statistics.probes import block_updates
from layerscope.monitor.conditioning_monitor import ConditioningMonitor
from layerscope.records.history import History
from layerscope.views.plots.pictures import make_pictures

CHANCE_LOSS = math.log(10)
TEST_EXAMPLES = 500  # examples held out to measure the accuracy
Numbers = dict[str, float]


class Task(NamedTuple):
    """Input of a figure's function: training examples, test examples and the random seed."""

    x: Any  # (n, h, w)
    y: Any
    x_test: Any
    y_test: Any
    seed: int
    pictures: list[Any]  # filled by the figures

    @property
    def flat(self) -> Any:
        """Training images as rows, shape (n, pixels)."""
        return self.x.flatten(1)


def run(
    data: Images | None = None, figures: Iterable[str] | None = None, *, seed: int = 0, engine: str | None = None,
    store: Any = None, progress: Any = None,
) -> Outcome:  # fmt: skip
    """Rerun the paper's figures, which takes a minute or two of CPU time.

    :param data: images to train on; the 8×8 digits by default.
    :param figures: names of the figures to run ("F1", "F2", "F4", "F5", "F6"); all of them by default.
    :raises UnknownName: no figure has one of the names.
    """
    data = digits(seed) if data is None else data
    chosen = list(FIGURES) if figures is None else list(figures)
    for name in chosen:
        if name not in FIGURES:
            raise UnknownName("figure", name, FIGURES)
    start = time.perf_counter()
    cases = [{"figure": name, "seed": seed} for name in chosen]
    parts = runs.run(measure, data, cases, engine=engine, store=store, progress=progress)
    about = f"{data.name}, {len(data.x):,} images of {data.x.shape[1]}×{data.x.shape[2]}"
    return runs.combine_parts("conditioning", about, seed, parts, time.perf_counter() - start)


def measure(data: Images, *, figure: str, seed: int) -> dict[str, Any]:
    """Run one figure and return its claims, numbers and pictures as JSON types."""
    x, y = torch.from_numpy(data.x.copy()), torch.from_numpy(data.y.copy())
    task = Task(x[TEST_EXAMPLES:], y[TEST_EXAMPLES:], x[:TEST_EXAMPLES], y[:TEST_EXAMPLES], seed, [])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        claims, numbers = FIGURES[figure](task)
    return runs.to_json_parts(claims, {f"{figure} {key}": value for key, value in numbers.items()}, (), task.pictures)


def train(
    net: Any, x: Any, y: Any, *, steps: int, lr: float, batch: int | None = None, seed: int = 0,
    after: Callable[[float], Any] | None = None, **options: Any,
) -> float:  # fmt: skip
    """Train with SGD on the cross entropy and return the last loss.

    :param batch: number of examples in a batch, drawn with the seed; None takes all examples at every step.
    :param after: called with the loss after every step.
    :param options: further options of ``torch.optim.SGD``.
    """
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr, **options)
    generator, last_loss = torch.Generator().manual_seed(seed), math.nan
    indices: Any = torch.randperm(len(y), generator=generator)
    for _ in range(steps):
        if batch is not None and len(indices) < batch:
            indices = torch.randperm(len(y), generator=generator)
        chosen, indices = (slice(None), indices) if batch is None else (indices[:batch], indices[batch:])
        optimizer.zero_grad()
        loss = functional.cross_entropy(net(x[chosen]), y[chosen])
        loss.backward()
        optimizer.step()
        last_loss = float(loss.detach())
        if after is not None:
            after(last_loss)
    return last_loss


def full_and_sub(task: Task) -> tuple[list[Claim], Numbers]:
    """F1: the Fisher blocks of layers 3 and 6 follow the whole matrix; without norm layers λmax nearly vanishes."""
    numbers: Numbers = {}
    for kind, norm in (("plain", False), ("bn", True)):
        history = _train_monitored(mlp([task.flat.shape[1], *[24] * 7, 10], norm=norm, seed=task.seed), task, kind)
        for layer in (3, 6):
            name = f"fc{layer}.weight"
            metrics = history.reports[0].layers[name].metrics
            numbers[f"{kind} λmax {layer}"] = float(metrics["lambda_max_fim"])
            numbers[f"{kind} κ50 {layer}"] = float(metrics.get("kappa_50_fim", math.inf))
            numbers[f"{kind} trend {layer}"] = history.trend_agreement().get(name, math.nan)
    trends = [value for name, value in numbers.items() if "trend" in name]
    vanished = [numbers[f"plain λmax {layer}"] for layer in (3, 6)]
    normed = [numbers[f"bn λmax {layer}"] for layer in (3, 6)]
    kappas = [(numbers[f"plain κ50 {layer}"], numbers[f"bn κ50 {layer}"]) for layer in (3, 6)]
    return [
        Claim(
            "F1",
            "During training, λmax of a block follows λmax of the whole matrix",
            _format_values(trends, ".2f", "ρ "),
            min(trends) >= 0.5,
        ),
        Claim(
            "F1",
            "Without norm layers, λmax vanishes",
            f"{_format_values(vanished, '.1e')} (with norm layers {_format_values(normed, '.1e')})",
            max(vanished) < 1e-3 * min(normed),
        ),
        Claim(
            "F1",
            "Norm layers improve κ₅₀ of the blocks",
            "; ".join(f"{a:.1e} → {b:.1e}" for a, b in kappas),
            all(b < a for a, b in kappas),
        ),
    ], numbers


def _train_monitored(net: Any, task: Task, kind: str) -> History:
    x, y = task.flat[:600], task.y[:600]
    monitor = ConditioningMonitor(net, (x, y), every=10, exact=True, name=kind)
    monitor.step()
    train(net, task.flat, task.y, steps=100, lr=1.0, after=lambda loss: monitor.step(loss=loss))
    history = monitor.history
    task.pictures.extend(make_pictures("full_and_sub", [history], ["fc3.weight"]))
    return history


def depth_profiles(task: Task) -> tuple[list[Claim], Numbers]:
    """F2–3: λmax of inputs and output gradients over 20 layers of 256, by initialization, with and without norms."""
    numbers: Numbers = {}
    for kind, init, norm in (
        ("plain random", "random", False),
        ("plain He", "he", False),
        ("bn random", "random", True),
        ("bn He", "he", True),
    ):
        net = mlp([task.flat.shape[1], *[256] * 19, 10], norm=norm, init=init, seed=task.seed).double()
        report = conditioning(net, (task.flat[:1000].double(), task.y[:1000]), fits=())
        for metric, short in (("lambda_max_x", "x"), ("lambda_max_d", "d"), ("lambda_max_fim", "product")):
            values = [float(report.layers[f"fc{k}.weight"].metrics[metric]) for k in range(2, 21)]
            numbers[f"{kind} {short}"] = math.log10(max(values) / min(values))
    spans = {kind: [numbers[f"{kind} {short}"] for short in ("x", "d", "product")] for kind in
            ("plain random", "plain He", "bn random", "bn He")}  # fmt: skip
    decades = {kind: f"{inputs:.1f} and {gradients:.1f} decades" for kind, (inputs, gradients, _) in spans.items()}
    return [
        Claim("F2–3", "In plain nets with random weights, inputs and gradients both fade exponentially",
              decades["plain random"], min(spans["plain random"][:2]) > 8),
        Claim("F2–3", "The product of both hides the fading", f"{spans['plain random'][2]:.1f} decades",
              spans["plain random"][2] < 2),
        Claim("F2–3", "He initialization reduces both", decades["plain He"], max(spans["plain He"][:2]) < 3),
        Claim("F2–3", "Norm layers keep the inputs on one scale",
              f"{spans['bn random'][0]:.2f} and {spans['bn He'][0]:.2f} decades",
              max(spans["bn random"][0], spans["bn He"][0]) < 0.5),
        Claim("F2–3", "Norm layers keep the gradients closer to one scale than plain nets do", decades["bn random"],
              spans["bn random"][1] < 0.4 * spans["plain random"][1]),
    ], numbers  # fmt: skip


def blocked_layers(task: Task) -> tuple[list[Claim], Numbers]:
    """F4: the more layers of an MLP with norms are frozen, the higher its loss; the loss still falls."""
    numbers: Numbers = {}
    for pattern in ("11111", "00111", "00011", "00001"):
        net = mlp([task.flat.shape[1], *[256] * 4, 10], norm=True, seed=task.seed)
        with block_updates(net, pattern):
            train(net, task.flat, task.y, steps=200, lr=0.1, batch=128, seed=task.seed)
        with torch.no_grad():
            numbers[f"loss {pattern}"] = float(functional.cross_entropy(net(task.flat), task.y))
            net.eval()
            right = (net(task.x_test.flatten(1)).argmax(1) == task.y_test).float().mean()
        numbers[f"accuracy {pattern}"] = float(right)
    losses = [value for name, value in numbers.items() if name.startswith("loss")]
    summary = ", ".join(
        f"{pattern}: {numbers[f'loss {pattern}']:.2g}/{numbers[f'accuracy {pattern}']:.1%}"
        for pattern in ("11111", "00111", "00011", "00001")
    )
    return [
        Claim("F4", "The more layers are frozen, the higher the loss", summary, losses == sorted(losses)),
        Claim("F4", "The loss still falls with one trainable layer", f"{losses[-1]:.2g} (chance {CHANCE_LOSS:.2f})",
              losses[-1] < 0.5 * CHANCE_LOSS),
    ], numbers  # fmt: skip


def both_factors(task: Task) -> tuple[list[Claim], Numbers]:
    """F5: norms improve the conditioning of inputs and output gradients; plain nets have dead and always-on units."""
    numbers: Numbers = {}
    for kind, norm in (("plain", False), ("bn", True)):
        net = mlp([task.flat.shape[1], *[64] * 4, 10], norm=norm, seed=task.seed)
        report = conditioning(net, (task.flat, task.y), fits=())
        for k in range(1, 5):
            metrics = report.layers[f"fc{k}.weight"].metrics
            numbers |= {f"{kind} {name} {k}": float(metrics[name]) / 64 for name in ("dying", "full")}
        for side in ("x", "d"):
            numbers[f"{kind} κ50 {side}"] = float(report.layers["fc4.weight"].metrics.get(f"kappa_50_{side}", math.inf))
    idle = {kind: [numbers[f"{kind} dying {k}"] + numbers[f"{kind} full {k}"] for k in range(1, 5)]
            for kind in ("plain", "bn")}  # fmt: skip
    kappas = {
        what: (numbers[f"plain κ50 {side}"], numbers[f"bn κ50 {side}"])
        for side, what in (("x", "the inputs"), ("d", "the gradients"))
    }
    return [
        *(
            Claim("F5", f"Norm layers improve κ₅₀ of {what}", f"{a:.1e} → {b:.1e}", b < a / 3)
            for what, (a, b) in kappas.items()
        ),
        Claim(
            "F5",
            "Without norm layers, the share of units that are never or always active grows with depth",
            _format_values(idle["plain"], ".0%"),
            idle["plain"] == sorted(idle["plain"]) and idle["plain"][-1] > 0.1,
        ),
        Claim(
            "F5",
            "With norm layers, no unit is idle at the start",
            _format_values(idle["bn"], ".0%"),
            max(idle["bn"]) == 0,
        ),
    ], numbers


def residual_network(task: Task, depth: int = 110, steps: int = 60) -> tuple[list[Claim], Numbers]:
    """F6–7: a deep residual network overshoots and switches its features off; a last norm layer prevents it."""
    numbers: Numbers = {}
    images = (task.x - task.x.mean()) / task.x.std()
    sgd_options: Mapping[str, Any] = {"momentum": 0.9, "nesterov": True}
    histories: dict[str, History] = {}
    probe = images[:256, None], task.y[:256]
    for kind, last_bn in (("plain", False), ("last bn", True)):
        net = resnet(depth, channels=1, last_bn=last_bn, seed=task.seed)
        # the figures concern only the last layer and the norms of the last blocks
        blocks = [f"block3_{(depth - 2) // 6 - k}.conv2.weight" for k in range(3)]
        layers = ["fc.weight", *blocks]
        monitor = ConditioningMonitor(net, probe, every=4, lr=0.1, layers=layers, name=kind, **sgd_options)
        monitor.step(0)
        losses: list[float] = []

        def after(loss: float, monitor: ConditioningMonitor = monitor, losses: list[float] = losses) -> None:
            losses.append(loss)
            monitor.step(len(losses), loss=loss)

        train(net, images[:, None], task.y, steps=steps, lr=0.1, batch=128, seed=task.seed, after=after,
              weight_decay=1e-4, **sgd_options)  # fmt: skip
        history = histories[kind] = monitor.history
        first_loss, input_lambda_max = losses[0], history.series("lambda_max_x", "fc.weight")[1]
        domination = history.series("domination", "fc.weight")[1]
        numbers |= {
            f"{kind} first loss": first_loss,
            f"{kind} highest loss": max(losses),
            f"{kind} last loss": losses[-1],
            f"{kind} share at chance": sum(abs(loss - CHANCE_LOSS) < 0.05 * CHANCE_LOSS for loss in losses[15:])
            / len(losses[15:]),
            f"{kind} λmax(Sx) first": input_lambda_max[0],
            f"{kind} λmax(Sx) least": min(input_lambda_max),
            f"{kind} λmax(Sx) most": max(input_lambda_max),
            f"{kind} domination least": min(domination),
            f"{kind} β below zero": max(history.series("beta_negative", layers[1])[1]),
        }
    plain = {name.removeprefix("plain "): value for name, value in numbers.items() if name.startswith("plain")}
    with_last_bn = {
        name.removeprefix("last bn "): value for name, value in numbers.items() if name.startswith("last bn")
    }
    codes_at_start = [
        {f.code for f in history.reports[0].findings if f.code.startswith("LS2")} for history in histories.values()
    ]
    dominated_steps = {kind: [f"step {step}" for step, report in zip(history.steps, history.reports, strict=True)
                   if any(f.code == "LS206" and f.layer == "fc.weight" for f in report.findings)]
            for kind, history in histories.items()}  # fmt: skip
    loss_path = f"{plain['first loss']:.1f} → {plain['highest loss']:.0f}"
    return [
        Claim(
            "F6",
            "The loss rises at first",
            loss_path,
            plain["highest loss"] > 2 * max(plain["first loss"], CHANCE_LOSS),
        ),
        Claim(
            "F6",
            "The loss then stays at chance level",
            f"{plain['share at chance']:.0%} of the steps from step 15 on",
            plain["share at chance"] > 0.5,
        ),
        Claim(
            "F6",
            "Inputs of the last layer are large at first, then almost zero",
            f"λmax(Sx) {plain['λmax(Sx) first']:.0f} → {plain['λmax(Sx) least']:.1e}",
            plain["λmax(Sx) least"] < 1e-2 * plain["λmax(Sx) first"],
        ),
        Claim(
            "F6",
            "The shifts β of the last norm layers turn negative",
            f"{plain['β below zero']:.0%} of them",
            plain["β below zero"] > 0.9,
        ),
        Claim(
            "F6",
            "The weights of the last layer hardly move (weight domination)",
            f"gradient-to-weight ratio {plain['domination least']:.1e}",
            plain["domination least"] < 1e-2,
        ),
        Claim(
            "F6",
            "LS206 reports the weight domination while it lasts",
            f"from {dominated_steps['plain'][0]}" if dominated_steps["plain"] else "never",
            bool(dominated_steps["plain"]),
        ),
        Claim(
            "F6",
            "LS205 reports the problem at step 0",
            ", ".join(sorted(codes_at_start[0])) or "no finding",
            "LS205" in codes_at_start[0],
        ),
        Claim(
            "F7",
            "With a last norm layer, the network learns steadily",
            f"{with_last_bn['first loss']:.1f} → {with_last_bn['last loss']:.2g}",
            with_last_bn["last loss"] < 0.5 * CHANCE_LOSS and with_last_bn["highest loss"] < 3 * CHANCE_LOSS,
        ),
        Claim(
            "F7",
            "With a last norm layer, inputs of the last layer stay small",
            f"λmax(Sx) ≤ {with_last_bn['λmax(Sx) most']:.0f}",
            with_last_bn["λmax(Sx) most"] <= 64,
        ),
        Claim(
            "F7",
            "With a last norm layer, no weight domination",
            f"LS206: {dominated_steps['last bn'][0] if dominated_steps['last bn'] else 'never'}",
            not dominated_steps["last bn"],
        ),
        Claim(
            "F7",
            "With a last norm layer, no LS205 at step 0",
            ", ".join(sorted(codes_at_start[1])) or "no finding",
            "LS205" not in codes_at_start[1],
        ),
    ], numbers


def _format_values(values: Iterable[float], fmt: str, before: str = "") -> str:
    return before + ", ".join(format(value, fmt) for value in values)


FIGURES: Mapping[str, Callable[[Task], tuple[list[Claim], Numbers]]] = {
    "F1": full_and_sub,
    "F2": depth_profiles,
    "F4": blocked_layers,
    "F5": both_factors,
    "F6": residual_network,
}

"""Train one network of the validity study and save its weights at every check."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional

from layerscope.experiments.image_data import digits, idx
from validity.muon import Muon
from validity.networks import CONTEXT, build
from validity.recipes import LEARNING_RATES

CHECKS = 12  # checks of a run, evenly spaced, the last one at its end; one more before the first step
EVALUATED = {"mlp": 2000, "cnn": 1000, "transformer": 500}  # most examples of each evaluation


class Split(NamedTuple):
    """Inputs and labels, as tensors."""

    x: torch.Tensor
    y: torch.Tensor


class Task(NamedTuple):
    """Training, validation and test examples; the training labels may be noisy."""

    train: Split
    validation: Split
    test: Split
    side: int
    symbols: int
    evaluated: int


def measure(folders: dict[str, str], **recipe: Any) -> dict[str, Any]:
    """Train with one recipe; return the outcome at every check, and save the weights of each.

    :param folders: where MNIST, Fashion-MNIST, the text and the weights are.
    """
    start = time.process_time()
    torch.set_flush_denormal(True)  # weights that decay to nothing are computed slowly otherwise
    task = make_task(folders, recipe["family"], recipe["examples"], recipe["label_noise"], recipe["seed"])
    torch.manual_seed(recipe["seed"])
    kind = recipe["family"].partition("-")[0]
    net = build(kind, width=recipe["width"], depth=recipe["depth"], norm=recipe["norm"], side=task.side,
                symbols=task.symbols)  # fmt: skip
    folder = Path(folders["weights"]) / key(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    checks = [check(net, task, folder, 0)]
    optimizers = make_optimizers(net, recipe)
    steps = recipe["steps"]
    due = {round(steps * (n + 1) / CHECKS) for n in range(CHECKS)}
    generator = torch.Generator().manual_seed(recipe["seed"])
    order = torch.empty(0, dtype=torch.int64)
    for step in range(1, steps + 1):
        if len(order) < min(recipe["batch"], len(task.train.y)):
            order = torch.randperm(len(task.train.y), generator=generator)
        batch, order = order[: recipe["batch"]], order[recipe["batch"] :]
        factor = 1.0 if recipe["schedule"] == "constant" else 0.5 * (1 + math.cos(math.pi * step / steps))
        loss = loss_of(net(task.train.x[batch]), task.train.y[batch])
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = factor * group["base_rate"]
            optimizer.step()
        if step in due:
            checks.append(check(net, task, folder, step))
    return {"checks": checks, "cpu_seconds": time.process_time() - start}


def key(recipe: dict[str, Any]) -> str:
    """Return the name of the folder of a recipe's weights."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def make_optimizers(net: torch.nn.Module, recipe: dict[str, Any]) -> list[torch.optim.Optimizer]:
    """Make the optimizer of a recipe; Muon trains the matrices between the first and the last layer only."""
    rate = LEARNING_RATES[recipe["optimizer"]] * recipe["rate_factor"]
    decay, parameters = recipe["weight_decay"], list(net.parameters())
    optimizers: list[torch.optim.Optimizer]
    if recipe["optimizer"] == "sgd":
        optimizers = [torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=decay)]
    elif recipe["optimizer"] == "adam":
        optimizers = [torch.optim.Adam(parameters, lr=rate, weight_decay=decay)]
    elif recipe["optimizer"] == "adamw":
        optimizers = [torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)]
    else:
        matrices = [p for p in parameters if p.ndim == 2]
        hidden = {id(p) for p in matrices[1:-1]}
        optimizers = [torch.optim.AdamW([p for p in parameters if id(p) not in hidden], lr=rate / 20,
                                        weight_decay=decay)]  # fmt: skip
        if hidden:
            optimizers.append(Muon([p for p in parameters if id(p) in hidden], lr=rate,
                                               weight_decay=decay))  # fmt: skip
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_rate"] = group["lr"]
    return optimizers


def check(net: torch.nn.Module, task: Task, folder: Path, step: int) -> dict[str, float]:
    """Evaluate a network and save its weights."""
    save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, folder / f"{step}.safetensors")
    net.eval()
    outcome: dict[str, float] = {"step": step}
    with torch.no_grad():
        for name, split in (("train", task.train), ("validation", task.validation), ("test", task.test)):
            x, y = split.x[: task.evaluated], split.y[: task.evaluated]
            outputs = torch.cat([net(part) for part in x.split(250)])
            outcome[f"{name}_loss"] = float(loss_of(outputs, y))
            outcome[f"{name}_accuracy"] = float((outputs.argmax(-1) == y).float().mean())
    net.train()
    return outcome


def loss_of(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy, of images or of every character."""
    return functional.cross_entropy(outputs.flatten(0, -2), labels.flatten())


def make_task(folders: dict[str, str], family: str, examples: int, noise: float, seed: int) -> Task:
    """Split the data of a family; a share ``noise`` of the training labels is replaced by random ones."""
    kind, data = family.split("-")
    rng = np.random.default_rng(seed)
    if data == "text":
        return text_task(folders["text"], examples, noise, rng)
    x, y = image_data(folders, data, kind)
    order = rng.permutation(len(y))
    held_out = min(EVALUATED[kind], len(y) // 5)
    parts = np.split(order, [held_out, 2 * held_out, 2 * held_out + examples])
    splits = [Split(torch.from_numpy(x[part]), torch.from_numpy(y[part])) for part in parts[:3]]
    train = splits[2]._replace(y=with_noise(splits[2].y, noise, 10, rng))
    return Task(train, splits[0], splits[1], x.shape[-1], 0, EVALUATED[kind])


@functools.cache
def _images(folder: str, pool: int) -> tuple[np.ndarray, np.ndarray]:
    images = idx(folder, split="train", seed=0, pool=pool) if folder else digits(0)
    x = (images.x - images.x.mean()) / images.x.std()
    return x[:, None].astype(np.float32), images.y


def image_data(folders: dict[str, str], data: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return standardized images (n, 1, h, w) and labels; convolutional networks see 14×14 pixels."""
    return _images("" if data == "digits" else folders[data], 2 if kind == "cnn" else 1)


def text_task(path: str, examples: int, noise: float, rng: np.random.Generator) -> Task:
    """Cut a text into windows; the last tenth is held out."""
    text = Path(path).read_text("utf-8")
    symbols = sorted(set(text))
    codes = np.array([symbols.index(c) for c in text])
    border = len(codes) * 9 // 10
    training = rng.permutation(border // CONTEXT - 1)[:examples] * CONTEXT
    held_out = border + rng.permutation((len(codes) - border) // CONTEXT - 1)[:1000] * CONTEXT
    starts = np.concatenate([training, held_out])
    windows = codes[starts[:, None] + np.arange(CONTEXT + 1)]
    x, y = torch.from_numpy(windows[:, :-1].copy()), torch.from_numpy(windows[:, 1:].copy())
    count = len(x) - 1000
    train = Split(x[:count], with_noise(y[:count], noise, len(symbols), rng))
    return Task(
        train, Split(x[count:-500], y[count:-500]), Split(x[-500:], y[-500:]), 0, len(symbols), EVALUATED["transformer"]
    )


def with_noise(labels: torch.Tensor, share: float, classes: int, rng: np.random.Generator) -> torch.Tensor:
    """Replace a share of labels by random ones."""
    noisy = torch.from_numpy(rng.random(tuple(labels.shape)) < share)
    return torch.where(noisy, torch.from_numpy(rng.integers(classes, size=tuple(labels.shape))), labels)

"""Measure the cost of a training monitor and the effect of TempBalance; write docs/benchmarks-watching.md."""

from __future__ import annotations

import gc
import os
import statistics
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import page_of  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

import layerscope  # noqa: E402
from layerscope.experiments.image_data import digits  # noqa: E402
from layerscope.lenses.learning_statistics.paper_networks import mlp, resnet  # noqa: E402

TITLE = "Benchmarks: training monitor"
ABOUT = "This page shows the cost of a training monitor, and the effect of TempBalance on accuracy."


def epochs(net: Any, x: Any, y: Any, count: int, batch: int, monitor: Any = None) -> tuple[float, float]:
    """Train for ``count`` epochs with a check after each; return the CPU seconds of (training, checks)."""
    optimizer, training, checks = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9), 0.0, 0.0
    for _ in range(count):
        clock = time.process_time()
        for chosen in torch.randperm(len(y)).split(batch):
            optimizer.zero_grad()
            functional.cross_entropy(net(x[chosen]), y[chosen]).backward()
            optimizer.step()
        training += time.process_time() - clock
        if monitor is not None:
            clock = time.process_time()
            monitor.step()
            checks += time.process_time() - clock
    return training, checks


def shares(repeats: int) -> list[str]:
    """Measure the CPU time of a spectral check after every epoch, relative to the training."""
    torch.manual_seed(0)
    flat, labels = torch.rand(60_000, 784), torch.randint(10, (60_000,))
    images, few_labels = torch.rand(512, 3, 32, 32), torch.randint(10, (512,))
    lines = [
        "| check of the spectra after every epoch | training, CPU s per epoch | check, CPU s | check / training |",
        "| --- | --- | --- | --- |",
    ]
    for title, make, x, y, batch, scale in (
        ("MLP 784-300-100-10, 60,000 images, batches of 32", lambda: mlp([784, 300, 100, 10]), flat, labels, 32, 1.0),
        ("ResNet-20, 50,000 images of 32×32 (time for 512 images, scaled up), batches of 128",
         lambda: resnet(20, channels=3), images, few_labels, 128, 50_000 / 512),
    ):  # fmt: skip
        seconds = []
        for _ in range(repeats):
            net = make()
            with layerscope.Monitor(net, budget=None) as monitor:
                monitor.step()
                seconds.append(epochs(net, x, y, 2, batch, monitor))
        training, check = (statistics.median(pair[k] for pair in seconds) / 2 for k in (0, 1))
        lines.append(f"| {title} | {training * scale:.1f} | {check:.2f} | {check / (training * scale):.1%} |")
    return lines


def memory() -> list[str]:
    """Measure the memory of Python objects over a thousand checks."""
    with tempfile.TemporaryDirectory() as scratch:
        monitor = layerscope.Monitor(nn.Linear(64, 64), path=Path(scratch) / "r.layerscope", budget=None)
        for _ in range(50):
            monitor.step(loss=1.0)
        tracemalloc.start()
        kib = []
        for number in range(1000):
            monitor.step(loss=1.0)
            if number in (9, 999):
                gc.collect()
                kib.append(tracemalloc.get_traced_memory()[0] / 1024)
        tracemalloc.stop()
        monitor.close()
    head = ["| memory of Python objects, KiB | after 10 checks | after 1,000 checks |", "| --- | --- | --- |"]
    return [*head, f"| one layer of 64 × 64 | {kib[0]:.0f} | {kib[1]:.0f} |"]


def balanced(seeds: int = 5) -> list[str]:
    """Measure the test accuracy of a small network with and without TempBalance, with the same seeds."""
    data = digits(0)
    x, y = torch.from_numpy(data.x.copy()).flatten(1), torch.from_numpy(data.y.copy())
    lines = ["| MLP 64-128-128-128-10 on the 8×8 digits, 20 epochs | same rate for all layers | TempBalance |",
             "| --- | --- | --- |"]  # fmt: skip
    for lr in (0.02, 0.1, 0.5):
        accuracies_by_balance: dict[bool, list[float]] = {False: [], True: []}
        for seed in range(seeds):
            for balance in accuracies_by_balance:
                net = mlp([64, 128, 128, 128, 10], init="he", bias=True, seed=seed)
                optimizer = torch.optim.SGD(layerscope.TempBalance.groups(net), lr, momentum=0.9, weight_decay=5e-4)
                schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
                rates = layerscope.TempBalance(optimizer, net)
                generator = torch.Generator().manual_seed(seed)
                for _ in range(20):
                    if balance:
                        rates.step()
                    for chosen in torch.randperm(1300, generator=generator).split(64):
                        optimizer.zero_grad()
                        functional.cross_entropy(net(x[chosen]), y[chosen]).backward()
                        optimizer.step()
                    rates.undo()
                    schedule.step()
                with torch.no_grad():
                    accuracies_by_balance[balance].append(float((net(x[1300:]).argmax(1) == y[1300:]).double().mean()))
        cells = [
            f"{statistics.fmean(accuracies):.4f} ± {statistics.stdev(accuracies) / seeds**0.5:.4f}"
            for accuracies in accuracies_by_balance.values()
        ]
        lines.append(f"| learning rate {lr}, test accuracy, {seeds} seeds | {cells[0]} | {cells[1]} |")
    return lines


def main() -> None:
    """Measure and write the page."""
    options = page_of.options(__doc__, 3)
    torch.set_num_threads(1)
    tables = [shares(options.repeats), memory(), balanced()]
    how = f"It used torch {torch.__version__} and one thread. Times are medians of {options.repeats} runs."
    page_of.write(TITLE, ABOUT, how, tables, options.write)


if __name__ == "__main__":
    main()

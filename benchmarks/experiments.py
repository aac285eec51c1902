"""Repeat published experiments over seeds and data; write docs/experiments-conditioning.md or -mountains.md."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from layerscope.experiments import conditioning, mountains
from layerscope.experiments.image_data import Images, digits, idx
from layerscope.experiments.outcome import Outcome

CONDITIONING = """# The layer-wise conditioning paper on small data

This page repeats the experiments of Huang et al., "Layer-wise Conditioning Analysis in Exploring the Learning
Dynamics of DNNs" (ECCV 2020, arXiv 2002.10801) on small data. It tests whether the claims of the figures hold. The
numbers differ from the paper because data, widths and training lengths are different. `python
benchmarks/experiments.py conditioning` writes the page; `layerscope.experiments.conditioning.run` runs one seed.

- F1: eight layers of width 24, full batches.
- F2–3: twenty layers of width 256 at initialization.
- F4: five layers of width 256.
- F5: five layers of width 64 at initialization.
- F6–7: a residual network of 110 layers, 60 steps of SGD with Nesterov momentum 0.9, learning rate 0.1 and batches of
  128.

"""
CONDITIONING_END = """
Some claims hold only in some runs: the correlation of a block's λmax with λmax of the whole matrix (F1), and how long
the loss stays at chance level (F6). Inactive units of a plain network at initialization (F5) appear only with a small
sample or a deeper network. With 9,500 images, nearly every unit is active for some and inactive for others. The
paper's test errors on CIFAR and ImageNet were not repeated.
"""


MOUNTAINS = """# Which basin is a model in?

This page repeats "Investigating models with different initial values" (ElasticDL issue 179) on small data. The
original trained eight ResNet-18 models on CIFAR-10 for 30 epochs, and asked whether they end in the same basin of the
loss. Here, a residual network of 8 layers is trained for 300 steps of SGD with momentum 0.9, learning rate 0.3,
weight decay 5e-4 and batches of 32. Distances use weights with two axes or more. Batch-norm statistics are recomputed
along the lines. `python benchmarks/experiments.py mountains` writes the page; `layerscope.experiments.mountains.run`
runs one seed.

The published distances at initialization follow from a closed form. For ResNet-18 in torch 1.0, where batch-norm
gains were drawn from U(0, 1), the expected distance is 63.30, and 63.37 was measured. With gains of 1 it would be
56.63. The distances fell to 42.8 by epoch 30, while weight decay shortened the weights. Relative to their lengths,
models with different initial weights are, in our runs, as far apart at the end as unrelated vectors.

In the published picture, a wide region of accuracy 0.1 surrounds the models. Part of it may be caused by batch-norm
statistics that were interpolated like weights. In our runs, interpolated variances fall below zero beyond the models,
and recomputed statistics lower every barrier.

"""
MOUNTAINS_END = """
Models with the same initial weights and different data orders are separated by a barrier only if training is noisy
enough: with a smaller learning rate they are not. The accuracy between two models that were trained with the inverted
loss rises in most runs, but not in all.
"""
PAGES = {
    "conditioning": (conditioning.run, CONDITIONING, CONDITIONING_END),
    "mountains": (mountains.run, MOUNTAINS, MOUNTAINS_END),
}


def table(data: str, outcomes: Sequence[Outcome]) -> list[str]:
    """Make a table with one line per claim: for how many seeds it holds, and the values of the first seed."""
    lines = [f"## {data}", "", "| figure | claim | holds for | measured with seed 0 |", "| --- | --- | --- | --- |"]
    for number, claim in enumerate(outcomes[0].claims):
        count = sum(outcome.claims[number].holds for outcome in outcomes)
        lines.append(f"| {claim.figure} | {claim.says} | {count} of {len(outcomes)} | {claim.measured} |")
    seconds = statistics.median(outcome.seconds for outcome in outcomes)
    return [*lines, "", f"{len(outcomes)} seeds, {seconds:.0f} s per seed (median).", ""]


def main() -> None:
    """Run the experiment and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(PAGES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--mnist", type=Path, help="Folder with the idx files of MNIST; without it, only the digits are used."
    )
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    run, head, tail = PAGES[options.name]
    image_sets: list[list[Images]] = [[digits(seed) for seed in range(options.seeds)]]
    if options.mnist:
        image_sets.append([idx(options.mnist, seed=seed, pool=2) for seed in range(options.seeds)])
    page: list[str] = []
    for images in image_sets:
        outcomes = []
        for seed, data in enumerate(images):
            outcomes.append(run(data, seed=seed))
            print(outcomes[-1], flush=True)
        page += table(outcomes[0].data, outcomes)
    text = head + "\n".join(page).rstrip() + "\n" + tail
    print(text)
    if options.write:
        options.write.write_text(text, "utf-8")


if __name__ == "__main__":
    main()

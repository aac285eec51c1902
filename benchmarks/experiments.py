"""The published experiments over seeds and data: writes docs/experiments-conditioning.md or -mountains.md."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from layerscope.experiments import conditioning, mountains
from layerscope.experiments.image_data import Images, digits, idx
from layerscope.experiments.outcome import Outcome

CONDITIONING = """# The layer-wise conditioning paper on small data

Written by `python benchmarks/experiments.py conditioning`; `layerscope.experiments.conditioning.run` is one
line of it. The claims are what the figures of Huang et al., "Layer-wise Conditioning Analysis in Exploring the
Learning Dynamics of DNNs" (ECCV 2020, arXiv 2002.10801) show, not their numbers: data, widths and lengths are
others here. F1: eight layers of 24, full batches. F2–3: twenty layers of 256 at their start. F4: five layers of
256. F5: five layers of 64 at their start. F6–7: a residual network of 110 layers, 60 steps of SGD with
Nesterov's momentum 0.9, rate 0.1, batches of 128.

"""
CONDITIONING_END = """
What does not hold in every run is a property of the run: the correlation of a block's λmax with that of the
whole matrix (F1), how long the loss stays at chance (F6). Idle units of a plain net at its start (F5) need a
small sample or a deeper net: of 9,500 images nearly every unit lets one pass and stops another. The test errors
of the paper's tables on CIFAR and ImageNet were not run.
"""


MOUNTAINS = """# Which mountain is a model on?

Written by `python benchmarks/experiments.py mountains`; `layerscope.experiments.mountains.run` is one line of
it. After "Investigating models with different initial values" (ElasticDL issue 179), which trained eight
ResNet-18s on CIFAR-10 for 30 epochs. Here a residual network of 8 layers, 300 steps of SGD with momentum 0.9,
rate 0.3, decay 5e-4, batches of 32; weights of two axes or more in the distances, batch-norm statistics
recomputed along the lines.

The published distances have a closed form: ResNet-18 in torch 1.0, whose batch-norm gains were drawn from U(0,
1), is expected 63.30 apart at the start (63.37 was measured), 56.63 with gains of 1. They fell to 42.8 by
epoch 30; weight decay shortens the weights, and relative to their lengths models of other starts are here as
far apart at the end as vectors that have nothing in common. A part of the plain of accuracy 0.1 around the
mountains may be one of batch-norm statistics that were mixed like weights: beyond the models, here, these have
variances below zero, and recomputed statistics lower every barrier.

"""
MOUNTAINS_END = """
Whether models of one start and other data orders are separated depends on how noisy the training is: with a
smaller rate they are not. The accuracy between two abysses rises in most runs only.
"""
PAGES = {
    "conditioning": (conditioning.run, CONDITIONING, CONDITIONING_END),
    "mountains": (mountains.run, MOUNTAINS, MOUNTAINS_END),
}


def table(data: str, outcomes: Sequence[Outcome]) -> list[str]:
    """A line per claim: in how many seeds it holds, and what was measured with the first."""
    lines = [f"## {data}", "", "| figure | shows | holds | measured, seed 0 |", "| --- | --- | --- | --- |"]
    for number, claim in enumerate(outcomes[0].claims):
        count = sum(outcome.claims[number].holds for outcome in outcomes)
        lines.append(f"| {claim.figure} | {claim.says} | {count} of {len(outcomes)} | {claim.measured} |")
    seconds = statistics.median(outcome.seconds for outcome in outcomes)
    return [*lines, "", f"{len(outcomes)} seeds, {seconds:.0f} s each (median).", ""]


def main() -> None:
    """Run and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(PAGES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--mnist", type=Path, help="Folder of MNIST's idx files; without it the digits alone.")
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

"""``layerscope baselines``: usual ranges of your own models, for --against."""

from __future__ import annotations

import json
from typing import Any

import click

from layerscope.cli.options import list_models
from layerscope.cli.output import check_outputs, destination, progress_bar


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="TARGET…")
@click.option("--output", "-o", metavar="FILE", help="Write the table to this file instead of stdout.")
@click.option(
    "--optimizer",
    default="",
    metavar="NAME",
    help="Optimizer that trained all of these models; its ranges are used by analyze --optimizer NAME.",
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed for all random numbers.")
@click.option("--quiet", "-q", is_flag=True, help="Do not show the progress bars.")
def baselines(targets: tuple[str, ...], optimizer: str, seed: int, quiet: bool, **options: Any) -> int:
    """Measure what is usual in models that you know to be good, for analyze --against.

    Each TARGET is a model file. The result is a JSON table: the middle 90 % of α, of the stable rank and of
    rand_distance for each role of layer (attention query, MLP up, 3×3 convolution, …). A role needs at least 10 layers.

    \b
    Examples:
      layerscope baselines good_1.safetensors good_2.safetensors -o ours.json
      layerscope analyze new.safetensors --against ours.json
    """
    from layerscope.analysis import analyze
    from layerscope.baseline_making import baselines_of

    check_outputs({**options, "format_": "json"}, targets)
    reports = []
    for target in targets:
        for model in list_models(target):
            with progress_bar(model, quiet) as progress:
                reports.append(analyze(model, randomize=True, seed=seed, progress=progress))
    table = baselines_of(reports, optimizer)
    with destination(options["output"]) as stream:
        stream.write(json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    return 0

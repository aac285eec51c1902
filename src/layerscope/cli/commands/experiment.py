"""``layerscope experiment``: repeat published experiments and report which results reproduce."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from layerscope.cli.output import check_outputs
from layerscope.errors import TargetNotFound, UnknownName, UsageError

FASHION_MNIST_FOLDER = "/usr/share/datasets/fashion-mnist"  # where Debian's dataset-fashion-mnist puts it
MNIST_FOLDERS = ("mnist", "data/mnist", "MNIST/raw", "data/MNIST/raw")  # the usual folders, and torchvision's


@click.command()
@click.argument("name")
@click.option(
    "--data",
    default="",
    metavar="digits|mnist|fashion|PATH",
    help="Training images: scikit-learn's 8×8 digits, MNIST or Fashion-MNIST from this machine, or a folder of idx "
    "files. For enough-data: a text file, by default one of Python's own. Nothing is downloaded.  [default: digits]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed for all random numbers of the first run.")
@click.option(
    "--seeds",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    help="Number of runs, with consecutive seeds that start at --seed.",
)
@click.option(
    "--framework",
    type=click.Choice(["torch", "keras"]),
    help="For overtrained-layer: framework that trains the networks.  [default: torch]",
)
@click.option(
    "--models",
    nargs=2,
    metavar="LESS MORE",
    help="For enough-data: compare these two model files, the first trained with less data, instead of training two.",
)
@click.option(
    "--engine",
    metavar="NAME",
    help="Engine that trains independent networks in parallel: threads or processes.  [default: one after another]",
)
@click.option(
    "--store",
    metavar="FILE.json",
    help="Save each finished part to this file; the same call resumes from it after an interruption.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--html", metavar="FILE", help="Write the result as one HTML page.")
@click.option("--output", "-o", metavar="FILE", help="Draw the published figures into a .png, .svg or .pdf file.")
@click.option("--quiet", "-q", is_flag=True, help="Do not show the progress bar.")
def experiment(name: str, data: str, seed: int, seeds: int, **options: Any) -> int:
    """Repeat a published experiment and compare its results.

    Prints the measured numbers beside the published ones, and which claims reproduce. NAME is one of:

    \b
      overtrained-layer  one layer trained with smaller and smaller batches
      enough-data        a model trained with little and with enough data
      rand-distance      the distance of layers from their shuffles during training
      conditioning       covariances and Fisher blocks of deep networks
      mountains          basins of models from different initial weights

    \b
    Examples:
      layerscope experiment rand-distance
      layerscope experiment overtrained-layer --seeds 5 --html layer.html
    """
    from layerscope.experiments import catalog, outcome
    from layerscope.views.page import writing
    from layerscope.views.plots import drawing

    module = catalog.load(name)
    if options["output"]:
        drawing.check_format(options["output"])
    check_outputs({"html": options["html"], "output": options["output"], "save": options["store"]}, [])
    chosen_options = _select_options(name, module, options)
    outcomes = []
    for run_seed in range(seed, seed + seeds):
        with _progress_bar(f"{name}, seed {run_seed}", options["quiet"]) as tick:
            arguments = (
                {**chosen_options, "progress": tick} if "progress" in _parameter_names(module) else chosen_options
            )
            outcomes.append(module.run(_load_data(name, data, run_seed), seed=run_seed, **arguments))
        if not options["as_json"]:
            click.echo(repr(outcomes[-1]))
    if options["as_json"]:
        click.echo(json.dumps([_replace_nan(outcome.to_dict()) for outcome in outcomes], allow_nan=False))
    elif seeds > 1:
        for figure_name, claim, count in outcome.spread(outcomes):
            click.echo(f"{count} of {seeds} seeds: {figure_name}: {claim}")
    if options["html"]:
        writing.write_page(outcomes[0], options["html"])
    if options["output"]:
        if not outcomes[0].pictures:
            raise UsageError(f"{name} draws no figure, so --output has nothing to write; use --html FILE instead")
        drawing.save_figure(outcomes[0].plot(), options["output"])
    return 0


def _select_options(name: str, module: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Select the options that were given, and check that this experiment takes them.

    :raises UsageError: the experiment does not take one of them.
    """
    chosen = {key: options[key] for key in ("framework", "models", "engine", "store") if options[key]}
    for key in chosen:
        if key not in _parameter_names(module):
            raise UsageError(f"the experiment {name} takes no --{key}")
    return chosen


def _parameter_names(module: Any) -> set[str]:
    """Names of the parameters of an experiment's ``run`` function."""
    import inspect

    return set(inspect.signature(module.run).parameters)


def _load_data(name: str, source: str, seed: int) -> Any:
    """Load the data set that --data names."""
    from layerscope.experiments.image_data import digits, idx

    if name == "enough-data":
        from layerscope.experiments.enough_data import text_of

        return text_of(source) if source else None
    if source in ("", "digits"):
        return digits(seed)
    pool = 2 if name in ("conditioning", "mountains") else 1
    folders = {"fashion": (FASHION_MNIST_FOLDER,), "mnist": MNIST_FOLDERS}.get(source, (source,))
    folder = next((path for path in folders if Path(path).exists()), None)
    if folder is None and source in ("fashion", "mnist"):
        hint = (
            "install Debian's dataset-fashion-mnist"
            if source == "fashion"
            else "name another folder with --data FOLDER"
        )
        raise TargetNotFound(f"no idx files of {source} in {', '.join(folders)}; {hint}")
    if folder is None:
        raise UnknownName("data set or folder", source, ("digits", "fashion", "mnist"))
    return idx(folder, seed=seed, pool=pool)


def _replace_nan(value: Any) -> Any:
    """Replace NaN, which JSON cannot represent, with null."""
    if isinstance(value, dict):
        return {key: _replace_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value


@contextmanager
def _progress_bar(title: str, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Show a progress bar, unless stderr is not a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)

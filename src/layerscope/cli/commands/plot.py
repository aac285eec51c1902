"""``layerscope plot``: draw one plot into a file."""

from __future__ import annotations

from typing import Any

import click

from layerscope.cli.options import (
    add_matrix_options,
    arrangement_options,
    layers_option,
    list_models,
    matrix_settings,
    selectors,
)
from layerscope.cli.output import check_outputs, exit_code, progress_bar
from layerscope.errors import UsageError

SCOPE_DESCRIPTIONS = {
    "layer": "One layer",
    "model": "One model",
    "models": "Several models",
    "matched": "One layer of several models",
    "run layer": "One layer during training",
    "run": "Whole training runs",
}


class PlotCommand(click.Command):
    """The plot command; its help ends with a list of all plots."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from layerscope import registry

        scope_by_name = {name: plugin.target.SCOPE for name, plugin in registry.plugins("plots").items()}
        with formatter.section("Plots"):
            formatter.write_dl(
                [
                    (description, ", ".join(name for name in scope_by_name if scope_by_name[name] == scope))
                    for scope, description in SCOPE_DESCRIPTIONS.items()
                ]
            )


@click.command(cls=PlotCommand)
@click.argument("name")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET…")
@click.option("--output", "-o", required=True, metavar="FILE", help="Draw the plot into this .png, .svg or .pdf file.")
@layers_option
@add_matrix_options
@click.option(
    "--min-evals",
    type=int,
    metavar="N",
    help="Fit a power law only to layers with at least N eigenvalues.  [default: 50]",
)
@click.option("--seed", type=int, metavar="N", help="Seed for all random numbers.  [default: 0]")
@click.option(
    "--engine", metavar="NAME", help="Engine that runs the layers: threads, serial or processes.  [default: threads]"
)
@click.option(
    "--jobs", "-j", type=int, metavar="N", help="Number of layers analyzed in parallel.  [default: one per core]"
)
@click.option("--quiet", "-q", is_flag=True, help="Do not show the progress bar.")
def plot(name: str, targets: tuple[str, ...], output: str, **options: Any) -> int:
    """Draw one plot of models, layers or training runs.

    NAME is one of the plots listed below. A plot of one layer is drawn for each layer that --layers selects, at
    most 12.

    \b
    Examples:
      layerscope plot esd model.safetensors -l fc1.weight -o esd.svg
      layerscope plot alpha_by_depth model.safetensors -o alpha.png
      layerscope plot learning_curves run.layerscope -l fc1.weight -o curves.png
    """
    from layerscope import analysis, registry
    from layerscope.persistence import report_file
    from layerscope.views.plots import drawing, pictures

    plugin = registry.find("plots", name)
    drawing.check_format(output)
    check_outputs({**options, "output": output}, targets)
    models = [model for target in targets for model in list_models(target)]
    changes = {key: options[key] for key in ("min_evals", "seed", "jobs") if options[key] is not None}
    changes |= matrix_settings(options)
    if hasattr(plugin.target, "NEEDS") and not all(report_file.is_report(model) for model in models):
        changes[plugin.target.NEEDS] = True
    arguments = {"layers": selectors(options["layers"]), "engine": options["engine"], **changes}
    with progress_bar(" ".join(targets), options["quiet"]) as progress:
        if all(report_file.is_history(model) for model in models):
            data: Any = [report_file.load_history(model) for model in models]
        elif len(models) == 1:
            data = analysis.analyze(models[0], progress=progress, **arrangement_options(options), **arguments)
        elif arrangement_options(options):
            raise click.UsageError(f"--base, --intra and --stacked take one TARGET, got {len(models)}")
        else:
            data = analysis.compare(*models, progress=progress, distances=name == "distances", **arguments)
    layers = (selectors(options["layers"]) or []) if isinstance(data, list) else []
    reasons = {picture.empty for picture in pictures.make_pictures(plugin.name, data, layers)}
    if "" not in reasons:
        reason = "; ".join(sorted(reasons)) or "no layer with the same name was analyzed in all models"
        raise UsageError(f"{name}: {reason}")
    drawing.save_figure(drawing.make_figure(plugin.name, data, layers), output)
    return 0 if isinstance(data, list) else exit_code(list(getattr(data, "reports", [data])), None)

"""``layerscope conditioning``: how each layer of a model of yours learns, from the functions that build it."""

from __future__ import annotations

from typing import Any

import click

from layerscope.choices import CONV_ROWS, CURVATURE_MATRICES, FISHER_LABELS
from layerscope.cli.options import SEVERITIES, VERDICT_FORMATS, add_output_options, layers_option, selectors
from layerscope.cli.output import check_outputs, exit_code, parse_columns, progress_bar, save_report, write_reports
from layerscope.cli.user_objects import call_or_get, import_object


@click.command()
@click.argument("model", metavar="PACKAGE.MODULE:FUNCTION")
@click.option(
    "--data", required=True, metavar="PACKAGE.MODULE:NAME", help="Batches (x, y), or a function that gives them."
)
@click.option(
    "--loss",
    default="cross_entropy",
    show_default=True,
    help="cross_entropy, mse (½‖f − y‖²), or PACKAGE.MODULE:FUNCTION.",
)
@click.option(
    "--fisher", type=click.Choice(FISHER_LABELS), default="empirical", show_default=True, help="Whose labels."
)
@click.option(
    "--conv", type=click.Choice(CONV_ROWS), default="expand", show_default=True, help="Rows of a convolution."
)
@click.option("--bias", is_flag=True, help="Count the bias as a weight of a constant input.")
@click.option("--exact", is_flag=True, help="The blocks themselves too, and the whole matrix.")
@click.option(
    "--curvature", "curvature_of", type=click.Choice(CURVATURE_MATRICES), help="λmax, trace and density beside it."
)
@click.option("--lr", type=float, metavar="RATE", help="Of the gradient descent that trains it; none for Adam.")
@click.option("--momentum", type=float, default=0.0, show_default=True)
@click.option("--nesterov", is_flag=True)
@layers_option
@click.option("--eval", "evaluate", is_flag=True, help="In evaluation mode.  [default: the mode that it is built in]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of labels drawn with --fisher mc.")
@click.option("--save", metavar="FILE.layerscope", help="Save the report; it can be analysed again without the model.")
@click.option("--html", metavar="FILE", help="Write the report as one HTML page.")
@click.option("--fail-on", type=click.Choice(SEVERITIES), help="Exit with 1 on findings of this severity or above.")
@click.option("--quiet", "-q", is_flag=True, help="No progress, no messages.")
@click.option("--verbose", "-v", is_flag=True, help="Every finding, and what was not measured.")
@add_output_options(VERDICT_FORMATS)
def conditioning(model: str, data: str, loss: str, **options: Any) -> int:
    """Measure how each layer of a live PyTorch MODEL learns. MODEL and --data are code of yours, which is run."""
    from layerscope.lenses.learning_statistics.conditioning import conditioning as measure_conditioning

    columns = parse_columns(options["columns"])
    check_outputs(options, [])
    network = call_or_get(model)
    if options["evaluate"]:
        network.eval()
    names = ("fisher", "conv", "bias", "exact", "curvature_of", "lr", "momentum", "nesterov", "seed")
    with progress_bar(model, options["quiet"]) as progress:
        report = measure_conditioning(
            network,
            call_or_get(data),
            import_object(loss) if ":" in loss else loss,
            layers=selectors(options["layers"]),
            progress=progress,
            **{name: options[name] for name in names},
        )
    problem = save_report(report.save, options["save"]) if options["save"] else None
    problem = (save_report(report.html, options["html"]) if options["html"] else None) or problem
    write_reports([report], options, columns)
    if problem is not None:
        raise problem
    return exit_code([report], options["fail_on"])

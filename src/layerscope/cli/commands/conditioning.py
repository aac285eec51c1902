"""``layerscope conditioning``: how well each layer of a live PyTorch model can learn."""

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
    "--data",
    required=True,
    metavar="PACKAGE.MODULE:NAME",
    help="Data: a pair (x, y), batches of pairs, or a function that returns either.",
)
@click.option(
    "--loss",
    default="cross_entropy",
    show_default=True,
    help="Loss function: cross_entropy, mse (½‖f − y‖², summed over the outputs), or a function "
    "PACKAGE.MODULE:FUNCTION of (outputs, labels) that returns the loss of each example.",
)
@click.option(
    "--forward",
    metavar="PACKAGE.MODULE:FUNCTION",
    help="Function (model, batch) → (output, labels), for models that are not called as model(x), or batches that are "
    "no pairs.",
)
@click.option(
    "--fisher",
    type=click.Choice(FISHER_LABELS),
    default="empirical",
    show_default=True,
    help="Labels that define the Fisher matrix: those of the data (empirical), labels sampled from the model (mc), "
    "or the expectation over all labels (exact).",
)
@click.option(
    "--conv",
    type=click.Choice(CONV_ROWS),
    default="expand",
    show_default=True,
    help="Inputs of a convolution: every patch (expand), the mean patch of an example (reduce), or the channels at "
    "every position (channels).",
)
@click.option("--bias", is_flag=True, help="Treat each bias as a weight with a constant input of 1.")
@click.option(
    "--exact",
    is_flag=True,
    help="Also compute each layer's Fisher block and the whole Fisher matrix without K-FAC's approximation (slower).",
)
@click.option(
    "--curvature",
    "curvature_of",
    type=click.Choice(CURVATURE_MATRICES),
    help="Also estimate the largest eigenvalue, the trace and the spectral density of this matrix of all parameters.",
)
@click.option(
    "--lr",
    type=float,
    metavar="RATE",
    help="Learning rate with which you train by SGD, to check whether steps are too large. Nothing is trained here; "
    "leave it out for Adam and other adaptive optimizers.",
)
@click.option(
    "--momentum",
    type=float,
    default=0.0,
    show_default=True,
    help="Momentum with which you train; used together with --lr.",
)
@click.option("--nesterov", is_flag=True, help="You train with Nesterov momentum; used together with --lr.")
@layers_option
@click.option(
    "--eval",
    "evaluate",
    is_flag=True,
    help="Switch the model to evaluation mode first.  [default: the mode in which it was built]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed for the labels that --fisher mc samples.")
@click.option(
    "--save",
    metavar="FILE.layerscope",
    help="Save the report to this file, which can be analyzed again without the model.",
)
@click.option("--html", metavar="FILE", help="Write the report as one HTML page.")
@click.option(
    "--fail-on", type=click.Choice(SEVERITIES), help="Exit with code 1 if there are findings of this severity or above."
)
@click.option("--quiet", "-q", is_flag=True, help="Do not show the progress bar.")
@click.option(
    "--verbose", "-v", is_flag=True, help="Show every finding, and everything that was not measured with the reason."
)
@add_output_options(VERDICT_FORMATS)
def conditioning(model: str, data: str, loss: str, **options: Any) -> int:
    """Measure how well each layer of a PyTorch model can learn.

    PACKAGE.MODULE:FUNCTION builds the model. It and --data are your own code, which this command imports and runs.
    Prints the largest eigenvalues and condition numbers of each layer's inputs, output gradients and Fisher block, and
    problems such as inactive units.

    \b
    Example:
      layerscope conditioning mine.nets:build --data mine.data:batches --fisher exact --lr 0.1
    """
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
            forward=import_object(options["forward"]) if options["forward"] else None,
            progress=progress,
            **{name: options[name] for name in names},
        )
    problem = save_report(report.save, options["save"]) if options["save"] else None
    problem = (save_report(report.html, options["html"]) if options["html"] else None) or problem
    write_reports([report], options, columns)
    if problem is not None:
        raise problem
    return exit_code([report], options["fail_on"])
